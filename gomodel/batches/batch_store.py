"""What the database knows of batches, and whose turn it is to run each: leases.

A batch belongs to the process that holds its lease, which lasts LEASE_S from the last heartbeat by the database's own
clock. Each new holder gets another epoch, and whatever is written names it: who has lost the lease without noticing
changes nothing any more. Every method raises DatabaseAway.
"""

import json
from collections.abc import Collection
from time import time
from typing import Any

import sqlalchemy as sa

from .database import Database
from .file_store import insertion, visible
from .records import UNFINISHED, FileRecord, Progress, Work
from .schema import BATCHES, FILES

LEASE_S = 30.0

_SHOWN = [column for column in BATCHES.c if column.name not in ("done", "segments", "lease_until", "epoch")]
_NOT_YET = ("validating", "in_progress")


class BatchStore:
    """The table `batches`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, values: dict[str, Any], owner: str | None) -> Any:
        """Make a batch of a file that the caller sees; its row, or None without such a file of purpose `batch`."""
        now = int(time())
        there = sa.select(FILES.c.id).where(
            FILES.c.id == values["input_file_id"], FILES.c.purpose == "batch", visible(owner, now)
        )
        row = {
            **values,
            "owner": owner,
            "status": "validating",
            "created_at": now,
            "total": 0,
            "completed": 0,
            "failed": 0,
            "done": b"",
            "segments": "[]",
            "lease_until": 0.0,
            "epoch": 0,
        }
        async with self._database.begin() as connection:
            if (await connection.execute(there)).one_or_none() is None:
                return None
            await connection.execute(sa.insert(BATCHES).values(row))
            return (await connection.execute(sa.select(*_SHOWN).where(BATCHES.c.id == values["id"]))).one()

    async def get(self, batch_id: str, owner: str | None) -> Any:
        """The row of a batch that the caller sees, None without one."""
        async with self._database.begin() as connection:
            return (await connection.execute(sa.select(*_SHOWN).where(_mine(batch_id, owner)))).one_or_none()

    async def page(self, owner: str | None, *, limit: int, after: str | None) -> tuple[list[Any], bool]:
        """The rows of the batches older than `after`, newest first, and whether there are more than `limit`."""
        statement = sa.select(*_SHOWN)
        if owner is not None:
            statement = statement.where(BATCHES.c.owner == owner)
        if after is not None:
            statement = statement.where(BATCHES.c.id < after)
        async with self._database.begin() as connection:
            rows = (await connection.execute(statement.order_by(BATCHES.c.id.desc()).limit(limit + 1))).all()
        return list(rows[:limit]), len(rows) > limit

    async def cancel(self, batch_id: str, owner: str | None) -> Any:
        """Ask for the end of a batch; its row as it is then, whatever it was. None without such a batch."""
        mine = _mine(batch_id, owner)
        change = (
            sa.update(BATCHES)
            .where(mine, BATCHES.c.status.in_(_NOT_YET))
            .values(status="cancelling", cancelling_at=int(time()))
        )
        async with self._database.begin() as connection:
            await connection.execute(change)
            return (await connection.execute(sa.select(*_SHOWN).where(mine))).one_or_none()

    async def counts(self) -> dict[str, int]:
        """How many batches there are by status."""
        statement = sa.select(BATCHES.c.status, sa.func.count()).group_by(BATCHES.c.status)
        async with self._database.begin() as connection:
            return {status: count for status, count in (await connection.execute(statement)).all()}  # noqa: C416

    async def claim(self, held: Collection[str]) -> Work | None:
        """Take the lease of the oldest unfinished batch that nobody holds. None: there is none.

        `held`: those that this process has already, though their leases may have run out.
        """
        free = (
            sa.select(BATCHES)
            .where(BATCHES.c.status.in_(UNFINISHED), BATCHES.c.lease_until < self._database.now)
            .where(BATCHES.c.id.not_in(held))
            .order_by(BATCHES.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)  # SQLite has no such words: there a transaction is alone
        )
        async with self._database.begin() as connection:
            row = (await connection.execute(free)).one_or_none()
            if row is None:
                return None
            epoch = row.epoch + 1
            await connection.execute(
                sa.update(BATCHES)
                .where(BATCHES.c.id == row.id)
                .values(epoch=epoch, lease_until=self._database.now + LEASE_S)
            )
        return Work(
            id=row.id,
            owner=row.owner,
            status=row.status,
            endpoint=row.endpoint,
            input_file_id=row.input_file_id,
            expires_at=row.expires_at,
            output_ttl_s=row.output_ttl_s,
            model=row.model,
            total=row.total,
            completed=row.completed,
            failed=row.failed,
            usage=None if row.usage is None else json.loads(row.usage),
            done=row.done,
            segments=json.loads(row.segments),
            epoch=epoch,
        )

    async def renew(self, work: Work) -> str | None:
        """Keep the lease; the status that the batch has now. None: it belongs to somebody else."""
        return await self._change(work, lease_until=self._database.now + LEASE_S)

    async def free(self) -> None:
        """Take every lease from whoever holds it, all of whom are known to be dead."""
        async with self._database.begin() as connection:
            await connection.execute(sa.update(BATCHES).where(BATCHES.c.status.in_(UNFINISHED)).values(lease_until=0.0))

    async def release(self, work: Work) -> None:
        """Give the lease back: others may go on at once."""
        await self._change(work, lease_until=0.0)

    async def say(self, work: Work, paused: str | None) -> str | None:
        """Say why the batch does not move, or that it does. None: it belongs to somebody else."""
        return await self._change(work, paused=paused)

    async def begin(self, work: Work, total: int, model: str | None) -> str | None:
        """The file is good and its lines are run from now on. None: it belongs to somebody else."""
        return await self._change(
            work,
            only=("validating",),
            status="in_progress",
            in_progress_at=int(time()),
            total=total,
            model=model,
            done=bytes((total + 7) // 8),
        )

    async def refuse(self, work: Work, errors: list[dict[str, Any]]) -> str | None:
        """The file is not good. None: it belongs to somebody else."""
        return await self._change(
            work, only=("validating",), status="failed", failed_at=int(time()), errors=json.dumps(errors)
        )

    async def record(self, work: Work, progress: Progress) -> str | None:
        """So much is done; the status that the batch has now. None: it belongs to somebody else."""
        return await self._change(work, paused=None, **_columns(progress))

    async def finalize(self, work: Work) -> str | None:
        """All lines are done. None: it belongs to somebody else."""
        return await self._change(work, only=("in_progress",), status="finalizing", finalizing_at=int(time()))

    async def finish(
        self,
        work: Work,
        status: str,
        progress: Progress | None,
        output: FileRecord | None,
        errors: FileRecord | None,
    ) -> bool:
        """The batch is over, with these files, and all of that at once; whether it was still ours to say."""
        values: dict[str, Any] = {"status": status, f"{status}_at": int(time()), "paused": None}
        if progress is not None:
            values |= _columns(progress)
        for name, record in (("output_file_id", output), ("error_file_id", errors)):
            values[name] = None if record is None else record.id
        mine = sa.and_(BATCHES.c.id == work.id, BATCHES.c.epoch == work.epoch, BATCHES.c.status.in_(UNFINISHED))
        async with self._database.begin() as connection:
            if not (await connection.execute(sa.update(BATCHES).where(mine).values(values))).rowcount:
                return False
            for record in (output, errors):
                if record is not None:
                    await connection.execute(insertion(record))
        return True

    async def unfinished(self, ids: Collection[str]) -> set[str]:
        """Which of these batches are not over."""
        statement = sa.select(BATCHES.c.id).where(BATCHES.c.id.in_(ids), BATCHES.c.status.in_(UNFINISHED))
        async with self._database.begin() as connection:
            return set((await connection.execute(statement)).scalars())

    async def forget(self, before: int) -> None:
        """Forget batches that were over before that time."""
        old = sa.and_(BATCHES.c.created_at < before, BATCHES.c.status.not_in(UNFINISHED))
        async with self._database.begin() as connection:
            await connection.execute(sa.delete(BATCHES).where(old))

    async def _change(self, work: Work, only: tuple[str, ...] = UNFINISHED, **values: Any) -> str | None:
        mine = sa.and_(BATCHES.c.id == work.id, BATCHES.c.epoch == work.epoch)
        async with self._database.begin() as connection:
            await connection.execute(sa.update(BATCHES).where(mine, BATCHES.c.status.in_(only)).values(values))
            status: str | None = (await connection.execute(sa.select(BATCHES.c.status).where(mine))).scalar()
        return status if status in (*UNFINISHED, values.get("status")) else None


def _columns(progress: Progress) -> dict[str, Any]:
    return {
        "done": progress.done,
        "segments": json.dumps(progress.segments),
        "completed": progress.completed,
        "failed": progress.failed,
        "usage": None if progress.usage is None else json.dumps(progress.usage),
    }


def _mine(batch_id: str, owner: str | None) -> sa.ColumnElement[bool]:
    found = BATCHES.c.id == batch_id
    return found if owner is None else sa.and_(found, BATCHES.c.owner == owner)
