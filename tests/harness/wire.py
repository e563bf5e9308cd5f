"""One end of a real connection, driven by hand: reads only when asked, sends exactly what it is told.

Decides how a peer's end is told apart (FIN or reset), and when it happened, also while nothing reads. Knows nothing
of HTTP. Linux only: it leans on EPOLLRDHUP.
"""

import asyncio
import contextlib
import ctypes
import select
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Generator
from errno import EPIPE
from pathlib import Path
from typing import Any

# Far beyond anything a test waits for; reaching it is a failure, never a way to synchronise.
SAFETY_S = 30.0
# A sender that made no progress for this long is taken to be stopped by backpressure.
BLOCKED_S = 0.25
PIECE = 65536
_SO_ATTACH_FILTER = 26  # Linux; `socket` does not name it
# All connected sockets that are the harness's own, to tell them from those of the code under test.
HARNESS_SOCKETS: set[socket.socket] = set()


def _most(kind: str) -> int:
    """The most bytes the kernel gives a TCP socket to receive ("rmem") or send ("wmem"); it grows there by itself."""
    return int(Path(f"/proc/sys/net/ipv4/tcp_{kind}").read_text().split()[2])


# More than the kernel holds of one way through a gateway (sent, received, sent on) with room for what the gateway
# holds: less may be taken whole, and nobody would ever be held back.
FLOOD_BYTES = _most("rmem") + 2 * _most("wmem") + (8 << 20)


class HarnessTimeout(AssertionError):
    """Something a test waited for did not happen."""


class PeerGone(Exception):
    """The other side closed or reset the connection before the operation was over."""


@contextlib.asynccontextmanager
async def deadline(what: str, timeout_s: float = SAFETY_S) -> AsyncIterator[None]:
    """Fails the test, naming what was awaited, when the block takes longer than `timeout_s`."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError:
        raise HarnessTimeout(f"waited {timeout_s} s for {what}") from None


async def let_peers_run() -> None:
    """Lets everything else on the loop, I/O included, take notice of what was just done."""
    for _ in range(3):
        await asyncio.sleep(0)


class Signal:
    """Something that happens once: `await` gives its value, `at` the monotonic time when it did."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._loop = asyncio.get_running_loop()
        self._future: asyncio.Future[Any] = self._loop.create_future()
        self.at: float | None = None

    def set(self, value: Any = True) -> None:
        """The first value stays."""
        if not self._future.done():
            self.at = time.monotonic()
            self._future.set_result(value)

    @property
    def done(self) -> bool:
        return self._future.done()

    @property
    def value(self) -> Any:
        """The value, or None as long as it has not happened."""
        return self._future.result() if self._future.done() else None

    async def wait(self, timeout_s: float = SAFETY_S) -> Any:
        async with deadline(self._what, timeout_s):
            return await asyncio.shield(self._future)

    def __await__(self) -> Generator[Any, None, Any]:
        return self.wait().__await__()


class Wire:
    """A connected stream socket. `ended` becomes "fin", "reset" or, when this side closed first, "local"."""

    def __init__(self, sock: socket.socket, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._wakers: set[asyncio.Future[None]] = set()
        self.name = name
        self.received = bytearray()
        self.segments: list[bytes] = []
        self.sent_bytes = 0
        self._waiting_to_send = False
        self.ended = Signal(f"the end of {name}")
        self.shut = False
        self.closed = False
        HARNESS_SOCKETS.add(sock)
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # The socket itself is watched only while somebody reads; the end has to be noticed in between as well.
        self._watch = select.epoll()
        self._watch.register(sock, select.EPOLLRDHUP)
        self._loop.add_reader(self._watch.fileno(), self._on_end)

    def _on_end(self) -> None:
        for _, mask in self._watch.poll(0):
            # A reset that only answers our own bytes after the peer's FIN reads EPIPE: the peer had ended before.
            was_reset = mask & select.EPOLLERR and self._error() != EPIPE
            self.ended.set("reset" if was_reset else "fin")
            self._unwatch()
            return

    def _error(self) -> int:
        return self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def _unwatch(self) -> None:
        if not self._watch.closed:
            self._loop.remove_reader(self._watch.fileno())
            self._watch.close()

    def vanish(self) -> None:
        """The host of this side is gone: whatever comes is dropped in the kernel, unanswered; Linux only."""
        drop = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0))  # BPF_RET, 0 bytes
        program = struct.pack("@HP", 1, ctypes.addressof(drop))
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)

    async def _ready(self, add: Callable[[int, Callable[[], None]], object], remove: Callable[[int], object]) -> None:
        waker = self._loop.create_future()
        fd = self._sock.fileno()
        add(fd, lambda: waker.done() or waker.set_result(None))
        self._wakers.add(waker)
        try:
            await waker
        finally:
            self._wakers.discard(waker)
            if not self.closed:
                remove(fd)

    async def read(self, limit: int = PIECE) -> bytes:
        """The next bytes, at most `limit`; b"" once the connection ended, then see `ended`."""
        if data := await self._receive(limit):
            self._record(data)
        return data

    def _record(self, data: bytes) -> None:
        self.received += data
        self.segments.append(data)

    async def _receive(self, limit: int) -> bytes:
        await asyncio.sleep(0)
        while not self.closed:
            try:
                data = self._sock.recv(limit)
            except BlockingIOError:
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                continue
            except ConnectionError:
                self.ended.set("reset")
                return b""
            if not data:
                self.ended.set("fin")
            return data
        return b""

    async def send(self, data: bytes) -> None:
        """Hands everything to the kernel, waiting while the peer does not read; PeerGone when it never will."""
        await self._transmit(data)

    async def _transmit(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self.closed:
                raise PeerGone(f"{self.name} is closed on this side")
            try:
                sent = self._sock.send(view[:PIECE])
            except BlockingIOError:
                self._waiting_to_send = True
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
                self._waiting_to_send = False
                continue
            except BrokenPipeError:
                self.ended.set("fin")
                raise PeerGone(f"the other side of {self.name} closed") from None
            except ConnectionError:
                self.ended.set("reset")
                raise PeerGone(f"the other side of {self.name} reset") from None
            self.sent_bytes += sent
            view = view[sent:]
            if view:
                await asyncio.sleep(0)

    async def blocked(self) -> int:
        """Waits until a send is stopped by backpressure; returns how many bytes the kernel took until then."""
        async with deadline(f"a send on {self.name} to block"):
            before = -1
            while not self._waiting_to_send or self.sent_bytes != before:
                before = self.sent_bytes
                await asyncio.sleep(BLOCKED_S)
                if self.ended.done:
                    raise AssertionError(f"{self.name} ended ({self.ended.value}) after {self.sent_bytes} bytes")
        return before

    def half_close(self) -> float:
        """Sends FIN and keeps reading; returns the monotonic time."""
        if not self.shut and not self.closed:
            self.shut = True
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # the peer's reset came first; there is nobody to tell
        return time.monotonic()

    def close(self) -> float:
        """Closes as close(2) does: FIN, or a reset when received bytes were never read."""
        if not self.closed:
            self._on_end_if_pending()
            self.ended.set("local")
            self.closed = True
            self._unwatch()
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            HARNESS_SOCKETS.discard(self._sock)
            for waker in self._wakers:
                if not waker.done():
                    waker.set_result(None)
        return time.monotonic()

    def _on_end_if_pending(self) -> None:
        if not self._watch.closed:
            self._on_end()

    def reset(self) -> float:
        """Sends RST; bytes the peer's kernel has not taken yet are lost. Returns the monotonic time."""
        if not self.closed:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return self.close()
