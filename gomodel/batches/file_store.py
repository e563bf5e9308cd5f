"""What the database knows of files.

A caller sees its own files alone; `owner` None is a caller to whom all belong. Every method raises DatabaseAway.
"""

from time import time
from typing import Any

import sqlalchemy as sa

from .database import Database
from .records import UNFINISHED, FileRecord
from .schema import BATCHES, FILES

_COLUMNS = (FILES.c.id, FILES.c.owner, FILES.c.purpose, FILES.c.filename, FILES.c.bytes, FILES.c.created_at)


def visible(owner: str | None, now: int) -> sa.ColumnElement[bool]:
    """Which files a caller sees."""
    shown = sa.and_(~FILES.c.deleted, sa.or_(FILES.c.expires_at.is_(None), FILES.c.expires_at > now))
    return shown if owner is None else sa.and_(shown, FILES.c.owner == owner)


def insertion(record: FileRecord) -> sa.Insert:
    """The statement that makes a file known."""
    return sa.insert(FILES).values(
        id=record.id,
        owner=record.owner,
        purpose=record.purpose,
        filename=record.filename,
        bytes=record.bytes,
        created_at=record.created_at,
        expires_at=record.expires_at,
        deleted=False,
    )


class FileStore:
    """The table `files`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, record: FileRecord) -> None:
        """Make a file known whose content is kept already."""
        async with self._database.begin() as connection:
            await connection.execute(insertion(record))

    async def get(self, file_id: str, owner: str | None) -> FileRecord | None:
        """A file that the caller sees."""
        statement = sa.select(*_COLUMNS, FILES.c.expires_at).where(FILES.c.id == file_id, visible(owner, int(time())))
        async with self._database.begin() as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else FileRecord(*row)

    async def page(
        self, owner: str | None, *, limit: int, after: str | None, purpose: str | None, ascending: bool
    ) -> tuple[list[FileRecord], bool]:
        """The files behind `after`, and whether there are more than `limit`."""
        statement = sa.select(*_COLUMNS, FILES.c.expires_at).where(visible(owner, int(time())))
        if purpose is not None:
            statement = statement.where(FILES.c.purpose == purpose)
        if after is not None:
            statement = statement.where(FILES.c.id > after if ascending else FILES.c.id < after)
        order = FILES.c.id if ascending else FILES.c.id.desc()
        async with self._database.begin() as connection:
            rows = (await connection.execute(statement.order_by(order).limit(limit + 1))).all()
        return [FileRecord(*row) for row in rows[:limit]], len(rows) > limit

    async def delete(self, file_id: str, owner: str | None) -> bool:
        """Hide a file for good; whether the caller had it. Its content is `to_free` from now on."""
        statement = sa.update(FILES).where(FILES.c.id == file_id, visible(owner, int(time()))).values(deleted=True)
        async with self._database.begin() as connection:
            return bool((await connection.execute(statement)).rowcount)

    async def to_free(self) -> list[str]:
        """Files that are deleted or have expired, and that no batch will read any more."""
        gone = sa.or_(FILES.c.deleted, FILES.c.expires_at <= int(time()))
        read = sa.select(BATCHES.c.id).where(BATCHES.c.input_file_id == FILES.c.id, BATCHES.c.status.in_(UNFINISHED))
        async with self._database.begin() as connection:
            return list((await connection.execute(sa.select(FILES.c.id).where(gone, ~read.exists()))).scalars())

    async def forget(self, file_id: str) -> None:
        """The content of a file is freed."""
        async with self._database.begin() as connection:
            await connection.execute(sa.delete(FILES).where(FILES.c.id == file_id))

    async def unknown(self, names: list[str]) -> list[str]:
        """Which of these the table does not have."""
        async with self._database.begin() as connection:
            known: set[Any] = set()
            for at in range(0, len(names), 500):
                some = sa.select(FILES.c.id).where(FILES.c.id.in_(names[at : at + 500]))
                known.update((await connection.execute(some)).scalars())
        return [name for name in names if name not in known]
