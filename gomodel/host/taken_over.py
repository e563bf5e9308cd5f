"""Listening sockets that another process of the gateway hands over, found again by what the configuration wants.

Decides which of them serve an address of the configuration. What nobody wants stays with whoever handed it over. Knows
nothing of how descriptors travel.
"""

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Held:
    """A socket that listens, and (device, inode) of its file where the gateway has made one."""

    sock: socket.socket
    file: tuple[int, int] | None = None


class TakenOver:
    """The sockets that are to be had; `left` are those that nobody wanted."""

    def __init__(self, held: Iterable[Held] = ()) -> None:
        self.left = list(held)

    def tcp(self, family: int, host: str, port: int) -> list[socket.socket]:
        """All that listen on this address, which workers share; on any port where it is 0."""
        first: tuple[str, int] | None = None
        found = []
        for each in self.left:
            if each.sock.family == family and each.sock.family != socket.AF_UNIX:
                name = each.sock.getsockname()[:2]
                if name[0] == host and port in (0, name[1]) and first in (None, name):
                    first = name
                    found.append(each)
        self._take(found)
        return [each.sock for each in found]

    def unix(self, path: str) -> Held | None:
        """The one that listens at this path, while its file is there."""
        for each in self.left:
            if each.sock.family == socket.AF_UNIX and each.sock.getsockname() == path and _is_there(path, each.file):
                self._take([each])
                return each
        return None

    def everything(self) -> list[socket.socket]:
        """All of them: what a service manager gave is what is listened on."""
        found, self.left = self.left, []
        return [each.sock for each in found]

    def _take(self, found: list[Held]) -> None:
        self.left = [each for each in self.left if each not in found]


def _is_there(path: str, file: tuple[int, int] | None) -> bool:
    try:
        found = os.stat(path)
    except OSError:
        return False
    return file == (found.st_dev, found.st_ino)
