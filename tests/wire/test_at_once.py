"""What is sent in the turn of the loop in which it came ends, in every way it can, as what waits for its task does.

Each case is a request on a client's connection that has served one, to an instance with a connection idle; it is run
both ways, and told the same.
"""

import asyncio
import gc

import pytest

from gomodel.app import App
from gomodel.downstream.body import RequestBody
from gomodel.downstream.request import Request
from gomodel.downstream.upload import Upload
from gomodel.relay.body_search import JsonReading
from gomodel.relay.outgoing import Outgoing
from gomodel.relay.relay import Relay
from gomodel.relay.upload import UploadFlow
from gomodel.telemetry.record import Record

from ..harness.gateway import WAY, env_for
from ..harness.scripted import SSE_HEAD, Fin, ReadRequest, Reset, Stall, WaitFor, chunked, head, request, response
from ..harness.verdicts import CHAT, KEPT, OK, aborted, access_lines, ask, own_error, post, served, turned
from ..process.test_server import configured

STREAM = SSE_HEAD + chunked(b"data: 1\n\n")


@pytest.fixture(params=[True, False], ids=["at once", "in its turn"])
def at_once(request, monkeypatch):
    if request.param and WAY == "task":
        pytest.skip("this run is of the other way")
    if not request.param:
        monkeypatch.setattr(App, "begin", lambda app, asked: False)
    return request.param


@pytest.fixture
def warm(at_once, gateway, upstream, connect):
    """A gateway, and a client that was answered over a connection that the instance keeps."""

    async def make(settings=None, **options):
        upstream.on_request(OK)
        handle = await gateway({**KEPT, **(settings or {})}, vllm=upstream, **options)
        client = await connect(handle)
        assert (await ask(client)).status == 200
        return handle, client

    return make


def under_way(handle, at_once):
    """Whether the one request that runs is one that no task waits for."""
    connection = next(each for each in handle.gateway._server.clients if each.busy)
    return (connection._parked is not None) is at_once


async def last_line(handle, count=2):
    await turned(lambda: len(access_lines(handle)) == count)
    line = access_lines(handle)[-1]
    assert handle.replica().in_flight == 0
    return tuple(line.get(name) for name in ("status", "ended_by", "phase", "reason"))


async def test_an_answer_and_the_next_request_go_over_the_same_connections(warm, upstream):
    handle, client = await warm()
    upstream.repeat(OK)
    for _ in range(3):
        answer = await ask(client)
        assert (answer.status, answer.body, answer.end) == (200, b'{"id":"ok"}', "keepalive")
    assert served(upstream) == [4]
    assert [line["bytes_in"] for line in access_lines(handle)] == [35] * 4
    assert {seen.body for seen in upstream.requests} == {b'{"model": "m", "stream": true}'}


async def test_heads_that_differ_are_begun_at_once_as_well(warm, upstream, at_once):
    handle, client = await warm()
    go = asyncio.Event()
    upstream.on_request(ReadRequest(), WaitFor(go), OK)
    await client.send(post(headers=[("X-Other", "1")]))
    await upstream.wait_for_request(2)
    assert under_way(handle, at_once)
    go.set()
    assert (await client.read_response()).status == 200
    assert upstream.requests[1].get("X-Other") == "1"


@pytest.mark.parametrize(("model", "status"), [("other/m", 404), ("vllm/", 400), ("", 400)])
async def test_a_refusal_is_an_answer(at_once, gateway, make_upstream, connect, model, status):
    one, other = await make_upstream(), await make_upstream()
    one.repeat(OK)
    handle = await gateway(KEPT, vllm=one, vllm_b=other)
    client = await connect(handle)
    assert (await ask(client)).status == 200
    answer = await ask(client, post(model=model))
    assert (answer.status, answer.json()["error"]["type"]) == (status, "invalid_request_error")
    assert [line["status"] for line in access_lines(handle)] == [200, status]
    if answer.end == "keepalive":
        assert (await ask(client)).status == 200


@pytest.mark.parametrize("how", [Fin(), Reset()])
async def test_a_stale_connection_is_made_good(warm, upstream, how):
    handle, client = await warm()
    upstream.on_request(ReadRequest(), how)
    upstream.on_request(OK)
    assert (await ask(client)).status == 200
    assert served(upstream) == [2, 1]
    assert access_lines(handle)[1]["retries"] == 1


async def test_a_refusal_of_the_instance_reaches_the_client_as_it_came(warm, upstream):
    handle, client = await warm()
    upstream.on_request(response(b'{"error":"paused: currently busy"}', 503))
    answer = await ask(client)
    assert (answer.status, answer.body) == (503, b'{"error":"paused: currently busy"}')
    assert await last_line(handle) == (503, None, None, None)


