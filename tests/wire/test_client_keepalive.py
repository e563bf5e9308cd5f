"""Client connections that are idle are closed after HTTP_CLIENT_KEEPALIVE, cleanly, and no others."""

import asyncio
from dataclasses import replace

import pytest

from ..harness.scripted import LAST_CHUNK, SSE_HEAD, WaitFor, chunked, request
from ..harness.verdicts import OK, ask, post, turned

pytestmark = pytest.mark.transports("tcp", "tls>tcp", "unix>tcp")

BRIEF, LONG = {"HTTP_CLIENT_KEEPALIVE": "50ms"}, {"HTTP_CLIENT_KEEPALIVE": "1h"}
HEALTH = request("GET", "/health")


def timer(handle):
    """When the idle time of the only client is over, in seconds from now."""
    (client,) = handle.gateway._server.clients
    return client._next_keepalive_close_time - asyncio.get_running_loop().time()


@pytest.mark.parametrize("asked", [HEALTH, post(), b""], ids=["in the gateway", "of an instance", "nothing"])
async def test_an_idle_connection_is_closed_in_time_and_without_a_reset(gateway, upstream, connect, asked):
    upstream.repeat(OK)
    handle = await gateway(BRIEF, vllm=upstream)
    client = await connect(handle)
    if asked:
        answer = await ask(client, asked)
        assert (answer.status, answer.get("Connection"), answer.end) == (200, None, "keepalive")
    assert await client.closed == "fin"
    await turned(lambda: handle.gateway.connections == 0)


@pytest.mark.parametrize("asked", [HEALTH, post()], ids=["in the gateway", "of an instance"])
async def test_each_answer_begins_the_idle_time_anew(gateway, upstream, connect, asked):
    upstream.repeat(OK)
    handle = await gateway(LONG, vllm=upstream)
    client = await connect(handle)
    for _ in range(3):
        assert (await ask(client, asked)).status == 200
        (found,) = handle.gateway._server.clients
        await turned(lambda found=found: found.idle_since is not None)
        assert 3590 < timer(handle) < 3601
        found._next_keepalive_close_time -= 3000


async def test_a_stream_of_any_length_is_not_idle(gateway, upstream, connect):
    go_on = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(go_on), chunked(b"data: 2\n\n"), LAST_CHUNK)
    handle = await gateway(BRIEF, vllm=upstream)
    client = await connect(handle)
    await client.send(post())
    await client.read_head()
    (found,) = handle.gateway._server.clients
    await turned(lambda: found._keepalive_handle is None)  # it rang, and found a request
    go_on.set()
    assert (await client.read_rest()).complete
    assert await client.closed == "fin"


async def test_a_reload_changes_it_for_the_connections_there_are(gateway, upstream, connect):
    upstream.repeat(OK)
    handle = await gateway(LONG, vllm=upstream)
    client = await connect(handle)
    assert (await ask(client)).status == 200
    handle.gateway.reload(replace(handle.config, timeouts=replace(handle.config.timeouts, client_keepalive_s=60.0)))
    assert (await ask(client)).status == 200
    (found,) = handle.gateway._server.clients
    await turned(lambda found=found: found.idle_since is not None)
    assert 50 < timer(handle) < 61
