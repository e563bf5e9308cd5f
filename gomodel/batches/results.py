"""What a batch has brought so far: lines of results and errors, appended to segments and made to count together.

Decides the order that makes a crash harmless: bytes are written and synced first, then one transaction says that they
count; whoever goes on reads no further than that. Each holder of a batch appends to segments of its own, so one that
was taken for dead cannot write into those of its successor.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from . import usage
from .batch_store import BatchStore
from .contents import Contents
from .records import Progress, Work

OUTPUT, ERROR = "output", "error"
_KINDS = (OUTPUT, ERROR)


class LeaseLost(Exception):
    """The batch belongs to somebody else by now."""


class Results:
    """Those of one batch, for as long as this process holds it."""

    def __init__(
        self, work: Work, contents: Contents, batches: BatchStore, counted: Callable[[str, int], None]
    ) -> None:
        """`counted` is told how many lines came to count, and whether as completed or failed."""
        self._work = work
        self._contents = contents
        self._batches = batches
        self._counted = counted
        self._done = bytearray(work.done)
        self._before = [list(each) for each in work.segments]
        self._completed = work.completed
        self._failed = work.failed
        self._usage = work.usage
        # Written and synced by this process, and how many of these bytes that is.
        self._files: dict[str, BinaryIO] = {}
        self._sizes = dict.fromkeys(_KINDS, 0)
        # Not written yet.
        self._waiting: dict[str, list[bytes]] = {kind: [] for kind in _KINDS}
        self._marks: list[tuple[int, str, Any]] = []
        self.waiting_bytes = 0
        # Written, and not recorded yet.
        self._unrecorded: list[tuple[int, str, Any]] = []

    def has(self, index: int) -> bool:
        """Whether line `index`, the first being 0, is done."""
        return bool(self._done[index >> 3] & (1 << (index & 7)))

    @property
    def counts(self) -> tuple[int, int]:
        """How many lines count as completed and as failed."""
        return self._completed, self._failed

    def add(self, index: int, kind: str, line: bytes, said: Any = None) -> None:
        """A line is done; `said` is the JSON of its answer. It counts from the next `save` on."""
        self._waiting[kind].append(line)
        self._marks.append((index, kind, said.get("usage") if isinstance(said, dict) else None))
        self.waiting_bytes += len(line)

    async def save(self) -> str:
        """Make all that was added count; the status of the batch. Raises OSError, DatabaseAway, LeaseLost.

        After the first two nothing is lost: the next call tries again.
        """
        if self._marks:
            pieces = {kind: b"".join(lines) for kind, lines in self._waiting.items()}
            marks = len(self._marks)
            taken = {kind: len(lines) for kind, lines in self._waiting.items()}
            await asyncio.shield(asyncio.to_thread(self._write, pieces))
            for kind, count in taken.items():
                del self._waiting[kind][:count]
                self._sizes[kind] += len(pieces[kind])
                self.waiting_bytes -= len(pieces[kind])
            self._unrecorded += self._marks[:marks]
            del self._marks[:marks]
        progress = self.progress(self._unrecorded)
        status = await self._batches.record(self._work, progress)
        if status is None:
            raise LeaseLost
        for kind in ("completed", "failed"):
            before = getattr(self, f"_{kind}")
            if more := getattr(progress, kind) - before:
                self._counted(kind, more)
        self._done = bytearray(progress.done)
        self._completed, self._failed, self._usage = progress.completed, progress.failed, progress.usage
        self._unrecorded = []
        return status

    def progress(self, marks: list[tuple[int, str, Any]] = []) -> Progress:  # noqa: B006 - never changed
        """What counts once it is recorded: what counts already, and the lines of `marks`."""
        done, completed, failed, used = bytearray(self._done), self._completed, self._failed, self._usage
        for index, kind, said in marks:
            done[index >> 3] |= 1 << (index & 7)
            if kind == OUTPUT:
                completed += 1
                used = usage.add(used, {"usage": said})
            else:
                failed += 1
        segments = [*self._before, [self._work.epoch, *(self._sizes[kind] for kind in _KINDS)]]
        return Progress(bytes(done), segments, completed, failed, used)

    def _write(self, pieces: dict[str, bytes]) -> None:
        """Write behind what is there and sync; what a try that failed has left is overwritten. In a thread."""
        for kind, piece in pieces.items():
            if piece:
                file = self._files.get(kind)
                if file is None:
                    path = self._contents.segment(self._work.id, self._work.epoch, kind)
                    file = self._files[kind] = open(path, "wb", buffering=0)  # noqa: SIM115 - closed by close
                _write_all(file.fileno(), piece, self._sizes[kind])
                os.fsync(file.fileno())

    def parts(self, kind: str) -> list[tuple[Path, int]]:
        """The segments of one kind, and how much of each counts; after a `save`."""
        at = 1 + _KINDS.index(kind)
        segments = self.progress().segments
        return [(self._contents.segment(self._work.id, each[0], kind), each[at]) for each in segments]

    def close(self) -> None:
        """Close the files. In a thread."""
        for file in self._files.values():
            file.close()


def _write_all(fd: int, piece: bytes, at: int) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(fd, view, at)
        at += written
        view = view[written:]
