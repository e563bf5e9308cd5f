"""One worker process: serves as its supervisor orders.

Decides how orders are read and what a signal sent to a worker alone means. Knows nothing of the other workers but the
directory in which it can ask them. Losing the supervisor is an order to end.
"""

import asyncio
import logging
import pickle
import signal
import socket
from pathlib import Path
from typing import Any

from . import peers
from .config import Config, ConfigError
from .listeners import Listener, ListenError
from .reload import log_refusal
from .serving import Serving
from .signals import Signals

_logger = logging.getLogger("gomodel")

# What a worker says once, when it takes requests.
READY = b"ready"
# The exit status of a worker that aborted running requests on order.
CUT_SHORT = 3
_HEADER_BYTES = 4


def encoded(order: str, argument: Any = None) -> bytes:
    """An order as it travels: "drain", "abort", "report", "reload" with a Config, or "move" with a directory."""
    data = pickle.dumps((order, argument))
    return len(data).to_bytes(_HEADER_BYTES, "big") + data


async def serve(
    config: Config, listeners: list[Listener], orders: socket.socket, signals: Signals, directory: Path, name: str
) -> int:
    """Serve on `listeners` until the supervisor, at the other end of `orders`, says otherwise; the exit status.

    `directory` and `name`: where the workers ask each other, and what this one is called there. Raises ListenError.
    """
    serving = Serving(config)
    loop = asyncio.get_running_loop()

    def deliver(number: int) -> None:
        # The supervisor decides; but a worker told alone to end makes place for a fresh one.
        if number in (signal.SIGTERM, signal.SIGINT):
            serving.drain()

    reader, writer = await asyncio.open_connection(sock=orders)
    obeying: list[asyncio.Task[None]] = []

    def ready() -> None:
        signals.attach(loop, deliver)
        writer.write(READY)
        obeying.append(asyncio.create_task(_obey(reader, serving, name)))

    await _move(directory, name)
    try:
        await serving.run(listeners, ready)
    finally:
        await peers.process.leave()
        for task in obeying:
            task.cancel()
            await asyncio.wait([task])
        writer.close()
    signals.detach()
    return CUT_SHORT if serving.cut_short else 0


async def _move(directory: Path, name: str) -> None:
    try:
        await peers.process.leave()
        await peers.process.join(directory, name)
    except OSError as error:
        why = error.strerror or error
        raise ListenError(f"Worker {name} cannot be asked by the others, in {directory}: {why}") from None


async def _obey(reader: asyncio.StreamReader, serving: Serving, name: str) -> None:
    while True:
        try:
            length = int.from_bytes(await reader.readexactly(_HEADER_BYTES), "big")
            kind, argument = pickle.loads(await reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            if not serving.draining:
                _logger.error("The supervisor is gone; ending")
            serving.drain()
            return
        if kind == "drain":
            serving.drain()
        elif kind == "abort":
            serving.abort()
        elif kind == "report":
            serving.report()
        elif kind == "move":
            try:
                await _move(argument, name)
            except ListenError as error:
                _logger.error("%s", error)
        elif not serving.draining:
            try:
                serving.reload(argument)
            except ConfigError as error:  # a file changed since the supervisor looked
                log_refusal(error)
