"""The note beside the answers of `gomodel batch`: which batch runs for them, at which gateway, and who holds it.

Decides that one command at a time writes a file of answers: the note is locked (flock(2)) for as long as the command
runs, so that a process that was killed holds nothing. Blocks.
"""

import fcntl
import json
import os
from pathlib import Path
from typing import Any

MOST_BYTES = 1 << 16


class BadNote(Exception):
    """The note is somebody else's, or held by another process; the message is for whoever typed the command."""


class Note:
    """A context manager: taken on entry, removed on exit unless it names a batch."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._said: dict[str, Any] = {}
        self._fd = -1

    def __enter__(self) -> "Note":
        """Raises BadNote, OSError."""
        while True:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_there():
                    self._said = self._read()
                    self._write(self._said.get("batch"), self._said.get("gateway"))
                    return self
            except BlockingIOError:
                holder = self._read().get("pid")
                os.close(self._fd)
                raise BadNote(
                    f"another gomodel batch (process {holder}) is writing these answers; {self.path} is its note"
                ) from None
            except BaseException:
                os.close(self._fd)
                raise
            os.close(self._fd)  # of one who has just ended, and removed it

    def __exit__(self, *exc: object) -> None:
        try:
            if self.batch is None:
                self.path.unlink(missing_ok=True)
        finally:
            os.close(self._fd)

    @property
    def batch(self) -> str | None:
        """The id of the batch that runs."""
        return self._said.get("batch")

    @property
    def gateway(self) -> str | None:
        """The base URL where it runs."""
        return self._said.get("gateway")

    def keep(self, batch: str, gateway: str) -> None:
        """Name a batch, synced: whoever comes next waits for it. Raises OSError."""
        self._write(batch, gateway)

    def forget(self) -> None:
        """Name none any more. Raises OSError."""
        self._write(None, None)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _read(self) -> dict[str, Any]:
        content = os.pread(self._fd, MOST_BYTES, 0)
        try:
            said = json.loads(content or b"{}")
            if content and not {"batch", "gateway"} <= said.keys():
                raise ValueError
        except (ValueError, AttributeError, RecursionError):
            raise BadNote(f"{self.path} is not what this command has written; move it away") from None
        return said  # type: ignore[no-any-return]

    def _write(self, batch: str | None, gateway: str | None) -> None:
        self._said = {"batch": batch, "gateway": gateway, "pid": os.getpid()}
        content = json.dumps(self._said).encode()
        os.pwrite(self._fd, content, 0)
        os.ftruncate(self._fd, len(content))
        os.fsync(self._fd)
