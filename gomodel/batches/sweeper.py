"""Frees what nobody will ask for any more: contents of deleted and expired files, leftovers of crashes, old batches.

Decides when. A row goes after its content, so that a crash in between is swept up the next time.
"""

import asyncio
import logging
from time import monotonic, time

from .batch_store import BatchStore
from .contents import Contents
from .database import DatabaseAway
from .file_store import FileStore

_logger = logging.getLogger("gomodel")

_FILES_S = 60.0
_LEFTOVERS_S = 3600.0
# Batches are remembered this much longer than the files they made.
_MEMORY_S = 30 * 86400


class Sweeper:
    """`run` for ever; `wake` when a file was deleted."""

    def __init__(self, files: FileStore, batches: BatchStore, contents: Contents, file_ttl_s: float) -> None:
        self.file_ttl_s = file_ttl_s
        self._files = files
        self._batches = batches
        self._contents = contents
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """There may be something to free."""
        self._woken.set()

    async def run(self) -> None:
        """Sweep from time to time."""
        leftovers_at = 0.0
        while True:
            try:
                await self.files()
                if monotonic() >= leftovers_at:
                    await self.leftovers()
                    leftovers_at = monotonic() + _LEFTOVERS_S
            except DatabaseAway:
                pass
            except OSError as error:
                _logger.warning("Old files cannot be removed: %s", error.strerror)
            try:
                async with asyncio.timeout(_FILES_S):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()

    async def files(self) -> None:
        """Free the files that are deleted or have expired."""
        for file_id in await self._files.to_free():
            await asyncio.to_thread(self._contents.remove, file_id)
            await self._files.forget(file_id)

    async def leftovers(self) -> None:
        """Free what crashes have left, and forget batches of long ago."""
        for file_id in await self._files.unknown(await asyncio.to_thread(self._contents.orphans)):
            await asyncio.to_thread(self._contents.remove, file_id)
        old = await asyncio.to_thread(self._contents.old_work)
        wanted = await self._batches.unfinished({name.partition(".")[0] for name in old})
        for name in old:
            if name.partition(".")[0] not in wanted:
                await asyncio.to_thread(self._contents.remove_work, name)
        await self._batches.forget(int(time() - self.file_ttl_s - _MEMORY_S))
