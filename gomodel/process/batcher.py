"""Keeps the batcher running: the process beside the gateway that has files and batches (`batches`).

Decides when it is started again and when it is taken for hung; answers what it asks. It is started anew rather than
forked, since a loop and threads run here. Losing this process it ends by itself.
"""

import asyncio
import logging
import socket
import subprocess
import sys
from collections.abc import Callable
from time import monotonic
from typing import Any

from ..batches.line import BEAT_S, Line
from ..config.settings import Config
from ..host import private_sockets
from ..telemetry.bugs import reported

_logger = logging.getLogger("gomodel")

_BACKOFF_S, _BACKOFF_MAX_S = 0.1, 5.0
# One that lived this long did not die of its start.
_STABLE_S = 10.0
_SILENCE_S = 6 * BEAT_S
# For what was done to become durable.
_FAREWELL_S = 5.0

Answer = Callable[[tuple[Any, ...], Line], None]


class Batcher:
    """`start`, then `reload` and `drain` as the gateway, then `close`."""

    def __init__(self, config: Config, answer: Answer) -> None:
        """`answer` is called with every message of the batcher, and the line to it."""
        self._config = config
        self._answer = answer
        self._line: Line | None = None
        self._task: asyncio.Task[None] | None = None
        self._draining = ""
        self._closing = False

    def start(self) -> None:
        """Start it, and another whenever it dies."""
        self._task = asyncio.create_task(self._keep())
        self._task.add_done_callback(reported("Keeping the process for batches"))

    def reload(self, config: Config) -> None:
        """Go on by `config`."""
        self._config = config
        self.send("reload", config)

    def drain(self, *, handing_over: bool) -> None:
        """Begin no further line. Calls are still answered. `handing_over`: another one goes on with the batches."""
        self._draining = "hand_over" if handing_over else "drain"
        self.send(self._draining)

    def send(self, *message: Any) -> None:
        """Tell it something, while it is there."""
        if self._line is not None:
            self._line.send(*message)

    async def close(self) -> None:
        """End it, when what was done is durable; nothing of it is left then."""
        self._closing = True
        if self._task is None:
            return
        if self._line is not None:
            self._line.close()
        else:
            self._task.cancel()
        await asyncio.wait({self._task})

    async def _keep(self) -> None:
        delay_s = _BACKOFF_S
        while not self._closing:
            began = monotonic()
            try:
                status = await self._live()
            except OSError as error:
                _logger.error("No process for batches: %s", error.strerror)
            else:
                if self._closing:
                    return
                _logger.error("The process for batches ended with status %d", status)
            delay_s = _BACKOFF_S if monotonic() - began >= _STABLE_S else min(_BACKOFF_MAX_S, delay_s * 2)
            await asyncio.sleep(delay_s)

    async def _live(self) -> int:
        """One process, from its start to its end; its exit status. Raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            process = await asyncio.to_thread(_start, theirs)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        try:
            line = Line(*await asyncio.open_connection(sock=ours))
            self._line = line
            line.send("config", self._config, private_sockets.path(""), private_sockets.owner())
            if self._draining:
                line.send(self._draining)
            try:
                await self._hear(line)
            finally:
                self._line = None
                line.close()
        finally:
            status = await asyncio.shield(asyncio.to_thread(_end, process))
        return status

    async def _hear(self, line: Line) -> None:
        while True:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    message = await line.receive()
            except TimeoutError:
                _logger.error("The process for batches has been silent for %g s and is killed", _SILENCE_S)
                return
            if message is None:
                return
            self._answer(message, line)


def _start(line: socket.socket) -> "subprocess.Popen[bytes]":
    # A session of its own: Ctrl-C and a group's signals are for the gateway, which says what they mean.
    return subprocess.Popen(
        [sys.executable, "-m", "gomodel.batches", str(line.fileno())],
        stdin=subprocess.DEVNULL,
        pass_fds=[line.fileno()],
        start_new_session=True,
    )


def _end(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end of a process that has lost its line; its exit status."""
    try:
        return process.wait(_FAREWELL_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
