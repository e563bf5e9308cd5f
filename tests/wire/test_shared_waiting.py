"""A key whose requests wait, over several gateways and a real Redis: never one too many, and everybody has a turn."""

import asyncio

import pytest

from gomodel.access import leases

from ..harness.keys import ALICE, MASTER, chat, entry, get
from ..harness.redis import needs_redis, redis
from ..harness.scripted import SSE_HEAD, Stall, WaitFor, chunked, let_peers_run
from ..harness.verdicts import OK, ask, turned
from .test_queueing import in_line, nothing_held, waiting
from .test_shared_limits import fleet, soon

__all__ = ["fleet", "redis", "soon"]

pytestmark = needs_redis

STREAM = (SSE_HEAD + chunked(b"data: 1\n\n"), Stall())
TWO = entry("alice", ALICE, in_flight=2, when_full="wait")


@pytest.fixture(autouse=True)
def waits_soon(monkeypatch):
    monkeypatch.setattr(leases, "_RENEW_WAITING_MS", 20)
    monkeypatch.setattr(leases, "_HUNGRY_WAITING_MS", 40)


class Engine:
    """Answers after some turns of the loop; knows how many it worked for at once."""

    def __init__(self):
        self.now = self.most = 0

    async def __call__(self, connection):
        self.now += 1
        self.most = max(self.most, self.now)
        await connection.until(let_peers_run())
        self.now -= 1  # before its answer can free the place
        await connection.wire.send(OK)


def lent(handle):
    """How many requests of alice this gateway may have run at once."""
    (alice,) = [each for each in handle.gateway.app.callers.met if each.name == "alice"]
    return alice.limits.lease.most()


async def running(handle, connect):
    """A client whose request has a slot."""
    client = await connect(handle)
    await client.send(chat(ALICE))
    assert (await client.read_head()).status == 200
    return client


async def test_all_gateways_together_never_run_one_too_many_and_all_are_served(fleet, upstream, connect):
    engine = Engine()
    upstream.repeat(engine)
    handles = [await fleet(entry("alice", ALICE, in_flight=3, when_full="wait")) for _ in range(3)]

    async def asked(handle):
        return (await ask(await connect(handle), chat(ALICE))).status

    statuses = await asyncio.gather(*(asked(handle) for _ in range(8) for handle in handles))
    assert set(statuses) == {200}
    assert engine.most <= 3
    for handle in handles:
        assert nothing_held(handle)


async def test_a_gateway_alone_may_have_all_of_it_at_once(fleet, upstream, connect):
    upstream.repeat(*STREAM)
    handle = await fleet(TWO)
    for _ in range(2):
        await running(handle, connect)
    third = await waiting(handle, connect, chat(ALICE))
    keys = (await ask(await connect(handle), get(MASTER, "/admin/keys"))).json()["keys"]
    (alice,) = [each for each in keys if each["name"] == "alice"]
    assert (alice["used"], alice["lent"], alice["running"]) == ({"in_flight": 2}, {"in_flight": 2}, 3)
    third.fin()
    await turned(lambda: in_line(handle) == 0)


async def test_what_one_gateway_gives_up_goes_to_who_waits_at_another_also_where_others_wait(fleet, upstream, connect):
    upstream.repeat(*STREAM)
    one, other = [await fleet(TWO) for _ in range(2)]
    held = [await running(one, connect) for _ in range(2)]
    first, second = await waiting(one, connect, chat(ALICE)), await waiting(other, connect, chat(ALICE))
    await turned(lambda: lent(one) == 1)  # half of it is wanted elsewhere
    assert (in_line(one), in_line(other)) == (1, 1)
    held.pop().wire.close()
    assert (await second.read_head()).status == 200
    assert in_line(one) == 1
    held.pop().wire.close()
    assert (await first.read_head()).status == 200


