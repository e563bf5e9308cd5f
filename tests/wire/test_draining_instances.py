"""A vLLM that shuts down, loads or dies: what another instance may still take, and what the client is told."""

import asyncio
import json

import pytest

from gomodel.downstream.body import IN_MEMORY_BYTES

from ..harness.forms import form
from ..harness.forms import post as form_post
from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    Fin,
    ReadBody,
    ReadHead,
    Reset,
    SendByteByByte,
    SendPieces,
    WaitFor,
    chunked,
    head,
    json_response,
    request,
    sse_event,
)
from ..harness.verdicts import CHAT, OK, ask, own_error, turned

pytestmark = pytest.mark.usefixtures("first_of_equals")

# What vLLM answers to everything new while it drains, with /health still at 200.
REFUSAL = {
    "error": {
        "message": "cannot schedule new futures after shutdown",
        "type": "InternalServerError",
        "param": None,
        "code": 500,
    }
}
DRAINING = json_response(REFUSAL, 500, [("server", "uvicorn")])
OTHER_500 = json_response({"error": {"message": "boom", "code": 500}}, 500)


def post(model="m", path=CHAT, **fields):
    body = json.dumps({"model": model, **fields}).encode()
    return request("POST", path, [("Content-Type", "application/json")], body)


@pytest.fixture
async def pair(gateway, make_upstream, connect):
    """A gateway whose two instances both list `m`, and whose lists are known; a client of it, and the two."""
    one, other = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=one, vllm_b=other)
    client = await connect(handle)
    await ask(client, request("GET", "/v1/models"))
    return handle, client, one, other


REFUSALS = [
    pytest.param((DRAINING,), id="whole"),
    pytest.param((SendByteByByte(DRAINING),), id="byte by byte"),
    pytest.param((SendPieces((DRAINING[:60], DRAINING[60:-30], DRAINING[-30:])),), id="in pieces"),
    pytest.param((DRAINING, Fin()), id="then closed"),
]


@pytest.mark.parametrize("steps", REFUSALS)
@pytest.mark.parametrize("path", [CHAT, "/v1/responses", "/v1/messages", "/tokenize", "/v1/embeddings"])
async def test_another_instance_takes_what_a_draining_one_refuses(pair, steps, path):
    handle, client, one, other = pair
    one.on_request(*steps)
    other.on_request(OK)
    answer = await ask(client, post(path=path, stream=True))
    assert (answer.status, answer.body, answer.get("X-GoModel-Provider")) == (200, b'{"id":"ok"}', "vllm-b")
    assert one.requests[0].body == other.requests[0].body
    assert handle.gateway.telemetry.retries == {"vllm": 1}
    # Going away in good order is no failure.
    assert handle.replica().breaker.closed


async def test_a_streaming_answer_of_the_other_instance_arrives_whole(pair):
    _, client, one, other = pair
    one.on_request(DRAINING)
    events = [sse_event({"token": token}) for token in "abc"]
    other.on_request(SendPieces((SSE_HEAD, *(chunked(event) for event in events), LAST_CHUNK)))
    answer = await ask(client, post(stream=True))
    assert (answer.body, answer.complete, answer.get("X-GoModel-Provider")) == (b"".join(events), True, "vllm-b")


@pytest.mark.parametrize("steps", REFUSALS)
async def test_a_bound_request_gets_the_refusal_unchanged(pair, steps):
    _, client, one, other = pair
    one.on_request(*steps)
    answer = await ask(client, post("vllm/m"))
    assert (answer.status, answer.json(), answer.get("server")) == (500, REFUSAL, "uvicorn")
    assert (answer.get("X-GoModel-Provider"), other.requests) == ("vllm", [])


@pytest.mark.parametrize("steps", REFUSALS)
async def test_the_only_instances_refusal_passes_unchanged(gateway, upstream, connect, steps):
    upstream.on_request(*steps)
    answer = await ask(await connect(await gateway(vllm=upstream)), post())
    assert (answer.status, answer.json(), len(upstream.requests)) == (500, REFUSAL, 1)
    assert answer.raw.endswith(DRAINING.partition(b"\r\n\r\n")[2])


