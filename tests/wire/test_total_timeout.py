"""HTTP_TIMEOUT, in every phase: the gateway's own limit, which is nobody's failure.

A request is made to look old once it is where its limit shall meet it, however slow the machine is.
"""

import asyncio
import json

import pytest

from gomodel.telemetry.record import Phase

from ..harness.scripted import LAST_CHUNK, SSE_HEAD, Fin, ReadHead, Repeat, Stall, WaitFor, chunked, head, request
from ..harness.verdicts import CHAT, aborted, access_lines, own_error, post, turned

# A threshold of one: whatever counts as a failure opens the breaker.
LIMIT = {"HTTP_TIMEOUT": "1h", "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1"}
EVENT = b"data: 1\n\n"


async def overdue(handle, *phases):
    """Once a request is in one of these phases all have run for longer than they may, and that is looked at at once."""
    running = handle.gateway.telemetry.running
    await turned(lambda: any(each.phase in phases for each in running.records))
    for each in running.records:
        each.started -= 3600
    running.stop()
    running._limits.tick_s = 0.01
    running.start(asyncio.get_running_loop())


async def nobodys_failure(handle, phase, status):
    """The log and the counters say that gomodel ended it, and the instance's record is clean."""
    assert await aborted(handle) == {("gomodel", phase): 1}
    (line,) = access_lines(handle)
    assert (line["ended_by"], line["phase"], line["reason"]) == ("gomodel", phase, "total_timeout")
    assert line["status"] == status
    instance = handle.replica()
    assert instance.breaker.closed
    assert instance.demotion.until == 0
    assert instance.health.state.value != "down"
    assert instance.in_flight == 0


async def test_before_a_head_it_is_a_504_of_the_gateway(gateway, upstream, connect):
    upstream.repeat(Stall())
    handle = await gateway(LIMIT, vllm=upstream)
    client = await connect(handle)
    await client.send(post())
    await overdue(handle, Phase.HEAD)
    answer = await client.read_response()
    message = own_error(answer, 504, "total_timeout", "timeout_error")
    assert "HTTP_TIMEOUT" in message
    assert answer.end == "keepalive"
    await upstream.requests[0].connection.closed
    await nobodys_failure(handle, "head", 504)


async def test_an_anthropic_client_reads_it_in_its_own_shape(gateway, upstream, connect):
    upstream.repeat(Stall())
    handle = await gateway(LIMIT, vllm=upstream)
    client = await connect(handle)
    await client.send(post("/v1/messages"))
    await overdue(handle, Phase.HEAD)
    answer = await client.read_response()
    assert (answer.status, answer.json()["error"]["type"]) == (504, "timeout_error")


async def test_a_flowing_upload_is_no_408(gateway, upstream, connect):
    upstream.repeat(ReadHead(), Stall())
    upstream.lenient = True
    handle = await gateway(LIMIT, vllm=upstream)
    client = await connect(handle)
    raw = request("POST", CHAT, [("Content-Type", "application/json")], b'{"model":"vllm/m","x":"' + b"x" * 999_999)
    await client.send(raw[:-900_000])
    sent = len(raw) - 900_000

    async def flow():
        nonlocal sent
        while True:
            await client.send(raw[sent : sent + 10])
            sent += 10
            await asyncio.sleep(0.005)

    flowing = asyncio.create_task(flow())
    try:
        await upstream.wait_for_request()
        await overdue(handle, Phase.REQUEST)
        own_error(await client.read_response(), 504, "total_timeout", "timeout_error")
    finally:
        flowing.cancel()
        await asyncio.gather(flowing, return_exceptions=True)
    await nobodys_failure(handle, "request", 504)


async def test_an_upload_before_its_selector_is_no_408_either(gateway, upstream, connect):
    handle = await gateway(LIMIT, vllm=upstream)
    client = await connect(handle)
    await client.send(request("POST", CHAT, [("Content-Type", "application/json")], b'{"messages":[]}')[:-5])
    await overdue(handle, Phase.REQUEST)
    own_error(await client.read_response(), 504, "total_timeout", "timeout_error")
    await aborted(handle)
    (line,) = access_lines(handle)
    assert (line["ended_by"], line["phase"], line["reason"]) == ("gomodel", "request", "total_timeout")


async def test_while_it_waits_to_try_again(gateway, upstream, connect):
    upstream.stop_listening()
    handle = await gateway(LIMIT, vllm=upstream, RETRY_INITIAL_BACKOFF="60s", RETRY_MAX_BACKOFF="60s")
    client = await connect(handle)
    await client.send(post())
    await turned(lambda: handle.replica().health.code)  # an attempt has failed
    await overdue(handle, Phase.QUEUE)
    own_error(await client.read_response(), 504, "total_timeout", "timeout_error")
    assert await aborted(handle) == {("gomodel", "queue"): 1}


