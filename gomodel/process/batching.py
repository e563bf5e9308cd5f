"""Files and batches beside one gateway process: the door for their lines, and the batcher behind it.

Decides what the batcher is told of the gateway, and what the gateway notes of the batcher.
"""

import asyncio
from time import monotonic
from typing import Any

from ..batches.line import Line
from ..config.settings import Config
from ..errors import Overloaded
from ..operations.pressure import PRESSURE, merged, pressure
from ..operations.siblings import ask_siblings
from .batcher import Batcher
from .gateway import Gateway
from .lines_door import LinesDoor


class Batching:
    """`start`, then `reload`, `drain` and `close` as the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._door = LinesDoor(gateway)
        self._batcher = Batcher(gateway.config, self._hear)
        self._asking: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the door and start the batcher. Raises OSError."""
        await self._door.open()
        self._batcher.start()

    def reload(self, config: Config) -> None:
        """Go on by `config`."""
        self._batcher.reload(config)

    async def drain(self) -> None:
        """Begin no further line; return when none runs any more."""
        self._batcher.drain()
        await self._door.drain()

    async def close(self) -> None:
        """End the batcher when what was done is durable."""
        await self._batcher.close()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        await self._door.close()

    def _hear(self, message: tuple[Any, ...], line: Line) -> None:
        telemetry = self._gateway.telemetry
        match message:
            case ("lines", state, count):
                telemetry.batch_lines[state] += count
            case ("batches", counts):
                telemetry.batches = dict.fromkeys(telemetry.batches, 0) | counts
            case ("pressure?",) if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._tell_pressure(line))

    async def _tell_pressure(self, line: Line) -> None:
        gateway = self._gateway
        own = pressure(gateway.telemetry, gateway.providers, monotonic())
        try:
            line.send("pressure", merged([own, *await ask_siblings(PRESSURE)]))
        except Overloaded:
            pass  # the supervisor is gone, and so are we soon
