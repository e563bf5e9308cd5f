"""A line between two processes, read and written by an event loop."""

import asyncio
from collections.abc import Callable
from typing import Any

from .orders import Line, Message


class LineInLoop:
    """`hear` is called with every message, and `lost` once, when the other end is gone."""

    def __init__(self, line: Line, hear: Callable[[Message], object], lost: Callable[[], object]) -> None:
        self._line = line
        self._hear = hear
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._fd = line.fileno()
        self._loop.add_reader(self._fd, self._read)

    def send(self, *message: Any) -> None:
        """Tell the other end something, while it is there."""
        if self._line.open:
            self._line.send(*message)
            self._write_on()

    def release(self) -> None:
        """Hear no more. The line stays open."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1

    def _read(self) -> None:
        for message in self._line.receive():
            self._hear(message)
        if not self._line.open and self._fd >= 0:
            self.release()
            self._line.close()
            self._lost()

    def _write_on(self) -> None:
        if self._fd < 0:
            return
        if self._line.waiting:
            self._loop.add_writer(self._fd, self._flush)
        else:
            self._loop.remove_writer(self._fd)

    def _flush(self) -> None:
        self._line.flush()
        self._write_on()