async def test_when_all_drain_the_last_refusal_passes_unchanged(pair):
    handle, client, one, other = pair
    one.on_request(DRAINING)
    other.on_request(DRAINING)
    answer = await ask(client, post())
    assert (answer.status, answer.json(), answer.get("X-GoModel-Provider")) == (500, REFUSAL, "vllm-b")
    assert (len(one.requests), len(other.requests)) == (1, 1)
    states = {each.name: each.health.state.value for each in handle.gateway.providers.replicas}
    assert states == {"vllm": "draining", "vllm-b": "draining"}


async def test_without_retries_the_refusal_passes_unchanged(gateway, make_upstream, connect):
    one, other = await make_upstream(), await make_upstream()
    client = await connect(await gateway(vllm=one, vllm_b=other, RETRY_MAX_RETRIES="0"))
    await ask(client, request("GET", "/v1/models"))
    one.on_request(DRAINING)
    answer = await ask(client, post())
    assert (answer.status, answer.json(), other.requests) == (500, REFUSAL, [])


@pytest.mark.parametrize("steps", [(OTHER_500,), (SendByteByByte(OTHER_500),)])
async def test_any_other_500_passes_and_is_tried_nowhere_else(pair, steps):
    _, client, one, other = pair
    one.on_request(*steps)
    answer = await ask(client, post())
    assert (answer.status, answer.body) == (500, OTHER_500.partition(b"\r\n\r\n")[2])
    assert (len(one.requests), other.requests) == (1, [])


@pytest.mark.parametrize("status", [200, 400, 404, 501, 503])
async def test_the_words_mean_nothing_with_another_status(pair, status):
    _, client, one, other = pair
    one.on_request(json_response(REFUSAL, status))
    answer = await ask(client, post())
    assert (answer.status, answer.json(), other.requests) == (status, REFUSAL, [])


async def test_a_long_or_endless_500_is_not_held_back(pair):
    _, client, one, other = pair
    go_on, again = asyncio.Event(), asyncio.Event()
    one.on_request(head(500, [("Transfer-Encoding", "chunked")]) + chunked(b"first"), WaitFor(go_on), LAST_CHUNK)
    await client.send(post())
    answer = await client.read_head()
    assert (answer.status, await client.read_chunk()) == (500, b"first")
    go_on.set()
    await client.read_rest()
    body = b'{"error":"' + b"x" * 5000 + b'"}'
    one.on_request(head(500, [("Content-Length", str(len(body)))]) + body[:10], WaitFor(again), body[10:])
    await client.send(post("vllm/m"))
    await client.read_head()
    assert await client.read_chunk() == body[:10]
    again.set()
    assert ((await client.read_rest()).body, other.requests) == (body, [])


async def test_a_refusal_that_breaks_off_is_a_502(pair):
    _, client, one, other = pair
    one.on_request(DRAINING[:-10], Fin())
    own_error(await ask(client, post()), 502, "connection_terminated")
    assert other.requests == []


async def test_a_refusal_that_stalls_is_a_504_after_the_limit_of_silence(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, HTTP_STREAM_IDLE_TIMEOUT="200ms", HTTP_RESPONSE_HEADER_TIMEOUT="60s")
    upstream.on_request(DRAINING[:-10], WaitFor(asyncio.Event()))
    own_error(await ask(await connect(handle), post()), 504, "http_response_timeout")
    assert await upstream.requests[0].connection.closed


async def test_a_client_that_leaves_during_a_refusal_leaves_nothing_behind(pair):
    handle, client, one, other = pair
    one.on_request(DRAINING[:-10], WaitFor(asyncio.Event()))
    await client.send(post())
    seen = await one.wait_for_request()
    await turned(lambda: any(record.phase.name == "DATA" for record in handle.gateway.telemetry.running.records))
    client.fin()
    await seen.connection.closed
    await turned(lambda: not handle.gateway.telemetry.running.records)
    assert other.requests == []


async def test_a_large_body_that_is_still_arriving_cannot_be_sent_again(pair):
    """What has gone to the first instance is not kept, so its refusal is the answer."""
    _, client, one, other = pair
    one.on_request(ReadHead(), ReadBody(IN_MEMORY_BYTES + 1), DRAINING, WaitFor(asyncio.Event()))
    raw = post(text="x" * (IN_MEMORY_BYTES + 5000))
    await client.send(raw[:-2000])
    answer = await client.read_response()
    assert (answer.status, answer.json(), answer.get("Connection")) == (500, REFUSAL, "close")
    assert other.requests == []
    one.lenient = True


