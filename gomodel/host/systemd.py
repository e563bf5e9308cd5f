"""The two small protocols of systemd: sockets handed over at start (sd_listen_fds) and notices of state (sd_notify).

Decides what is said in which state. Without systemd every function here does nothing, so nobody needs to ask.
"""

import logging
import os
import socket
from collections.abc import Mapping
from time import monotonic_ns

from .listeners import ListenError

_logger = logging.getLogger("gomodel")

_FIRST_FD = 3


def inherited_sockets(environ: Mapping[str, str]) -> list[socket.socket]:
    """The listening sockets of socket activation, TCP or unix, in systemd's order (sd_listen_fds(3)).

    Raises ListenError when a descriptor is not one that HTTP can be served on.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = environ.get("LISTEN_FDS", "")
    return [_listening(_FIRST_FD + at) for at in range(int(count) if count.isdecimal() else 0)]


def _listening(fd: int) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)
    except OSError:
        raise ListenError(f"Descriptor {fd}, handed over in LISTEN_FDS, is not a socket") from None
    if sock.type != socket.SOCK_STREAM or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ListenError(f"Descriptor {fd}, handed over in LISTEN_FDS, is not a listening stream socket")
    return sock


class Notifier:
    """Tells the service manager where the process stands (sd_notify(3)); a notice that fails is not repeated."""

    def __init__(self, environ: Mapping[str, str], *, follows: bool = False) -> None:
        """`follows`: another process is the main one, and says what there is to say, until `in_charge`."""
        self._silent = follows
        self._address = environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]
        self._reloading = False
        self._unheard = False  # the last notice came nowhere
        usec = environ.get("WATCHDOG_USEC", "")
        ours = environ.get("WATCHDOG_PID") in (None, str(os.getpid()))
        # Half of the limit, as sd_watchdog_enabled(3) advises; 0: nobody waits for a sign of life.
        self.watchdog_s = int(usec) / 2e6 if usec.isdecimal() and ours and self._address else 0.0

    def handed_over(self, pid: int) -> None:
        """This process is the main one no more, and says nothing from here on."""
        self._send(f"MAINPID={pid}\nREADY=1")
        self._reloading = False
        self._silent = True

    def in_charge(self) -> None:
        """This is the main process now. The one before has said so, unless it died over it."""
        self._silent = False
        self._send(f"MAINPID={os.getpid()}\nREADY=1")
        if self.watchdog_s:  # which the one before has fed last
            self.alive()

    def ready(self) -> None:
        """Requests are served."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A new configuration is being read, as it was asked for; `reloaded` follows whatever comes of it."""
        self._reloading = True
        self._send(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")

    def reloaded(self) -> None:
        """The reading that was asked for is over; nothing is said of one that nobody asked for."""
        if self._reloading:
            self._reloading = False
            self.ready()

    def stopping(self, limit_s: float) -> None:
        """The end has begun and takes `limit_s` at most: longer than TimeoutStopSec=, which this extends."""
        self._send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(limit_s * 1e6)}")

    def alive(self) -> None:
        """The sign of life that WatchdogSec= asks for."""
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address or self._silent:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                # Never wait for a manager whose queue is full.
                sock.setblocking(False)
                sock.connect(self._address)
                sock.send(state.encode())
        except OSError as error:
            # A service whose notices are not heard is killed for its silence; whoever looks why finds the first here.
            level = logging.DEBUG if self._unheard else logging.WARNING
            self._unheard = True
            _logger.log(level, "NOTIFY_SOCKET took no %s: %s", state.partition("\n")[0], error.strerror)
        else:
            self._unheard = False
