"""systemd by hand: its end of NOTIFY_SOCKET, and a process that is given a socket as a unit is."""

import asyncio
import socket
from pathlib import Path

from .processes import LIMIT_S, RUN, Process, Run


class Manager:
    """systemd's end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind(self.path)
        self._sock.setblocking(False)
        self.notices: list[str] = []

    async def all_told(self) -> None:
        """Collect every notice from now on in `notices`."""
        while True:
            self.notices.append((await asyncio.get_running_loop().sock_recv(self._sock, 1000)).decode())

    async def told(self) -> str:
        """The next notice."""
        async with asyncio.timeout(LIMIT_S):
            return (await asyncio.get_running_loop().sock_recv(self._sock, 1000)).decode()

    async def told_but_for(self, unwanted: str) -> str:
        """The next notice that is not `unwanted`."""
        while (notice := await self.told()) == unwanted:
            pass
        return notice

    def close(self) -> None:
        self._sock.close()


# What systemd does between fork and exec: the socket becomes descriptor 3 and the variables name the new process.
ACTIVATED = (
    "import os, sys; os.dup2({fd}, 3); os.environ |= {{'LISTEN_FDS': '1', 'LISTEN_PID': str(os.getpid())}}; "
    "os.execv(sys.executable, [sys.executable, '-c', {code!r}])"
)


async def activated(run: Run, sock: socket.socket, environ: dict[str, str], code: str = RUN) -> Process:
    fd = sock.fileno()
    return await run(environ, code=ACTIVATED.format(fd=fd, code=code), pass_fds=[fd])
