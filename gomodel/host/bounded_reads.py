"""Reads from a socket in small pieces: a connection whose reader stalls holds one of them, not 256 KiB.

asyncio and uvloop read 256 KiB at once, which cannot be set. A protocol that brings its own buffer is read into that;
all connections of an event loop share one, since each empties it before another reads. It costs two calls more per
read, so a plain connection gets it when a first read shows that it moves more than events. Whoever can be done with a
read at once is lent the buffer itself, and nothing is copied out of it.
"""

import asyncio
import threading
from collections.abc import Callable

# Two system calls in place of one are not noticed beside what is done with the bytes, and most prompts come in one.
READ_BYTES = 128 << 10


class _Shared(threading.local):
    """The buffer of a thread, so of its event loop."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))


_shared = _Shared()


def shared_buffer(size: int = READ_BYTES) -> memoryview:
    """What this thread's connections read into; what is in it is to be copied in the same call of the loop's."""
    return _shared.view[:size]


def bound_reads(
    transport: asyncio.BaseTransport, protocol: asyncio.Protocol, lend: Callable[[memoryview], bool] | None = None
) -> None:
    """Give `protocol` from now on no more than READ_BYTES at once.

    `lend` is shown each read first, as it stands in the buffer, and says whether it is done with it.
    """
    transport.set_protocol(_BoundedReads(protocol, lend))


class _BoundedReads(asyncio.BufferedProtocol):
    """Between a plain transport and the protocol it is for."""

    __slots__ = ("_lend", "_protocol", "_view")

    def __init__(self, protocol: asyncio.Protocol, lend: Callable[[memoryview], bool] | None) -> None:
        self._protocol = protocol
        self._lend = lend
        self._view = shared_buffer()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        data = self._view[:nbytes]
        if self._lend is None or not self._lend(data):
            self._protocol.data_received(bytes(data))

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()