async def test_a_silent_instance_is_a_504(warm, upstream, at_once):
    handle, client = await warm({"HTTP_RESPONSE_HEADER_TIMEOUT": "150ms", "RETRY_MAX_RETRIES": "0"})
    upstream.on_request(ReadRequest(), Stall())
    await client.send(post())
    await upstream.wait_for_request(2)
    assert under_way(handle, at_once)
    assert (await client.read_response()).json()["error"]["code"] == "http_response_timeout"
    assert await last_line(handle) == (504, "upstream", "head", "http_response_timeout")


async def test_the_limit_of_all_ends_it_and_the_connection_goes_on(warm, upstream):
    handle, client = await warm({"HTTP_TIMEOUT": "150ms"})
    upstream.on_request(ReadRequest(), Stall())
    own_error(await ask(client), 504, "total_timeout", "timeout_error")
    assert await last_line(handle) == (504, "gomodel", "head", "total_timeout")
    upstream.on_request(OK)
    assert (await ask(client)).status == 200


@pytest.mark.parametrize("answer", [b"", STREAM])
async def test_an_operator_ends_it(warm, upstream, connect, at_once, answer):
    handle, client = await warm()
    upstream.on_request(ReadRequest(), answer, Stall())
    await client.send(post())
    seen = await upstream.wait_for_request(2)
    if answer:
        await client.read_head()
        await client.read_chunk()
    assert under_way(handle, at_once)
    (record,) = handle.gateway.telemetry.running.records
    assert (await ask(await connect(handle), request("DELETE", f"/admin/requests/{record.id}"))).json()["aborted"] == 1
    await seen.connection.closed
    phase = "data" if answer else "head"
    assert (await last_line(handle, 3))[1:] == ("gomodel", phase, "aborted_by_operator")
    if answer:
        assert b"stream_interrupted" in await client.read_body_until(b"stream_interrupted")
    else:
        assert (await client.read_response()).json()["error"]["code"] == "aborted_by_operator"


@pytest.mark.parametrize("answer", [b"", STREAM])
async def test_a_client_that_leaves_ends_the_generation(warm, upstream, at_once, answer):
    handle, client = await warm()
    upstream.on_request(ReadRequest(), answer, Stall())
    await client.send(post())
    seen = await upstream.wait_for_request(2)
    if answer:
        await client.read_head()
        await client.read_chunk()
    assert under_way(handle, at_once)
    client.wire.close()
    await seen.connection.closed
    expected = (200, "client", "data", "disconnected") if answer else (499, "client", "head", "disconnected")
    assert await last_line(handle) == expected
    await turned(lambda: handle.gateway.connections == 0)


async def test_an_answer_that_breaks_off_is_said_to(warm, upstream):
    handle, client = await warm()
    upstream.on_request(ReadRequest(), STREAM, Fin())
    answer = await ask(client)
    assert not answer.complete
    assert await last_line(handle) == (200, "upstream", "data", "connection_terminated")
    await turned(lambda: handle.gateway.connections == 0)


async def test_an_answer_may_take_longer_than_an_idle_connection_lives(warm, upstream, at_once):
    handle, client = await warm({"HTTP_CLIENT_KEEPALIVE": "100ms"})
    go = asyncio.Event()
    upstream.on_request(ReadRequest(), WaitFor(go), OK)
    await client.send(post())
    await upstream.wait_for_request(2)
    assert under_way(handle, at_once)
    (connection,) = handle.gateway._server.clients
    await turned(lambda: connection._keepalive_handle is None)
    go.set()
    assert (await client.read_response()).status == 200
    await client.closed


async def test_requests_sent_ahead_are_answered_in_order(warm, upstream):
    _, client = await warm()
    for number in b"12":
        upstream.on_request(ReadRequest(), response(bytes([number])))
    await client.send(post() + post() + request("GET", "/health") + post("/none"))
    assert [(await client.read_response()).status for _ in range(4)] == [200, 200, 200, 404]
    assert [each.body for each in client.responses[1:3]] == [b"1", b"2"]


async def test_a_key_that_a_reload_took_back_is_good_for_what_runs_and_no_more(at_once, gateway, upstream, connect):
    key = [("Authorization", "Bearer old")]
    upstream.on_request(OK)
    handle = await gateway(KEPT, vllm=upstream, GOMODEL_MASTER_KEY="old")
    client = await connect(handle)
    assert (await ask(client, post(headers=key))).status == 200
    go = asyncio.Event()
    upstream.on_request(ReadRequest(), WaitFor(go), OK)
    await client.send(post(headers=key))
    await upstream.wait_for_request(2)
    assert under_way(handle, at_once)
    handle.gateway.reload(configured(**KEPT, **env_for(vllm=upstream), GOMODEL_MASTER_KEY="new"))
    go.set()
    assert (await client.read_response()).status == 200
    for _ in range(2):
        assert (await ask(client, post(headers=key))).status == 401
    assert await aborted(handle, 4) == {}


