"""Limits that several gateways share over a real Redis: never more in all, a fair part for each, what without it."""

import asyncio

import pytest

from gomodel.access import host_usage, leases

from ..harness.keys import ALICE, MASTER, chat, entry, get
from ..harness.redis import needs_redis, redis
from ..harness.scripted import SAFETY_S, SSE_HEAD, Stall, chunked, response
from ..harness.verdicts import OK, ask, turned

__all__ = ["redis"]

pytestmark = needs_redis

STREAM = (SSE_HEAD + chunked(b"data: 1\n\n"), Stall())


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Leases are renewed so often that a test takes a fraction of a second; how long they hold stays. A busy machine is
    no Redis that is away."""
    monkeypatch.setattr(leases, "_TIMEOUT_S", SAFETY_S)
    monkeypatch.setattr(leases, "_TICK_S", 0.02)
    monkeypatch.setattr(leases, "_RENEW_MS", 40)
    monkeypatch.setattr(leases, "_SOON_MS", 20)
    monkeypatch.setattr(leases, "_HUNGRY_MS", 400)


@pytest.fixture
def fleet(gateway, upstream, redis, tmp_path, monkeypatch):
    """`await fleet(text)`: one more gateway with this keys file, on a host of its own."""
    path = tmp_path / "keys.toml"

    async def start(text, **environ):
        path.write_text(text)
        monkeypatch.setattr(host_usage, "shared", host_usage.HostUsage())
        settings = {"GOMODEL_MASTER_KEY": MASTER, "GOMODEL_KEYS_FILE": str(path), "GOMODEL_REDIS_URL": redis.url}
        return await gateway(vllm=upstream, **{**settings, **environ})

    return start


class Crowd:
    """Clients of one gateway who ask until they are let in, each of them holding its place."""

    def __init__(self, connect, handle):
        self._connect = connect
        self.handle = handle
        self.holding = []

    async def press(self):
        """One more asks; whether it is let in."""
        client = await self._connect(self.handle)
        await client.send(chat(ALICE))
        answer = await client.read_head()
        if answer.status == 200:
            self.holding.append(client)
            return True
        assert answer.status == 429
        client.wire.close()
        return False

    async def press_until(self, count):
        async with asyncio.timeout(SAFETY_S):
            while len(self.holding) < count:
                await self.press()

    def leave(self, count):
        for _ in range(count):
            self.holding.pop().wire.close()


def held(handle):
    (alice,) = [each for each in handle.gateway.app.callers.met if each.name == "alice"]
    return alice.limits.used()[0]


async def test_all_gateways_together_never_let_in_one_too_many_and_leave_no_place_empty(fleet, upstream, connect):
    upstream.repeat(*STREAM)
    crowds = [Crowd(connect, await fleet(entry("alice", ALICE, in_flight=6))) for _ in range(3)]
    async with asyncio.timeout(SAFETY_S):
        while sum(len(each.holding) for each in crowds) < 6:
            for each in crowds:
                await each.press()
                assert sum(len(one.holding) for one in crowds) <= 6
    for each in crowds:
        for _ in range(3):
            assert not await each.press()


async def test_what_one_gateway_gives_up_another_gets(fleet, upstream, connect):
    upstream.repeat(*STREAM)
    one, other = [Crowd(connect, await fleet(entry("alice", ALICE, in_flight=4))) for _ in range(2)]
    await one.press_until(4)
    assert not await other.press()
    one.leave(3)
    await turned(lambda: held(one.handle) == 1)
    await other.press_until(3)
    assert not await other.press()
    assert (len(one.holding), len(other.holding)) == (1, 3)


async def test_gateways_that_want_more_than_there_is_get_the_same(fleet, upstream, connect):
    upstream.repeat(*STREAM)
    one, other = [Crowd(connect, await fleet(entry("alice", ALICE, in_flight=8))) for _ in range(2)]
    await one.press_until(8)
    async with asyncio.timeout(SAFETY_S):
        while len(other.holding) < 4:
            if one.holding:
                one.leave(1)  # and its place is wanted at once by clients of both
            await one.press()
            await other.press()
            assert len(one.holding) + len(other.holding) <= 8
    assert len(one.holding) >= 3


@pytest.mark.parametrize("limit", ["in_flight", "requests_per_minute", "tokens_per_minute"])
async def test_the_first_request_of_a_gateway_is_let_in_however_small_the_limit_is(fleet, upstream, connect, limit):
    upstream.repeat(OK)
    handle = await fleet(entry("alice", ALICE, **{limit: 1}))
    assert (await ask(await connect(handle), chat(ALICE))).status == 200


async def test_requests_a_minute_are_those_of_all_gateways(fleet, upstream, connect):
    upstream.repeat(OK)
    handles = [await fleet(entry("alice", ALICE, requests_per_minute=20)) for _ in range(2)]
    clients = [await connect(handle) for handle in handles]
    served = 0
    async with asyncio.timeout(SAFETY_S):
        while served < 19:  # within 5 %
            for client in clients:
                answer = await ask(client, chat(ALICE))
                served += answer.status == 200
                assert answer.status in (200, 429)
                assert answer.get("x-ratelimit-limit-requests") == "20"
    for _ in range(20):
        for client in clients:
            served += (await ask(client, chat(ALICE))).status == 200
    assert served <= 20


async def test_tokens_a_minute_are_those_of_all_gateways(fleet, upstream, connect):
    upstream.repeat(response(b'{"usage":{"prompt_tokens":400,"total_tokens":500,"completion_tokens":100}}', 200))
    handles = [await fleet(entry("alice", ALICE, tokens_per_minute=1000)) for _ in range(2)]
    clients = [await connect(handle) for handle in handles]
    for client in clients:
        assert (await ask(client, chat(ALICE))).status == 200
    upstream.repeat(OK)
    for client in clients:
        async with asyncio.timeout(SAFETY_S):
            while (await ask(client, chat(ALICE))).status != 429:
                pass


async def test_a_gateway_that_dies_gives_its_part_back(fleet, upstream, connect, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_MS", 400)
    upstream.repeat(*STREAM)
    one, other = [Crowd(connect, await fleet(entry("alice", ALICE, in_flight=4))) for _ in range(2)]
    await one.press_until(4)
    assert not await other.press()
    one.handle.gateway.app.callers.leases.stop()  # it renews nothing any more
    await other.press_until(4)


@pytest.mark.parametrize(
    ("without", "let_in"), [("share", 2), ("open", 4), ("closed", 0)], ids=["share", "open", "closed"]
)
@pytest.mark.parametrize("away", ["gone", "slow"])
async def test_without_redis_holds_what_the_operator_said(
    fleet, redis, upstream, connect, monkeypatch, without, let_in, away
):
    monkeypatch.setattr(leases, "LEASE_MS", 400)
    upstream.repeat(*STREAM)
    handles = [await fleet(entry("alice", ALICE, in_flight=4), LIMITS_WITHOUT_REDIS=without) for _ in range(2)]
    await turned(lambda: all(each.gateway.app.callers.leases._gateways == 2 for each in handles))
    if away == "gone":
        await redis.stop()
    else:  # between two calls: one that is under way would have all of the time there was for it
        await turned(lambda: all(each.gateway.app.callers.leases._task is None for each in handles))
        redis.suspend()
        monkeypatch.setattr(leases, "_TIMEOUT_S", 0.1)  # only now is a late answer none
    for handle in handles:
        await turned(lambda handle=handle: handle.gateway.app.callers.leases.up is False)
        crowd = Crowd(connect, handle)
        if without == "closed":
            answer = await ask(await connect(handle), chat(ALICE))
            assert (answer.status, answer.json()["error"]["code"]) == (503, "limits_unknown")
            assert answer.get("Retry-After") == "2"
        else:
            assert [await crowd.press() for _ in range(5)] == [at < let_in for at in range(5)]
        crowd.leave(len(crowd.holding))
        assert b"\ngomodel_redis_up 0.0\n" in (await ask(await connect(handle), get(MASTER, "/metrics"))).body
    lines = [each.getMessage() for each in handles[0].logs.records if "Redis" in each.getMessage()]
    assert len(lines) == 2  # one of each gateway, however often it was tried
    assert all(line.startswith("Redis does not answer (") for line in lines)
    if away == "gone":
        await redis.start()
    else:
        monkeypatch.setattr(leases, "_TIMEOUT_S", SAFETY_S)
        redis.resume()
    for handle in handles:
        await turned(lambda handle=handle: handle.gateway.app.callers.leases.up is True)
        crowd = Crowd(connect, handle)
        await crowd.press_until(1)
        assert b"\ngomodel_redis_up 1.0\n" in (await ask(await connect(handle), get(MASTER, "/metrics"))).body
    lines = [each.getMessage() for each in handles[0].logs.records if "Redis answers again" in each.getMessage()]
    assert len(lines) == 2


async def test_a_lease_outlives_a_short_absence_of_redis(fleet, redis, upstream, connect):
    upstream.repeat(*STREAM)
    crowd = Crowd(connect, await fleet(entry("alice", ALICE, in_flight=2), LIMITS_WITHOUT_REDIS="closed"))
    await crowd.press_until(1)
    await redis.stop()
    await turned(lambda: crowd.handle.gateway.app.callers.leases.up is False)
    crowd.leave(1)
    await turned(lambda: held(crowd.handle) == 0)
    assert await crowd.press()


async def test_a_reload_keeps_what_is_borrowed_and_leaves_no_connection(fleet, upstream, connect):
    upstream.repeat(*STREAM)
    crowd = Crowd(connect, await fleet(entry("alice", ALICE, in_flight=2)))
    await crowd.press_until(2)
    gateway = crowd.handle.gateway
    gateway.reload(gateway.config)
    assert not await crowd.press()
    crowd.leave(2)
    await turned(lambda: held(crowd.handle) == 0)
    await crowd.press_until(2)


async def test_a_caller_without_limits_does_not_wait_for_redis(fleet, redis, upstream, connect):
    upstream.repeat(OK)
    client = await connect(await fleet(entry("alice", ALICE), LIMITS_WITHOUT_REDIS="closed"))
    redis.suspend()
    for key in (ALICE, MASTER):
        assert (await ask(client, chat(key))).status == 200
    assert (await ask(client, get(ALICE, "/v1/models"))).status == 200
    redis.resume()
