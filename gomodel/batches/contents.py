"""The contents of files, in the data directory: written beside, made durable, and only then given their name.

Decides where what lies. All of it blocks, and is called in threads. A name is an id of the gateway's own making.
"""

import fcntl
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

_MODE = 0o700
# An upload may take hours; what nobody has claimed after a day, nobody will.
_ORPHAN_S = 86400.0
_PIECE_BYTES = 1 << 20


class Contents:
    """The data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self._files = data_dir / "files"
        self._uploads = data_dir / "uploads"
        self._work = data_dir / "work"

    def prepare(self) -> None:
        """Make the directories that are missing. Raises OSError."""
        for each in (self.data_dir, self._files, self._uploads, self._work):
            each.mkdir(mode=_MODE, parents=True, exist_ok=True)

    def lock(self) -> int | None:
        """A descriptor that is the only one of its kind for this directory while it is open; None while another is."""
        fd = os.open(self.data_dir / "batcher.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd

    def path(self, file_id: str) -> Path:
        """Where the content of a file is."""
        return self._files / file_id

    def begin(self, name: str) -> BinaryIO:
        """A new file that is nobody's yet; `keep` or `discard` it."""
        return open(self._uploads / name, "xb", opener=_private)

    def keep(self, file: BinaryIO, file_id: str) -> None:
        """All is written: from here on it is the content of `file_id`, whatever becomes of the machine."""
        with file:
            file.flush()
            os.fsync(file.fileno())
        os.rename(file.name, self.path(file_id))
        sync_directory(self._files)

    @staticmethod
    def discard(file: BinaryIO) -> None:
        """It is not wanted."""
        try:
            file.close()
        except OSError:
            pass  # the disk is full, and what waited in memory is lost, as it should be
        Path(file.name).unlink(missing_ok=True)

    def remove(self, file_id: str) -> None:
        """Free a content; none is fine."""
        self.path(file_id).unlink(missing_ok=True)

    def segment(self, batch_id: str, epoch: int, kind: str) -> Path:
        """Where who holds a batch for the `epoch`-th time appends its lines; `kind` is output or error."""
        return self._work / f"{batch_id}.{epoch}.{kind}"

    def remove_segments(self, batch_id: str) -> None:
        """Free what a batch that is over has left."""
        for each in self._work.glob(f"{batch_id}.*"):
            each.unlink(missing_ok=True)

    def join(self, parts: Collection[tuple[Path, int]], file_id: str) -> int:
        """Make the content of `file_id` of the beginnings of `parts`, each so many bytes long; its size.

        A content that is there already, of a try that broke off, is replaced.
        """
        temporary = self._uploads / f"{file_id}.{os.getpid()}"
        size = 0
        try:
            with open(temporary, "wb", opener=_private) as target:
                for path, length in parts:
                    if length:
                        with open(path, "rb") as source:
                            _copy(source, target, length)
                        size += length
                self.keep(target, file_id)
        finally:
            temporary.unlink(missing_ok=True)
        return size

    def orphans(self) -> list[str]:
        """Names of contents that are old enough to be somebody's, or nobody's for ever; leftovers of uploads go."""
        before = time.time() - _ORPHAN_S
        for each in _older(self._uploads, before):
            (self._uploads / each).unlink(missing_ok=True)
        return _older(self._files, before)

    def old_work(self) -> list[str]:
        """Names of segments that were not written to for a day."""
        return _older(self._work, time.time() - _ORPHAN_S)

    def remove_work(self, name: str) -> None:
        """Free a segment."""
        (self._work / name).unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _copy(source: BinaryIO, target: BinaryIO, length: int) -> None:
    while length:
        piece = source.read(min(length, _PIECE_BYTES))
        if not piece:
            raise OSError(f"{source.name} is shorter than what was recorded of it")
        target.write(piece)
        length -= len(piece)


def _older(directory: Path, before: float) -> list[str]:
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            try:
                if entry.stat().st_mtime < before:
                    found.append(entry.name)
            except FileNotFoundError:
                pass
    return found
