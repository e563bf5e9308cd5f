"""Which idle connection serves the next request, and when one is closed instead."""

import asyncio
from dataclasses import replace

import pytest

from gomodel.upstream import pool as pool_module

from ..harness.scripted import Fin, Reset, ScriptedUpstream, WaitFor, request
from ..harness.verdicts import OK, ask, own_error, post, served, turned


def open_now(upstream: ScriptedUpstream) -> int:
    """How many connections that carried requests are open; gomodel's own questions aside."""
    return len({id(each.connection) for each in upstream.requests if each.ended is None})


async def warm(connect, handle, upstream, count):
    """Leave `count` idle connections behind, in the order in which they became idle."""
    events = [asyncio.Event() for _ in range(count)]
    for event in events:
        upstream.on_request(WaitFor(event), OK)
    clients = [await connect(handle) for _ in range(count)]
    for number, client in enumerate(clients, 1):
        await client.send(post())
        await upstream.wait_for_request(number)
    for client, event in zip(clients, events, strict=True):
        event.set()
        assert (await client.read_response()).status == 200
    return clients[0]


async def test_the_connection_that_was_used_last_is_used_first(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    client = await warm(connect, handle, upstream, 3)
    upstream.repeat(OK)
    for _ in range(3):
        await ask(client)
    assert served(upstream) == [1, 1, 4]


async def test_an_idle_connection_is_closed_when_its_time_is_over(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, HTTP_UPSTREAM_KEEPALIVE="80ms")
    client = await warm(connect, handle, upstream, 3)
    for each in upstream.requests:
        assert await each.connection.closed == "fin"
    upstream.repeat(OK)
    assert (await ask(client)).status == 200
    assert served(upstream) == [1, 1, 1, 1]


async def test_one_that_is_too_old_is_not_used_even_where_nobody_had_time_to_close_it(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, HTTP_UPSTREAM_KEEPALIVE="60s")
    client = await warm(connect, handle, upstream, 3)
    kept = handle.replica().pool._idle
    for channel, age_s in zip(kept, (61, 60, 59), strict=True):
        channel.idle_since -= age_s
    upstream.repeat(OK)
    await ask(client)
    assert served(upstream) == [1, 1, 2]
    kept[-1].idle_since -= 61
    await ask(client)
    assert served(upstream) == [1, 1, 2, 1]
    await turned(lambda: open_now(upstream) == 1)


async def test_a_connection_in_use_outlives_the_time_of_idle_ones(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, HTTP_UPSTREAM_KEEPALIVE="50ms")
    go_on = asyncio.Event()
    upstream.on_request(WaitFor(go_on), OK)
    slow = await connect(handle)
    await slow.send(post())
    await upstream.wait_for_request()
    upstream.on_request(OK)
    await ask(await connect(handle))
    await upstream.requests[1].connection.closed
    go_on.set()
    assert (await slow.read_response()).status == 200


async def test_without_keep_alive_no_connection_is_used_twice(gateway, upstream, connect):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, HTTP_UPSTREAM_KEEPALIVE="0s"))
    for _ in range(3):
        assert (await ask(client)).status == 200
    assert served(upstream) == [1, 1, 1]
    await turned(lambda: open_now(upstream) == 0)


@pytest.mark.parametrize("how", [Fin(), Reset()])
async def test_a_connection_that_the_instance_closed_while_idle_is_not_used(gateway, upstream, connect, how):
    go_on = asyncio.Event()
    upstream.on_request(OK, WaitFor(go_on), how)
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await ask(client)
    go_on.set()
    await upstream.requests[0].connection.over
    assert (await ask(client)).status == 200
    assert served(upstream) == [1, 1]
    assert handle.gateway.telemetry.retries == {}


async def test_requests_that_open_a_connection_each_do_not_pile_them_up(gateway, upstream, connect, monkeypatch):
    monkeypatch.setattr(pool_module, "MAX_IDLE", 3)
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, HTTP_UPSTREAM_KEEPALIVE="60s"))
    for _ in range(10):
        assert (await ask(client, request("POST", "/p/vllm/x", body=b"{}"))).status == 200
    await turned(lambda: open_now(upstream) == 3)


async def test_a_gateway_that_closes_leaves_no_connection_behind(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    await warm(connect, handle, upstream, 3)
    assert open_now(upstream) == 3
    await handle.gateway.close()
    await turned(lambda: open_now(upstream) == 0)


async def test_those_that_are_left_are_closed_in_their_turn(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, HTTP_UPSTREAM_KEEPALIVE="60s")
    await warm(connect, handle, upstream, 3)
    pool = handle.replica().pool
    kept = pool._idle
    for channel, age_s in zip(kept, (61, 59, 58), strict=True):
        channel.idle_since -= age_s
    second = kept[1]
    pool._sweep()
    assert await upstream.requests[0].connection.closed == "fin"
    assert (kept[0], pool._sweeper.when()) == (second, pytest.approx(second.idle_since + 60))


async def test_a_shorter_time_counts_for_those_that_are_idle_already(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, HTTP_UPSTREAM_KEEPALIVE="60s")
    await warm(connect, handle, upstream, 2)
    pool = handle.replica().pool
    pool._idle[0].idle_since -= 10
    pool.configure(replace(handle.config.timeouts, upstream_keepalive_s=10.0), 1)
    assert await upstream.requests[0].connection.closed == "fin"
    assert pool._sweeper.when() == pytest.approx(pool._idle[0].idle_since + 10)


async def test_a_connection_that_is_closing_is_not_used(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    await warm(connect, handle, upstream, 2)
    pool = handle.replica().pool
    first, last = pool._idle
    last.transport.close()
    assert pool.take() is first


async def test_a_server_that_is_the_gateway_itself_keeps_no_connection_and_gets_none(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, HTTP_UPSTREAM_KEEPALIVE="60s")
    client = await warm(connect, handle, upstream, 2)
    handle.replica().pool.judge(leads_back=True)
    for each in upstream.requests:
        assert await each.connection.closed == "fin"
    own_error(await ask(client), 502, "proxy_loop_detected")
    handle.replica().pool.judge(leads_back=False)
    upstream.on_request(OK)
    assert (await ask(client)).status == 200
