"""What the kernel knows of a connection and asyncio does not tell, and what asyncio does not ask of it.

Decides nothing. Leans on Linux (`TIOCOUTQ`, `POLLRDHUP`).
"""

import asyncio
import fcntl
import select
import socket
import struct
import sys
import termios

# macOS has another name for the first and lacks the last.
_KEEPIDLE: int | None = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
_KEEPINTVL: int | None = getattr(socket, "TCP_KEEPINTVL", None)
_KEEPCNT: int | None = getattr(socket, "TCP_KEEPCNT", None)
_USER_TIMEOUT: int | None = getattr(socket, "TCP_USER_TIMEOUT", None)
# Whether an accepted connection has the options of its listener.
INHERITED = sys.platform == "linux"
_RESET = struct.pack("ii", 1, 0)


def peer_closed(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed its side; known before anything is read, so also while reading is paused."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return True
    poll = select.poll()
    poll.register(sock.fileno(), select.POLLRDHUP)
    return bool(poll.poll(0))


def unsent(transport: asyncio.Transport | None) -> int:
    """Bytes the peer has not confirmed, the transport's and the kernel's; 0 when the transport has none."""
    if transport is None:
        return 0
    left = transport.get_write_buffer_size()
    if left:
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            left += _unconfirmed(sock)
    return left


def confirmed(transport: asyncio.Transport, sent_bytes: int) -> bool:
    """Whether the peer has confirmed any of the last `sent_bytes` that were written, so has not closed before them.

    Not of a connection that is lost already, of which nothing is left to be confirmed.
    """
    if transport.is_closing() or peer_closed(transport):
        return False
    left = transport.get_write_buffer_size()
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        left += _unconfirmed(sock)
    return left < sent_bytes


def _unconfirmed(sock: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)


def reset_on_close(transport: asyncio.BaseTransport) -> None:
    """Make the close of a TCP connection a reset, which does not wait behind what the kernel still holds."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


def fail_when_silent(sock: socket.socket | None, within_s: float) -> None:
    """Let a TCP connection fail when the peer's host has answered nothing for `within_s`, asked or sent to.

    Linux lets the connections of a listener inherit it (`INHERITED`), so that none of them has to be told.

    The kernel asks after a third of that (SO_KEEPALIVE). What was sent to a host that is gone would be repeated for a
    quarter of an hour; a peer that takes no byte for so long counts as gone as well (TCP_USER_TIMEOUT).
    """
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    # The sockets of event loops are not the real ones: uvloop's makes one for each option.
    real = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.fileno())
    try:
        real.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (_KEEPIDLE, max(1, int(within_s / 3))),
            (_KEEPINTVL, max(1, int(within_s / 9))),
            (_KEEPCNT, 6),
            (_USER_TIMEOUT, int(within_s * 1000)),
        ):
            if option is not None:
                real.setsockopt(socket.IPPROTO_TCP, option, value)
    finally:
        real.detach()