async def test_what_an_idle_gateway_had_is_anybodys_before_its_lease_is_over(fleet, upstream, connect, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_MS", 3_600_000)
    upstream.repeat(OK)
    one = await fleet(TWO)
    for _ in range(2):
        assert (await ask(await connect(one), chat(ALICE))).status == 200
    upstream.repeat(*STREAM)
    other = await fleet(TWO)
    for _ in range(2):
        await running(other, connect)
    await turned(lambda: not one.gateway.app.callers.leases._borrowers)  # nor is anything asked for it any more


async def test_what_a_dead_gateway_had_goes_to_who_waits_when_its_lease_is_over(fleet, upstream, connect, monkeypatch):
    monkeypatch.setattr(leases, "LEASE_MS", 400)
    upstream.repeat(*STREAM)
    one, other = [await fleet(TWO) for _ in range(2)]
    for _ in range(2):
        await running(one, connect)
    client = await waiting(other, connect, chat(ALICE))
    one.gateway.app.callers.leases.stop()  # it renews nothing any more
    assert (await client.read_head()).status == 200


async def test_the_line_is_as_long_and_as_patient_as_in_one_gateway(fleet, upstream, connect):
    upstream.repeat(*STREAM)
    one = await fleet(TWO)
    for _ in range(2):
        await running(one, connect)
    short, hasty = await fleet(TWO, QUEUE_LIMIT="1"), await fleet(TWO, QUEUE_TIMEOUT="20ms")
    client = await waiting(short, connect, chat(ALICE))
    for other, code in ((short, "queue_full"), (hasty, "queue_timeout")):
        refused = await ask(await connect(other), chat(ALICE))
        assert (refused.status, refused.json()["error"]["code"]) == (503, code)
    client.reset()
    await turned(lambda: nothing_held(short) and nothing_held(hasty))


async def test_with_a_limit_for_a_minute_as_well_both_hold(fleet, upstream, connect):
    upstream.repeat(*STREAM)
    handle = await fleet(entry("alice", ALICE, in_flight=1, when_full="wait", requests_per_minute=2))
    first = await running(handle, connect)
    second = await waiting(handle, connect, chat(ALICE))
    refused = await ask(await connect(handle), chat(ALICE))
    assert (refused.status, refused.get("x-ratelimit-limit-requests")) == (429, "2")
    first.wire.close()
    assert (await second.read_head()).status == 200


@pytest.mark.parametrize(("without", "let_in"), [("share", 1), ("open", 2)])
async def test_without_redis_as_many_go_as_the_operator_said_and_the_rest_waits_for_it(
    fleet, redis, upstream, connect, monkeypatch, without, let_in
):
    monkeypatch.setattr(leases, "LEASE_MS", 400)
    upstream.repeat(*STREAM)
    handles = [await fleet(TWO, LIMITS_WITHOUT_REDIS=without) for _ in range(2)]
    await turned(lambda: all(each.gateway.app.callers.leases._gateways == 2 for each in handles))
    await redis.stop()
    handle = handles[0]
    await turned(lambda: handle.gateway.app.callers.leases.up is False)
    for _ in range(let_in):
        held = await running(handle, connect)
    client = await waiting(handle, connect, chat(ALICE))
    held.wire.close()
    assert (await client.read_head()).status == 200
    last = await waiting(handle, connect, chat(ALICE))
    await redis.start()
    if without == "open":
        client.wire.close()
    assert (await last.read_head()).status == 200


async def test_without_redis_nobody_goes_where_that_is_what_the_operator_said(
    fleet, redis, upstream, connect, monkeypatch
):
    monkeypatch.setattr(leases, "LEASE_MS", 400)
    go_on = asyncio.Event()
    upstream.repeat(WaitFor(go_on), OK)
    handle = await fleet(TWO, LIMITS_WITHOUT_REDIS="closed")
    clients = [await connect(handle) for _ in range(2)]
    for client in clients:
        await client.send(chat(ALICE))
    await upstream.wait_for_request(2)
    in_time = await waiting(handle, connect, chat(ALICE))
    await redis.stop()
    await turned(lambda: handle.gateway.app.callers.leases.up is False and lent(handle) == 0)
    too_late = await ask(await connect(handle), chat(ALICE))
    assert (too_late.status, too_late.json()["error"]["code"]) == (503, "limits_unknown")
    go_on.set()
    assert [(await client.read_response()).status for client in clients] == [200, 200]
    assert in_line(handle) == 1
    await redis.start()
    assert (await in_time.read_response()).status == 200
