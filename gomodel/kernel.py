"""What the kernel knows of a connection and asyncio does not tell, and the one thing asyncio does not ask of it.

Decides nothing. Leans on Linux (`TIOCOUTQ`, `POLLRDHUP`).
"""

import asyncio
import fcntl
import select
import socket
import struct
import sys
import termios

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
    """Bytes the peer has not confirmed, the transport's and the kernel's; 0 when the transport has none.

    Below a TLS transport is another, which nobody can ask; it has none when the kernel has none.
    """
    if transport is None:
        return 0
    left = transport.get_write_buffer_size()
    if left or transport.get_extra_info("sslcontext") is not None:
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            left += int.from_bytes(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    return left


def reset_on_close(transport: asyncio.Transport) -> None:
    """Make the close of a TCP connection a reset, which does not wait behind what the kernel still holds."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
