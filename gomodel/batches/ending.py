"""The end of a batch: what was not run is written off, the files are made, and all of it counts at once.

Decides what a line reads that was never run. Whoever is interrupted here leaves a batch that another can end.
"""

import asyncio
import logging
from functools import partial
from time import time

from .batch_store import BatchStore
from .contents import Contents
from .ids import FILE, new_id
from .lines import not_run
from .parameters import OUTPUT as OUTPUT_PURPOSE
from .patience import Patience
from .records import FileRecord, Work
from .results import ERROR, OUTPUT, LeaseLost, Results
from .window import Windows

_logger = logging.getLogger("gomodel")

_NOT_RUN = {
    "cancelled": ("batch_cancelled", "The batch was cancelled before this line was run."),
    "expired": ("batch_expired", "The batch expired before this line was run."),
}


class Ending:
    """That of one batch of which no line runs any more."""

    def __init__(
        self,
        work: Work,
        line_limit_bytes: int,
        batches: BatchStore,
        contents: Contents,
        results: Results,
        patience: Patience,
    ) -> None:
        self._work = work
        self._limit = line_limit_bytes
        self._batches = batches
        self._contents = contents
        self._results = results
        self._patience = patience

    async def end(self, why: str, file_ttl_s: int) -> None:
        """End it as `why` says, "" for one whose lines are done. Raises LeaseLost, OSError."""
        work, results, persist = self._work, self._results, self._patience.persist
        if work.status == "finalizing":
            why = ""
        elif why and work.total:
            await self._write_off(*_NOT_RUN[why])
        if sum(results.counts) != work.total:
            raise RuntimeError("lines are missing")
        if not why and work.status != "finalizing":
            found = await persist(lambda: self._batches.finalize(work))
            if found is None:
                raise LeaseLost
            if found == "cancelling":
                why = "cancelled"
        output = await persist(partial(self._join, OUTPUT, file_ttl_s))
        errors = await persist(partial(self._join, ERROR, file_ttl_s))
        status = why or "completed"
        over = await persist(lambda: self._batches.finish(work, status, results.progress(), output, errors))
        if not over:
            for record in (output, errors):
                if record is not None:
                    await asyncio.to_thread(self._contents.remove, record.id)
            raise LeaseLost
        await asyncio.shield(asyncio.to_thread(self._contents.remove_segments, work.id))
        _logger.info("Batch %s is %s: %d completed, %d failed", work.id, status, *results.counts)

    async def _write_off(self, code: str, message: str) -> None:
        """Every line that was not run gets a line that says why."""
        work, results = self._work, self._results
        path = self._contents.path(work.input_file_id)
        windows = await asyncio.to_thread(Windows, path, work.endpoint, self._limit, results.has)
        try:
            while window := await asyncio.to_thread(windows.next):
                for place, line in window:
                    results.add(place, ERROR, not_run(work.id, place + 1, line.custom_id, code, message))
                await self._patience.persist(results.save)
        finally:
            windows.close()

    async def _join(self, kind: str, file_ttl_s: int) -> FileRecord | None:
        parts = self._results.parts(kind)
        if not any(size for _, size in parts):
            return None
        work, now = self._work, int(time())
        file_id = new_id(FILE)
        size = await asyncio.to_thread(self._contents.join, parts, file_id)
        expires_at = now + (work.output_ttl_s or file_ttl_s)
        return FileRecord(file_id, work.owner, OUTPUT_PURPOSE, f"{work.id}_{kind}.jsonl", size, now, expires_at)
