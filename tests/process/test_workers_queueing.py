"""Several workers keep one limit: never more at the instance, nobody forgotten, whichever worker dies."""

import asyncio
import json
import os
import signal
import socket
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ..harness.gateways import asked, started
from ..harness.processes import RUN, WITHOUT_UVLOOP, Run, children, pause
from ..harness.redis import Redis, needs_redis, redis
from ..harness.scripted import RawClient, ScriptedUpstream, env_for, let_peers_run, request
from ..harness.verdicts import OK, post, turned

__all__ = ["redis"]

REQUESTS = request("GET", "/admin/requests", [("Connection", "close")])


class Engine:
    """Answers after a few turns of the loop, or when it is let go on; knows how many it works for at once."""

    def __init__(self) -> None:
        self._working: list[Any] = []
        self.most = self.served = 0
        self.go_on = asyncio.Event()

    @property
    def now(self) -> int:
        """For how many it works that are still there."""
        return sum(map(connected, self._working))

    async def __call__(self, connection: Any) -> None:
        self._working.append(connection)
        self.most = max(self.most, self.now)
        try:
            await self.work(connection)
        finally:
            self._working.remove(connection)
        self.served += 1
        await connection.wire.send(OK)

    async def work(self, connection: Any) -> None:
        """What takes time."""
        await connection.until(self.go_on.wait())
        await connection.until(let_peers_run())


def connected(connection: Any) -> bool:
    """Whether the other end has not closed; the loop may hear of that some turns later."""
    try:
        return connection.wire._sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


async def ask_once(port: int, **options: Any) -> int:
    """The status of one request on a connection of its own, 0 when it breaks off."""
    client = await RawClient.connect(port)
    try:
        await client.send(post(**options))
        answer = await client.read_response()
        return answer.status if answer.complete else 0
    except Exception:
        return 0
    finally:
        client.wire.close()


@pytest.mark.parametrize("code", [None, WITHOUT_UVLOOP + RUN], ids=["uvloop", "asyncio"])
async def test_two_workers_never_have_more_at_an_instance_than_its_limit(
    run: Run, upstream: ScriptedUpstream, code: str | None
) -> None:
    engine = Engine()
    upstream.repeat(engine)
    process = await started(run, 2, {**env_for(vllm=upstream), "VLLM_MAX_IN_FLIGHT": "4"}, code=code)
    clients = [asyncio.create_task(ask_once(process.port)) for _ in range(200)]
    await turned(lambda: engine.now == 4)
    engine.go_on.set()
    assert Counter(await asyncio.gather(*clients)) == {200: 200}
    assert (engine.most, engine.served, engine.now) == (4, 200, 0)
    assert await process.stop() == 0


@needs_redis
async def test_two_workers_have_no_more_of_a_waiting_key_than_redis_lends_them(
    run: Run, upstream: ScriptedUpstream, redis: Redis, tmp_path: Path
) -> None:
    engine = Engine()
    upstream.repeat(engine)
    keys = tmp_path / "keys.toml"
    keys.write_text(f'[keys.alice]\nsha256 = "{sha256(b"alice").hexdigest()}"\nin_flight = 3\nwhen_full = "wait"\n')
    environ = {"GOMODEL_KEYS_FILE": str(keys), "GOMODEL_REDIS_URL": redis.url}
    process = await started(run, 2, {**env_for(vllm=upstream), **environ})
    alice: dict[str, Any] = {"headers": [("Authorization", "Bearer alice")]}
    clients = [asyncio.create_task(ask_once(process.port, **alice)) for _ in range(30)]
    await turned(lambda: engine.now == 3)
    engine.go_on.set()
    assert Counter(await asyncio.gather(*clients)) == {200: 30}
    assert engine.most == 3
    assert await process.stop() == 0


async def test_the_slots_and_places_of_a_worker_that_is_killed_are_free_for_the_others(
    run: Run, upstream: ScriptedUpstream
) -> None:
    engine = Engine()
    upstream.repeat(engine)
    process = await started(run, 2, {**env_for(vllm=upstream), "VLLM_MAX_IN_FLIGHT": "4"})
    clients = [asyncio.create_task(ask_once(process.port)) for _ in range(40)]
    await turned(lambda: engine.now == 4)
    listed = await in_line(process, 36)
    assert [entry["place"] for entry in listed if entry["place"]] == list(range(1, 37))
    os.kill(children(process.pid)[0], signal.SIGKILL)
    await process.says("ended with SIGKILL")
    await turned(lambda: engine.now == 4)  # those that were freed are taken at once, by others
    engine.go_on.set()
    answers = Counter(await asyncio.gather(*clients))
    assert answers.keys() <= {0, 200}
    assert answers[200] >= 1
    assert engine.most == 4
    engine.go_on.clear()
    more = [asyncio.create_task(ask_once(process.port)) for _ in range(8)]
    await turned(lambda: engine.now == 4)
    engine.go_on.set()
    assert Counter(await asyncio.gather(*more)) == {200: 8}
    assert engine.most == 4
    assert await process.stop() == 0


async def in_line(process: Any, number: int) -> list[dict[str, Any]]:
    """The running requests, once so many of them wait; those that have a place in its order."""
    while True:
        listed: list[dict[str, Any]] = json.loads((await asked(process, REQUESTS)).body)["requests"]
        waiting = [entry for entry in listed if entry["place"] is not None]
        if len(waiting) == number:
            return sorted(waiting, key=lambda entry: int(entry["place"]))
        await pause()


async def test_who_leaves_the_line_of_one_worker_makes_room_in_that_of_all(
    run: Run, upstream: ScriptedUpstream
) -> None:
    engine = Engine()
    upstream.repeat(engine)
    environ = {**env_for(vllm=upstream), "VLLM_MAX_IN_FLIGHT": "1", "QUEUE_LIMIT": "6"}
    process = await started(run, 2, environ)
    first = asyncio.create_task(ask_once(process.port))
    await turned(lambda: engine.now == 1)
    leaving = [await RawClient.connect(process.port) for _ in range(6)]
    for client in leaving:
        await client.send(post())
    await in_line(process, 6)
    assert [await ask_once(process.port) for _ in range(4)] == [503] * 4
    for client in leaving:
        client.reset()
    await in_line(process, 0)
    others = [asyncio.create_task(ask_once(process.port)) for _ in range(6)]
    await in_line(process, 6)
    engine.go_on.set()
    assert Counter(await asyncio.gather(first, *others)) == {200: 7}
    assert (engine.most, engine.served) == (1, 7)
    assert await process.stop() == 0


async def test_those_in_line_are_served_before_the_gateway_ends(run: Run, upstream: ScriptedUpstream) -> None:
    engine = Engine()
    upstream.repeat(engine)
    process = await started(run, 2, {**env_for(vllm=upstream), "VLLM_MAX_IN_FLIGHT": "1"})
    clients = [asyncio.create_task(ask_once(process.port)) for _ in range(6)]
    await turned(lambda: engine.now == 1)
    await in_line(process, 5)
    process.signal(signal.SIGTERM)
    await process.says("ending, 2 workers")
    engine.go_on.set()
    assert Counter(await asyncio.gather(*clients)) == {200: 6}
    assert await process.ended() == 0
