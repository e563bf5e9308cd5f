"""What is said of a bug in the tasks by which a process talks with another one; processes are in test_workers."""

import asyncio
import socket
from types import SimpleNamespace
from typing import Any

import pytest

from gomodel.config.load import from_environ
from gomodel.operations import siblings
from gomodel.process import batching, worker
from gomodel.process.batcher import Batcher
from gomodel.process.batching import Batching
from gomodel.process.orders import encoded
from gomodel.process.workers import Ends

from ...harness.gateway import DEFAULTS
from ...harness.verdicts import turned


def bug(*_: Any) -> Any:
    raise KeyError("a bug")


async def nothing() -> None:
    pass


class Serving:
    """Serves nobody, and cannot say how busy it is."""

    draining = cut_short = False

    def __init__(self, *_: Any, **options: Any) -> None:
        self.gateway = SimpleNamespace(slots=SimpleNamespace(join=lambda send: None))
        self.report = bug

    async def run(self, listeners: Any, ready: Any) -> None:
        ready()
        await asyncio.Event().wait()


async def test_a_worker_says_that_it_hears_its_supervisor_no_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "Serving", Serving)
    monkeypatch.setattr(siblings, "process", siblings.Siblings())
    ours, orders = socket.socketpair()
    sockets, theirs = socket.socketpair(type=socket.SOCK_DGRAM)
    signals: Any = SimpleNamespace(attach=lambda loop, deliver: None, detach=lambda: None)
    with ours, theirs:
        ours.sendall(encoded(("report",)))
        serving = asyncio.create_task(worker.serve(from_environ(DEFAULTS), [], Ends(orders, sockets), signals, 60.0))
        await turned(lambda: "Talking with the supervisor failed inside the gateway" in caplog.text)
        serving.cancel()
        await asyncio.wait({serving})


async def test_a_gateway_says_that_its_batcher_is_told_nothing_any_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batching, "_TELL_S", 0)
    gateway: Any = SimpleNamespace(config=from_environ(DEFAULTS))
    made = Batching(gateway)
    for owner, name, does in (
        (made._door, "open", nothing),
        (made._batcher, "start", lambda: None),
        (made, "_counted", bug),
        (batching, "pressure", bug),
    ):
        monkeypatch.setattr(owner, name, does)
    gateway.telemetry = gateway.providers = None
    await made.start()
    await turned(lambda: "Telling the batcher what was used failed inside the gateway" in caplog.text)
    line: Any = None
    made._hear(("pressure?",), line)
    await turned(lambda: "Telling the batcher who waits failed inside the gateway" in caplog.text)


async def test_a_gateway_says_that_nobody_starts_a_batcher_any_more(caplog: pytest.LogCaptureFixture) -> None:
    made = Batcher(from_environ(DEFAULTS), bug)
    made._live = bug
    made.start()
    await turned(lambda: "Keeping the process for batches failed inside the gateway" in caplog.text)