@pytest.mark.parametrize("size", [1000, 400_000, 3_000_000], ids=["in memory", "on disk", "large"])
async def test_another_instance_takes_a_form_that_was_received_whole(pair, spools, size):
    """A form whose `model` comes last has been spooled to its end before an instance is chosen."""
    _, client, one, other = pair
    sent = form("m", wav=b"x" * size)
    one.on_request(DRAINING)
    other.on_request(OK)
    answer = await ask(client, form_post(sent))
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
    assert (one.requests[0].body == sent, other.requests[0].body == sent) == (True, True)
    await turned(lambda: spools() == 0)


async def test_another_instance_takes_a_spooled_form_that_was_refused_before_it_was_sent(pair, spools):
    _, client, one, other = pair
    sent = form("m", wav=b"x" * 12_000_000)
    one.lenient = True
    one.on_request(ReadHead(), DRAINING, WaitFor(asyncio.Event()))
    other.on_request(OK)
    answer = await ask(client, form_post(sent))
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
    assert other.requests[0].body == sent
    await turned(lambda: spools() == 0)


async def test_another_instance_takes_a_long_response_whose_previous_one_was_looked_for(pair, spools):
    _, client, one, other = pair
    one.on_request(DRAINING)
    other.on_request(OK)
    answer = await ask(client, post(path="/v1/responses", input="x" * 1_000_000))
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
    assert one.requests[0].body == other.requests[0].body
    await turned(lambda: spools() == 0)


async def test_an_instance_that_is_known_to_drain_is_the_last_to_be_asked(pair):
    handle, client, one, other = pair
    one.on_request(DRAINING)
    other.repeat(OK)
    assert (await ask(client, post())).status == 200
    assert handle.replica().health.state.value == "draining"
    one.lenient = True
    one.repeat(ReadHead(), DRAINING, WaitFor(asyncio.Event()))
    raw = post(text="x" * 5000)
    await client.send(raw[:-2000])
    await turned(lambda: len(one.requests) + len(other.requests) > 2)
    await client.send(raw[-2000:])
    assert (await client.read_response()).status == 200


async def test_streams_that_run_end_well_on_a_draining_instance(pair, connect):
    handle, client, one, other = pair
    go_on = asyncio.Event()
    one.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(go_on), chunked(b"data: [DONE]\n\n") + LAST_CHUNK)
    await client.send(post("vllm/m"))
    await client.read_head()
    one.on_request(DRAINING)
    assert (await ask(await connect(handle), post("vllm/m"))).status == 500
    go_on.set()
    answer = await client.read_rest()
    assert (answer.body, answer.complete) == (b"data: 1\n\ndata: [DONE]\n\n", True)
    # The end of a stream that began before says nothing of what is new.
    assert handle.replica().health.state.value == "draining"
    assert other.requests == []


async def test_an_instance_that_loads_refuses_connections_and_another_takes_it(pair, connect):
    handle, client, one, other = pair
    one.stop_listening()
    for each in one.open_connections:
        each.wire.close()
    other.repeat(OK)
    assert (await ask(client, post())).get("X-GoModel-Provider") == "vllm-b"
    own_error(await ask(client, post("vllm/m")), 502, "connection_refused")
    one.listen()
    one.repeat(OK)
    assert (await ask(client, post("vllm/m"))).status == 200
    assert handle.replica().health.state.value == "up"


@pytest.mark.parametrize("end", [Fin(), Reset()])
@pytest.mark.parametrize("model", ["m", "vllm/m"])
async def test_an_instance_that_dies_after_its_head_truncates_the_answer_and_nobody_takes_over(pair, end, model):
    handle, client, one, other = pair
    body = b'{"choices":['
    go_on = asyncio.Event()
    one.on_request(head(200, [("Content-Length", "100")]) + body, WaitFor(go_on), end)
    await client.send(post(model))
    answer = await client.read_head()
    await client.read_body_until(body)
    go_on.set()
    await client.read_rest()
    assert (answer.body, answer.complete) == (body, False)
    assert other.requests == []
    await turned(lambda: not handle.gateway.telemetry.running.records)


async def test_an_error_event_of_a_dying_instance_is_the_clients_to_read(pair):
    _, client, one, other = pair
    body = sse_event({"error": {"message": "EngineCore died", "code": 500}}) + b"data: [DONE]\n\n"
    one.on_request(SSE_HEAD + chunked(body) + LAST_CHUNK, Fin())
    answer = await ask(client, post())
    assert (answer.status, answer.body, answer.complete, other.requests) == (200, body, True, [])
