"""A file of JSON lines, written by a thread of its own and bounded: who says a line never waits for a disk.

Decides when a recording is full, and that it ends there: the beginning is kept. A disk that is full, or too slow, ends
it too; the reason is said once.
"""

import json
import os
import threading
from collections.abc import Callable, Mapping
from os import write
from pathlib import Path
from queue import SimpleQueue
from time import gmtime, strftime

# What may wait for the disk.
_BACKLOG_BYTES = 64 << 20

Line = Mapping[str, object]


class Journal:
    """`stopped` is called once, in that thread or in `say`, with the reason why nothing more is recorded."""

    def __init__(self, directory: Path, limit_bytes: int, stopped: Callable[[str], None]) -> None:
        """Makes the file, which nobody else may read. Raises OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        now = gmtime()
        self.started = strftime("%Y-%m-%dT%H:%M:%SZ", now)
        self.path = directory / f"{strftime('%Y%m%dT%H%M%SZ', now)}-{os.getpid()}.jsonl"
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
        self._limit_bytes = limit_bytes
        self._stopped = stopped
        self._queue: SimpleQueue[tuple[Line, int] | None] = SimpleQueue()
        self._said_bytes = self._taken_bytes = 0
        self.written_bytes = 0
        self.recording = True
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def say(self, line: Line, size: int = 0) -> None:
        """Write a line with about `size` bytes in it, soon; nothing once recording has ended."""
        if not self.recording:
            return
        self._said_bytes += size
        if self._said_bytes - self._taken_bytes > _BACKLOG_BYTES:
            self._end("the disk is too slow for what passes")
            return
        self._queue.put((line, size))

    def close(self) -> None:
        """Write what was said, and end."""
        self._queue.put(None)
        self._thread.join()
        os.close(self._fd)

    def _work(self) -> None:
        while (said := self._queue.get()) is not None:
            line, size = said
            self._taken_bytes += size
            if not self.recording:
                continue
            data = json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
            if self.written_bytes + len(data) > self._limit_bytes:
                self._end(f"the limit of {self._limit_bytes:,} bytes is reached")
                continue
            try:
                while data:
                    done = write(self._fd, data)
                    self.written_bytes += done
                    data = data[done:]
            except OSError as error:
                self._end(f"{self.path}: {error.strerror}")

    def _end(self, why: str) -> None:
        if self.recording:
            self.recording = False
            self._stopped(why)
