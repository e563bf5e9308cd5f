"""Files and batches beside one gateway process: the door for their lines, and the batcher behind it.

Decides what the batcher is told of the gateway, and what the gateway notes of the batcher.
"""

import asyncio
import os
from time import monotonic
from typing import Any

from ..batches.line import Line
from ..config.settings import Config
from ..errors import Overloaded
from ..host import private_sockets
from ..operations.metrics import Snapshot
from ..operations.pressure import PRESSURE, merged, pressure
from ..operations.siblings import OWN, alone, ask_siblings
from ..operations.usage import running, used
from ..telemetry.bugs import reported
from ..telemetry.usage_table import DIMENSIONS, summed
from .batcher import Batcher
from .gateway import GRACE_S, Gateway
from .lines_door import LinesDoor

# What is used is kept this often; so much is lost when all is killed at once.
_TELL_S = 10.0
_POLL_S = 0.2


class Batching:
    """`start`, then `reload`, `drain` and `close` as the gateway."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._door = LinesDoor(gateway)
        self._batcher = Batcher(gateway.config, self._hear)
        self._asking: asyncio.Task[None] | None = None
        self._telling: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the door and start the batcher. Raises OSError."""
        await self._door.open()
        self._batcher.start()
        self._telling = asyncio.create_task(self._tell_usage_often())
        self._telling.add_done_callback(reported("Telling the batcher what was used"))

    def reload(self, config: Config) -> None:
        """Go on by `config`."""
        self._batcher.reload(config)

    async def drain(self, *, handing_over: bool = False) -> None:
        """Begin no further line; return when none runs any more, nor any request in another worker.

        What these use is to be kept as well, and who keeps it is beside this one. `handing_over`: batches are another
        release's to go on with from then on.
        """
        self._batcher.drain(handing_over=handing_over)
        await self._door.drain()
        if alone():
            return
        await asyncio.sleep(GRACE_S)
        while running(await self._counted()) > len(self._gateway.telemetry.running.records):  # noqa: ASYNC110
            await asyncio.sleep(_POLL_S)

    async def close(self) -> None:
        """End the batcher when what was done is durable."""
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.wait({self._telling})
            await self._tell_usage()
        await self._batcher.close()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})
        await self._door.close()

    async def _tell_usage_often(self) -> None:
        while True:
            await asyncio.sleep(_TELL_S)
            await self._tell_usage()

    async def _tell_usage(self) -> None:
        """Say what was used so far, by all workers there were; to nobody while there is no batcher."""
        snapshots = await self._counted()
        if snapshots:
            life = os.path.basename(private_sockets.path("").rstrip("/"))
            self._batcher.send("usage", life, summed(used(snapshots), DIMENSIONS))

    async def _counted(self) -> list[Snapshot]:
        try:
            return await ask_siblings(OWN, self._gateway.app.counted())
        except Overloaded:
            return []  # the supervisor is gone, and so are we soon

    def _hear(self, message: tuple[Any, ...], line: Line) -> None:
        telemetry = self._gateway.telemetry
        match message:
            case ("lines", state, count):
                telemetry.batch_lines[state] += count
            case ("batches", counts):
                telemetry.batches = dict.fromkeys(telemetry.batches, 0) | counts
            case ("pressure?",) if self._asking is None or self._asking.done():
                self._asking = asyncio.create_task(self._tell_pressure(line))
                self._asking.add_done_callback(reported("Telling the batcher who waits"))

    async def _tell_pressure(self, line: Line) -> None:
        gateway = self._gateway
        own = pressure(gateway.telemetry, gateway.providers, monotonic())
        try:
            line.send("pressure", merged([own, *await ask_siblings(PRESSURE)]))
        except Overloaded:
            pass  # the supervisor is gone, and so are we soon