async def test_a_key_once_refused_is_compared_again(at_once, gateway, upstream, connect):
    upstream.repeat(OK)
    client = await connect(await gateway(KEPT, vllm=upstream, GOMODEL_MASTER_KEY="k"))
    for key, status in (("k", 200), ("x", 401), ("x", 401), ("k", 200), ("k", 200)):
        assert (await ask(client, post(headers=[("Authorization", f"Bearer {key}")]))).status == status


async def test_the_last_request_of_a_connection_closes_it(warm, upstream):
    _, client = await warm()
    upstream.on_request(OK)
    answer = await ask(client, request("POST", CHAT, [("Connection", "close")], b'{"model":"vllm/m"}'))
    assert (answer.status, answer.get("Connection"), answer.end) == (200, "close", "fin")


async def test_a_drain_lets_it_end(warm, upstream, at_once):
    handle, client = await warm()
    go = asyncio.Event()
    upstream.on_request(ReadRequest(), WaitFor(go), OK)
    await client.send(post())
    await upstream.wait_for_request(2)
    assert under_way(handle, at_once)
    draining = asyncio.create_task(handle.gateway.drain(5))
    await turned(lambda: handle.gateway.app.draining)
    go.set()
    answer = await client.read_response()
    assert (answer.status, answer.get("Connection")) == (200, "close")
    assert await draining == 0


async def test_a_client_that_does_not_read_its_answer_is_waited_for(warm, upstream, connect):
    handle, client = await warm()
    body = b"x" * (8 << 20)
    upstream.on_request(ReadRequest(), head(200, [("Content-Length", str(len(body)))]), body)
    await client.send(post())
    await turned(lambda: any(each._paused for each in handle.gateway._server.clients))
    assert (await client.read_response()).body == body
    upstream.on_request(OK)
    assert (await ask(client)).status == 200


async def test_a_request_that_came_back_is_stopped_before_it_is_sent(warm, upstream, connect):
    handle, client = await warm()
    upstream.on_request(ReadRequest(), Stall())
    await client.send(post())
    await upstream.wait_for_request(2)
    (record,) = handle.gateway.telemetry.running.records
    answer = await ask(await connect(handle), post(headers=[("X-Request-Id", record.id)]))
    assert (answer.status, answer.json()["error"]["code"]) == (508, "proxy_loop_detected")
    assert served(upstream) == [2]


BODY = b'{"model":"vllm/m","x":"' + b"y" * 9000 + b'"}'
LAST = b'{"x":"' + b"y" * 9000 + b'","model":"vllm/m"}'
JSON = [("Content-Type", "application/json")]
MADE = (Request, RequestBody, JsonReading, Upload, Outgoing, UploadFlow, Relay, Record)


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("body", [BODY, LAST], ids=["model first", "model last"])
async def test_an_upload_in_pieces_leaves_nothing_to_the_collector(warm, upstream, body, framing):
    handle, client = await warm()
    upstream.repeat(OK)
    pieces = [body[:100], body[100:6000], body[6000:]]
    raw = request("POST", CHAT, JSON, pieces if framing == "chunked" else body)
    head = raw.index(b"\r\n\r\n") + 4
    left = []
    gc.collect()
    gc.disable()
    try:
        for count in (5, 25):
            for _ in range(count):
                for low, high in ((0, head), (head, head + 150), (head + 150, len(raw))):
                    await client.send(raw[low:high])
                    if high < len(raw):
                        await turned(lambda: any(each.busy for each in handle.gateway._server.clients))
                assert (await client.read_response()).status == 200
            left.append(sum(isinstance(each, MADE) for each in gc.get_objects()))
    finally:
        gc.enable()
    assert left[0] == left[1]
    assert {seen.body for seen in upstream.requests[1:]} == {body.replace(b"vllm/", b"")}


async def test_a_request_leaves_nothing_to_the_collector(warm, upstream):
    """A body that only the collector could free would stay for thousands of requests."""
    _, client = await warm()
    upstream.repeat(OK)
    left = []
    gc.collect()
    gc.disable()
    try:
        for count in (5, 25):
            for number in range(count):
                assert (await ask(client, post(headers=[("X-N", str(number))]))).status == 200
            left.append(sum(isinstance(each, MADE) for each in gc.get_objects()))
    finally:
        gc.enable()
    assert left[0] == left[1]
