"""The sockets gomodel listens on: bound from the configuration, before any event loop exists, or taken over.

Decides addresses, the mode and the life of a unix socket's file, and what a failure to bind is called. Knows nothing
of connections, nor of who inherits a socket.
"""

import errno
import os
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..config.registry import ANY_HOST, LOOPBACK_HOST
from ..config.settings import Config
from .taken_over import TakenOver

# asyncio's 100 and aiohttp's 128 make a burst of new clients wait a second for a SYN retry.
BACKLOG = 4096
# Owner and group: a reverse proxy on the same host shares a group with the gateway. Never the world.
UNIX_SOCKET_MODE = 0o660


class ListenError(Exception):
    """An address cannot be listened on; the message is one line for the operator."""


@dataclass(slots=True)
class Listener:
    """A bound socket. `file` is (path, device, inode) of the unix socket's file when it is ours to remove, which it is
    not while another process still serves on it (`lent`).
    """

    sock: socket.socket
    file: tuple[str, int, int] | None = None
    tls: bool = False
    lent: bool = False

    @property
    def port(self) -> int | None:
        """The bound TCP port."""
        return int(self.sock.getsockname()[1]) if self.sock.family != socket.AF_UNIX else None

    @property
    def bound(self) -> tuple[str, int]:
        """The bound TCP address, as numbers."""
        host, port = self.sock.getsockname()[:2]
        return str(host), int(port)

    @property
    def address(self) -> str:
        """Where it listens, as an operator writes it: a URL, or `unix:` and a path."""
        name = self.sock.getsockname()
        if self.sock.family == socket.AF_UNIX:
            text = name if isinstance(name, str) else os.fsdecode(name)
            return f"unix:{'@' + text[1:] if text.startswith(chr(0)) else text}"
        host = f"[{name[0]}]" if self.sock.family == socket.AF_INET6 else name[0]
        return f"{'https' if self.tls else 'http'}://{host}:{name[1]}"

    def remove_file(self) -> None:
        """Remove the unix socket's file, unless another process has its own there since, or it is `lent`."""
        if self.file is None or self.lent:
            return
        (path, *identity), self.file = self.file, None
        try:
            found = os.stat(path)
            if [found.st_dev, found.st_ino] == identity:
                os.unlink(path)
        except OSError:
            pass  # the directory is gone or closed to us; there is nobody to tell at the end

    def close(self) -> None:
        """Close the socket and remove its file."""
        self.remove_file()
        self.sock.close()


def bind(config: Config, *, reuse_port: bool = False, held: TakenOver | None = None) -> list[Listener]:
    """The sockets of HOST, PORT and GOMODEL_UNIX_SOCKET, bound but not listening yet; contract section 1.

    `reuse_port`: others may be bound beside them with `beside`. Those that are among `held` are taken from there, and
    may be several for one TCP address; the file of a unix socket among them is `lent`. Raises ListenError, with nothing
    left bound.
    """
    held = held or TakenOver()
    listeners: list[Listener] = []
    try:
        if config.unix_socket is not None:
            found = held.unix(config.unix_socket)
            if found is not None and found.file is not None:
                listeners.append(Listener(found.sock, file=(config.unix_socket, *found.file), lent=True))
            else:
                listeners.append(_bind_unix(config.unix_socket))
        if config.port is not None:
            listeners += _bind_tcp(config, reuse_port, held)
    except BaseException:
        for each in listeners:
            each.close()
        raise
    return listeners


def adopt(sockets: list[socket.socket], config: Config) -> list[Listener]:
    """Listeners of sockets that somebody else bound and cleans up."""
    return [Listener(each, tls=_is_tls(each, config)) for each in sockets]


def listen(listeners: Iterable[Listener]) -> None:
    """Let the kernel take connections on all of them, which wait to be accepted. Raises ListenError."""
    for each in listeners:
        try:
            each.sock.listen(BACKLOG)
        except OSError as error:
            raise ListenError(f"Cannot listen on {each.address}: {_reason(error)}") from None


def beside(first: Listener) -> Listener:
    """One more socket on the address of one that `bind` made with `reuse_port`. Raises ListenError."""
    sock = first.sock
    name = sock.getsockname()
    twin = socket.socket(sock.family, socket.SOCK_STREAM)
    try:
        if sock.family == socket.AF_INET6:
            option = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
            twin.setsockopt(*option, sock.getsockopt(*option))
        _bind_address(twin, name, reuse_port=True)
    except OSError as error:
        twin.close()
        raise ListenError(f"Cannot listen on {name[0]} port {name[1]}: {_reason(error)}") from None
    return Listener(twin, tls=first.tls)


