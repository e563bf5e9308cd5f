"""The batcher's process, from its first line to its last: `python -m gomodel.batches FD`, started by the gateway.

Decides that no signal but SIGKILL ends it: the gateway says when, over the socket whose descriptor it is given.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable

from ..host import private_sockets
from ..telemetry.logs import configure_logging, name_worker
from .batcher import serve
from .line import Line

_new_event_loop: Callable[[], asyncio.AbstractEventLoop] | None
try:
    from uvloop import new_event_loop as _new_event_loop
except ImportError:  # there is none for this platform
    _new_event_loop = None


def main() -> None:
    """Serve until the gateway is gone."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    sock = socket.socket(fileno=int(sys.argv[1]))
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        status = runner.run(_run(sock))
    logging.shutdown()
    # A thread that waits for a disk or a name server must not keep the process.
    os._exit(status)


async def _run(sock: socket.socket) -> int:
    line = Line(*await asyncio.open_connection(sock=sock))
    first = await line.receive()
    if first is None:
        return 0
    _, config, directory, owner = first
    configure_logging(config.log_level, config.log_format)
    name_worker(f"batches-{os.getpid()}")
    try:
        return await serve(config, directory, line)
    finally:
        line.close()
        # Whoever made it removes it, unless it was killed.
        if not private_sockets.is_owned(owner):
            private_sockets.remove(directory)


if __name__ == "__main__":
    main()