async def test_while_it_connects(gateway, upstream, connect):
    await upstream.jam()
    handle = await gateway(LIMIT, vllm=upstream)
    client = await connect(handle)
    await client.send(post())
    await overdue(handle, Phase.CONNECT)
    own_error(await client.read_response(), 504, "total_timeout", "timeout_error")
    await nobodys_failure(handle, "connect", 504)


# The dialect of the stream -> how its last event begins and where the code stands.
DIALECTS = [
    pytest.param(CHAT, b"data: ", id="chat"),
    pytest.param("/v1/messages", b"event: error\ndata: ", id="messages"),
    pytest.param("/v1/responses", b"event: error\ndata: ", id="responses"),
    pytest.param("/p/vllm/v1/chat/completions", b"data: ", id="passthrough"),
]


@pytest.mark.parametrize(("path", "prefix"), DIALECTS)
async def test_a_stream_that_flows_ends_with_an_error_event_and_is_broken_off(gateway, upstream, connect, path, prefix):
    upstream.repeat(SSE_HEAD + chunked(EVENT), Repeat(400, (chunked(EVENT), pause(0.005))), Fin())
    handle = await gateway(LIMIT, vllm=upstream)
    client = await connect(handle)
    await client.send(post(path))
    await client.read_head()
    await overdue(handle, Phase.DATA)
    answer = await client.read_rest()
    assert (answer.status, answer.complete) == (200, False)
    *events, told, rest = answer.body.split(b"\n\n")
    assert rest == b""
    assert set(events) == {b"data: 1"}
    assert told.startswith(prefix)
    assert "HTTP_TIMEOUT" in json.dumps(json.loads(told.removeprefix(prefix)))
    await upstream.requests[0].connection.closed
    await nobodys_failure(handle, "data", 200)


def pause(seconds):
    async def step(connection):
        await connection.until(asyncio.sleep(seconds))

    return step


async def test_in_the_middle_of_an_event_it_is_only_broken_off(gateway, upstream, connect):
    upstream.repeat(SSE_HEAD + chunked(b"data: hal"), Stall())
    handle = await gateway(LIMIT, vllm=upstream)
    client = await connect(handle)
    await client.send(post())
    await client.read_head()
    await overdue(handle, Phase.DATA)
    answer = await client.read_rest()
    assert (answer.complete, answer.body) == (False, b"data: hal")
    await nobodys_failure(handle, "data", 200)


async def test_any_other_body_is_only_broken_off(gateway, upstream, connect):
    upstream.repeat(head(200, [("Content-Length", "1000")]) + b"{", Stall())
    handle = await gateway(LIMIT, vllm=upstream)
    client = await connect(handle)
    await client.send(post())
    await client.read_head()
    await overdue(handle, Phase.DATA)
    answer = await client.read_rest()
    assert (answer.complete, answer.body) == (False, b"{")
    await nobodys_failure(handle, "data", 200)


async def test_for_a_client_that_does_not_read(gateway, make_upstream, connect):
    upstream = await make_upstream(send_buffer=4096)
    upstream.repeat(SSE_HEAD, Repeat(5000, (chunked(b"data: " + b"x" * 4000 + b"\n\n"),)), LAST_CHUNK)
    handle = await gateway(LIMIT, vllm=upstream)
    client = await connect(handle, receive_buffer=4096)
    await client.send(post())
    await overdue(handle, Phase.WRITE)
    await nobodys_failure(handle, "write", 200)
    assert not (await client.read_response()).complete


async def test_a_websocket_is_cut_off(gateway, upstream, connect):
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    upstream.repeat(head(101, upgrade), Stall())
    handle = await gateway(LIMIT, vllm=upstream)
    client = await connect(handle)
    await client.send(request("GET", "/p/vllm/v1/realtime", [*upgrade, ("Sec-WebSocket-Key", "eA==")]))
    assert (await client.read_head()).status == 101
    await overdue(handle, Phase.DATA)
    await client.closed
    await nobodys_failure(handle, "data", 101)


async def test_five_healthy_streams_do_not_open_the_breaker(gateway, upstream, connect):
    upstream.repeat(SSE_HEAD + chunked(EVENT), Stall())
    handle = await gateway(LIMIT, vllm=upstream)
    clients = [await connect(handle) for _ in range(5)]
    for each in clients:
        await each.send(post())
    for each in clients:
        assert (await each.read_head()).status == 200
    await overdue(handle, Phase.DATA)
    for each in clients:
        assert not (await each.read_rest()).complete
    await turned(lambda: not handle.gateway.telemetry.running.records)
    assert handle.replica().breaker.closed


async def test_what_ends_in_time_is_left_alone(gateway, upstream, connect):
    go_on = asyncio.Event()
    upstream.repeat(SSE_HEAD + chunked(EVENT), WaitFor(go_on), LAST_CHUNK)
    handle = await gateway(LIMIT, vllm=upstream)
    client = await connect(handle)
    await client.send(post())
    await client.read_head()
    go_on.set()
    assert (await client.read_rest()).complete