def _bind_unix(path: str) -> Listener:
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mask makes the mode right from the first moment; a chmod afterwards would leave a gap.
    mask = os.umask(0o777 & ~UNIX_SOCKET_MODE)
    try:
        sock.bind(path)
        found = os.stat(path)
    except OSError as error:
        sock.close()
        raise ListenError(f"Cannot listen on the unix socket {path}: {_reason(error)}") from None
    finally:
        os.umask(mask)
    return Listener(sock, file=(path, found.st_dev, found.st_ino))


def _remove_stale(path: str) -> None:
    """Remove a socket nobody listens on any more. Raises ListenError for anything else at that path."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise ListenError(f"Cannot listen on the unix socket {path}: something that is no socket has this name")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        try:
            os.unlink(path)
        except OSError as error:
            raise ListenError(f"Cannot remove the stale unix socket {path}: {_reason(error)}") from None
        return
    except BlockingIOError:
        pass  # its queue is full: somebody lives there, if slowly
    except OSError as error:
        raise ListenError(f"Cannot listen on the unix socket {path}: {_reason(error)}") from None
    raise ListenError(f"Cannot listen on the unix socket {path}: another process listens there")


def _bind_tcp(config: Config, reuse_port: bool, held: TakenOver) -> list[Listener]:
    host, port = config.host, config.port
    assert port is not None
    found = _addresses(host, port)
    listeners: list[Listener] = []
    absent: OSError | None = None
    for family, name in found:
        if listeners and host == ANY_HOST:
            break
        # A name may stand for an IPv4 and an IPv6 address; with PORT=0 both get the port of the first.
        taken = listeners[0].port or port if listeners else port
        address = (name[0], taken, *name[2:])
        if there := held.tcp(family, name[0], taken):
            for each in there if reuse_port else ():
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listeners += [Listener(each, tls=config.certificate is not None) for each in there]
            continue
        try:
            listeners.append(_bind_one(family, address, reuse_port, tls=config.certificate is not None))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT) and len(found) > 1:
                absent = error  # "localhost" is ::1 as well, also on hosts without IPv6
                continue
            for listener in listeners:
                listener.close()
            raise ListenError(f"Cannot listen on {host} port {taken}: {_reason(error)}") from None
    if not listeners and absent is not None:
        raise ListenError(f"Cannot listen on {host} port {port}: {_reason(absent)}")
    return listeners


def _addresses(host: str, port: int) -> list[tuple[int, tuple[Any, ...]]]:
    """Family and address of each socket that HOST means. Raises ListenError.

    No name server is asked for `localhost` (RFC 6761 6.3), and "::" is 0.0.0.0 where the host knows no IPv6.
    """
    v4, v6 = {LOOPBACK_HOST: ("127.0.0.1", "::1"), ANY_HOST: ("0.0.0.0", "::")}.get(host.lower(), ("", ""))
    if v4:
        both = [(int(socket.AF_INET), (v4, port)), (int(socket.AF_INET6), (v6, port, 0, 0))]
        return both[::-1] if host == ANY_HOST else both
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenError(f"Cannot listen on {host}: HOST cannot be resolved: {error.strerror}") from None
    return list(dict.fromkeys((int(family), name) for family, _, _, _, name in found))


def _bind_one(family: int, address: tuple[object, ...], reuse_port: bool, *, tls: bool) -> Listener:
    def open_socket() -> socket.socket:
        sock = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET6:
            # "::" means every address, as "0.0.0.0" does; a single IPv6 address means itself.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        return sock

    sock = open_socket()
    try:
        _bind_address(sock, address, reuse_port=False)
        if reuse_port:
            # Binding alone first: with SO_REUSEPORT a second gateway on the same port would silently share it.
            address = sock.getsockname()
            sock.close()
            sock = open_socket()
            _bind_address(sock, address, reuse_port=True)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, tls=tls)


def _bind_address(sock: socket.socket, address: tuple[object, ...], *, reuse_port: bool) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuse_port:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(address)


def _is_tls(sock: socket.socket, config: Config) -> bool:
    return config.certificate is not None and sock.family != socket.AF_UNIX


_REASONS = {
    errno.EADDRINUSE: "another process listens there",
    errno.EADDRNOTAVAIL: "this host has no such address",
    errno.EACCES: "permission denied",
    errno.ENOENT: "its directory does not exist",
    errno.ENOTDIR: "its directory does not exist",
}


def _reason(error: OSError) -> str:
    return _REASONS.get(error.errno or 0, error.strerror or type(error).__name__)
