"""A single process between two releases: the one that it takes over from, and the one that takes over from it.

Decides what becomes of its listeners and its numbers then (contract section 12). For workers see `generations`.
"""

import asyncio
import contextlib
import os
from collections.abc import Coroutine
from threading import Thread
from time import monotonic
from typing import Any

from ..host.listeners import Listener
from ..host.systemd import Notifier
from ..operations import siblings
from ..operations.metrics import lasting
from ..telemetry.logs import name_worker
from ..telemetry.tally import Numbers
from .elders import Elders
from .handover import Taken
from .line_in_loop import LineInLoop
from .orders import Message
from .predecessor import Predecessor
from .serving import MARGIN_S, Serving
from .successor import Successor

_NEVER = float("inf")


class Succession:
    """`ready`, then `begin` for each SIGUSR2, `cancel` where this one is told to end, and `end`."""

    def __init__(
        self, serving: Serving, notifier: Notifier, taken: Taken | None, *, activated: bool, upgradable: bool
    ) -> None:
        """`activated`: systemd made the sockets. `upgradable`: whether there can be a successor."""
        self._serving = serving
        self._notifier = notifier
        self._taken = taken
        self._elders = Elders() if taken is None else taken.elders
        self._activated = activated
        self._upgradable = upgradable
        self._successor = Successor()
        self._predecessor: Predecessor | None = None
        self._line: LineInLoop | None = None  # to the successor
        self._due: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[Listener] = []

    def ready(self, listeners: list[Listener]) -> None:
        """Clients are taken on `listeners`."""
        self._listeners = listeners
        if self._taken is not None:
            self._predecessor = Predecessor(self._taken.line, self._elders, self._in_charge)
            siblings.process.follow(self._predecessor.numbers)
            self._taken.ready()

    def begin(self) -> None:
        """SIGUSR2: start the installed release anew."""
        if self._successor.may_start(ending=self._serving.draining, upgradable=self._upgradable):
            self._notifier.reloading()
            self._do(self._start())

    def cancel(self, order: str) -> None:
        """This process was told to end ("drain" or "abort"): so is what goes on with it, and what it goes on with."""
        self._successor.cancel()
        self._pass_on(order)

    async def end(self) -> None:
        """What ran here is over: wait for the release before, and say the last numbers to the one that took over."""
        if self._predecessor is not None:
            await self._predecessor.end(self._serving.until_limited, self._serving.gateway.config.drain_s + MARGIN_S)
            for each in self._listeners:
                each.remove_file()  # it was lent when listening ended, where that was before the other's word
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._due is not None:
            self._due.cancel()
        if self._line is not None:
            self._line.release()
            self._successor.finish("numbers", await self._numbers())

    def _in_charge(self) -> None:
        """The release before takes no more clients, or is gone."""
        for each in self._listeners:
            each.lent = False
        self._notifier.in_charge()

    async def _start(self) -> None:
        config = self._serving.gateway.config
        line = await asyncio.to_thread(
            self._successor.start, self._listeners, config, activated=self._activated, elders=self._elders
        )
        if line is None:
            self._notifier.reloaded()
            return
        loop = asyncio.get_running_loop()
        self._line = LineInLoop(line, self._hear, _nothing)
        self._expire(loop)
        Thread(target=self._reap, args=(loop, self._successor.pid), daemon=True, name="successor").start()
        if self._serving.draining:
            self._successor.cancel()

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Look whether its time is over, now and when it will be."""
        now = monotonic()
        self._successor.expire(now)
        if self._successor.due < _NEVER:
            self._due = loop.call_later(self._successor.due - now, self._expire, loop)

    def _reap(self, loop: asyncio.AbstractEventLoop, pid: int) -> None:
        """In a thread: wait for its end."""
        _, status = os.waitpid(pid, 0)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(self._ended, pid, status)

    def _ended(self, pid: int, status: int) -> None:
        if not self._successor.serves and self._line is not None:
            self._line.release()
            self._line = None
        if self._due is not None:
            self._due.cancel()
        if self._successor.ended(pid, status):
            self._notifier.reloaded()

    def _hear(self, message: Message) -> None:
        serving = self._serving
        match message:
            case ("question", number):
                self._do(self._answer(number))
            case ("ready", left) if not serving.draining:
                self._do(self._hand_over([self._listeners[index] for index in left]))
            case ("drain",) if serving.draining:
                self._pass_on("drain")
                serving.drain()
            case ("abort",) if serving.draining:
                self._pass_on("abort")
                serving.abort()

    def _pass_on(self, order: str) -> None:
        if self._predecessor is not None:
            self._predecessor.order(order)

    async def _answer(self, number: int) -> None:
        numbers = await self._numbers()
        if self._line is not None:
            self._line.send("answer", number, numbers)

    async def _hand_over(self, left: list[Listener]) -> None:
        numbers = await self._numbers()
        if self._serving.draining or self._line is None:
            return
        if not self._successor.take_over():
            return
        self._notifier.handed_over(self._successor.pid)
        self._line.send("go", numbers)
        name_worker(f"old-{os.getpid()}")
        for each in self._listeners:
            if each not in left:
                each.file = None  # the other one's to remove
        self._serving.hand_over(lambda listener: listener not in left)

    async def _numbers(self) -> Numbers:
        before = [] if self._predecessor is None else await self._predecessor.numbers()
        return lasting([self._serving.gateway.app.counted(), *before])

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _nothing() -> None:
    pass
