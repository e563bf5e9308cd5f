"""Host names that answer, fail, or keep whoever asks waiting, as name servers do; in this process, without a server.

Decides what `socket.getaddrinfo` says of the names a test wrote down; every other name is looked up as usual. Usable
in another process as well: `from tests.harness.names import Names; Names().silence("gpu.test")`. Knows nothing of who
asks, but that it does so in a thread.
"""

import socket
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

_real: Callable[..., list[Any]] = socket.getaddrinfo

# What a name does: its addresses, the error it ends in, or None while nobody answers.
_Script = tuple[str, ...] | OSError | None


class Names:
    """The scripted names; `asked` counts the look-ups of each."""

    def __init__(self) -> None:
        self._scripts: dict[str, _Script] = {}
        self._changed = threading.Condition()
        self._closed = False
        self.asked: Counter[str] = Counter()
        self.waiting: Counter[str] = Counter()  # look-ups that are held at this moment
        socket.getaddrinfo = self._getaddrinfo

    def answer(self, host: str, *addresses: str) -> None:
        """`host` has these addresses; look-ups that wait for it get them as well, late."""
        self._script(host, addresses)

    def fail(self, host: str, number: int = socket.EAI_AGAIN) -> None:
        """Look-ups of `host` end in this error, those that wait as well."""
        self._script(host, socket.gaierror(number, "scripted"))

    def exhaust(self, host: str, number: int) -> None:
        """Look-ups of `host` end in an error of the system, such as EMFILE."""
        self._script(host, OSError(number, "scripted"))

    def silence(self, *hosts: str) -> None:
        """Look-ups of these never end until something else is said of the name."""
        for host in hosts:
            self._script(host, None)

    def close(self) -> None:
        """Let every look-up that waits go, and leave the system's as it was."""
        socket.getaddrinfo = _real
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _script(self, host: str, script: _Script) -> None:
        with self._changed:
            self._scripts[host] = script
            self._changed.notify_all()

    def _getaddrinfo(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if host not in self._scripts:
            return _real(host, port, *args, **kwargs)
        with self._changed:
            self.asked[host] += 1
            self.waiting[host] += 1
            self._changed.wait_for(lambda: self._closed or self._scripts[host] is not None)
            self.waiting[host] -= 1
            script = self._scripts[host]
        if script is None or isinstance(script, OSError):
            raise script or socket.gaierror(socket.EAI_AGAIN, "closed")
        kind = kwargs.get("type", socket.SOCK_STREAM)
        return [each for address in script for each in _real(address, port, type=kind)]
