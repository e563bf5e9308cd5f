"""Busy is not broken: a vLLM that is full, paused or scaling says 503 before any work; another one may have room."""

import asyncio
import json
from time import monotonic

import pytest

from gomodel.downstream.body import IN_MEMORY_BYTES

from ..harness.forms import form
from ..harness.forms import post as form_post
from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    ReadBody,
    ReadHead,
    SendByteByByte,
    WaitFor,
    chunked,
    json_response,
    request,
    response,
)
from ..harness.verdicts import CHAT, OK, ask, own_error, post, turned

BUSY_TEXT = "The engine is currently busy. Please try again later or on a different instance."
BUSY = json_response(
    {"error": {"message": BUSY_TEXT, "type": "ServiceUnavailableError", "param": None, "code": 503}},
    503,
    [("server", "uvicorn")],
)
SCALING = json_response({"error": "The model is currently scaling. Please try again later."}, 503)
PAUSED = json_response(
    {"error": {"message": "Generation is paused. Please retry after it resumes.", "type": "Error", "code": 503}}, 503
)
UNLOADED = json_response(
    {"error": {"message": "The model `m` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}}, 404
)
BROKEN = response(b"<html>503 Service Temporarily Unavailable</html>", 503)
BARE = post(model="m")
BREAKER = {"CIRCUIT_BREAKER_FAILURE_THRESHOLD": "2", "CIRCUIT_BREAKER_TIMEOUT": "60s"}


@pytest.fixture
async def pair(gateway, make_upstream, connect):
    one, other = await make_upstream(), await make_upstream()
    handle = await gateway(BREAKER, vllm=one, vllm_b=other)
    client = await connect(handle)
    await ask(client, request("GET", "/v1/models"))
    return handle, client, one, other


def body_of(raw: bytes) -> bytes:
    return raw.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("busy", [BUSY, SCALING, PAUSED])
@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/v1/responses", "/v1/embeddings"])
async def test_nobody_sees_it_while_another_instance_has_room(pair, busy, path):
    handle, client, one, other = pair
    one.repeat(busy)
    other.repeat(OK)
    for _ in range(10):
        answer = await ask(client, post(path, model="m"))
        assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
    assert handle.replica().breaker.closed


async def test_all_busy_the_last_ones_answer_passes_as_it_came_and_no_breaker_opens(pair):
    handle, client, one, other = pair
    for each in (one, other):
        each.repeat(SendByteByByte(BUSY))
    for number in range(1, 6):
        answer = await ask(client, BARE)
        assert (answer.status, answer.body, answer.get("server")) == (503, body_of(BUSY), "uvicorn")
        assert (len(one.requests), len(other.requests)) == (number, number)
    for each in handle.gateway.providers.replicas:
        assert each.breaker.closed
    # Nothing stays shut once there is room again.
    one.repeat(OK)
    assert [(await ask(client, BARE)).status for _ in range(3)] == [200] * 3


@pytest.mark.parametrize("busy", [BUSY, SCALING, PAUSED])
async def test_a_bound_request_gets_it_as_it_came_and_the_breaker_does_not_count_it(pair, busy):
    handle, client, one, other = pair
    one.repeat(busy)
    for _ in range(5):
        answer = await ask(client, post(model="vllm/m"))
        assert (answer.status, answer.body, answer.get("X-GoModel-Provider")) == (503, body_of(busy), "vllm")
    assert (len(one.requests), other.requests) == (5, [])
    assert handle.replica().breaker.closed
    # Whoever asks, it is busy; others had better go elsewhere.
    assert handle.replica().demotion.until > 0


async def test_any_other_503_is_a_failure_and_goes_nowhere_else(pair):
    _, client, one, other = pair
    one.repeat(BROKEN)
    other.repeat(BROKEN)
    for number in (1, 2):
        answer = await ask(client, BARE)
        assert (answer.status, answer.body) == (503, body_of(BROKEN))
        assert len(one.requests) + len(other.requests) == number
    # Each has had one; the second in a row is one too many.
    assert (await ask(client, post(model="vllm/m"))).body == body_of(BROKEN)
    own_error(await ask(client, post(model="vllm/m")), 503, "circuit_open")


async def test_being_busy_is_no_success_either(pair):
    _, client, one, _ = pair
    for answer in (BROKEN, BUSY, BROKEN):
        one.on_request(answer)
        assert (await ask(client, post(model="vllm/m"))).body == body_of(answer)
    own_error(await ask(client, post(model="vllm/m")), 503, "circuit_open")


@pytest.mark.usefixtures("first_of_equals")
async def test_one_that_was_full_gets_requests_again_as_soon_as_one_of_its_own_ends_well(pair, connect):
    handle, client, one, other = pair
    go_on = asyncio.Event()
    one.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(go_on), LAST_CHUNK)
    running = await connect(handle)
    await running.send(post(model="vllm/m"))
    await running.read_head()
    one.on_request(BUSY)
    other.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(go_on), LAST_CHUNK)
    other.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(asyncio.Event()), LAST_CHUNK)
    clients = [await connect(handle) for _ in range(2)]
    for each in clients:
        await each.send(BARE)
        assert (await each.read_head()).get("X-GoModel-Provider") == "vllm-b"
    assert len(one.requests) == 2
    go_on.set()
    await running.read_rest()
    one.on_request(OK)
    assert (await ask(client, BARE)).get("X-GoModel-Provider") == "vllm"


@pytest.mark.parametrize("size", [1000, 400_000])
async def test_a_form_that_was_received_whole_goes_on_whole(pair, spools, size):
    _, client, one, other = pair
    sent = form("m", wav=b"x" * size)
    one.repeat(BUSY)
    other.repeat(OK)
    for _ in range(3):
        assert (await ask(client, form_post(sent))).get("X-GoModel-Provider") == "vllm-b"
        assert other.requests[-1].body == sent
    await turned(lambda: spools() == 0)


@pytest.mark.usefixtures("first_of_equals")
async def test_a_large_body_that_streams_through_gets_the_answer(pair):
    _, client, one, other = pair
    one.lenient = True
    one.on_request(ReadHead(), ReadBody(IN_MEMORY_BYTES + 1), BUSY, WaitFor(asyncio.Event()))
    body = json.dumps({"model": "m", "t": "x" * (IN_MEMORY_BYTES + 100)}).encode()
    raw = request("POST", CHAT, [("Content-Type", "application/json")], body)
    await client.send(raw[:-3])
    answer = await client.read_response()
    assert (answer.status, answer.body, other.requests) == (503, body_of(BUSY), [])


@pytest.mark.usefixtures("first_of_equals")
@pytest.mark.parametrize("chunks", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("at_once", [False, True], ids=["while it comes", "once it is here"])
async def test_another_takes_what_comes_in_pieces_as_long_as_it_can_be_sent_again(pair, chunks, at_once):
    _, client, one, other = pair
    one.lenient = True
    one.on_request(ReadHead(), *([ReadBody()] if at_once else []), BUSY, WaitFor(asyncio.Event()))
    other.on_request(OK)
    body = json.dumps({"model": "m", "t": "x" * 90_000}).encode()
    pieces = [body[:20], body[20:60_000], body[60_000:]]
    raw = request("POST", CHAT, [("Content-Type", "application/json")], pieces if chunks else body)
    await client.send(raw[:-30_000])
    await one.wait_for_request()
    if not at_once:
        await other.wait_for_request()
    await client.send(raw[-30_000:])
    answer = await client.read_response()
    assert (answer.status, answer.get("X-GoModel-Provider"), answer.end) == (200, "vllm-b", "keepalive")
    assert other.requests[0].body == body


@pytest.mark.usefixtures("first_of_equals")
async def test_attempts_are_limited(gateway, make_upstream, connect):
    upstreams = [await make_upstream() for _ in range(4)]
    for each in upstreams:
        each.repeat(BUSY)
    handle = await gateway(**dict(zip(("vllm", "vllm_b", "vllm_c", "vllm_d"), upstreams, strict=True)))
    client = await connect(handle)
    await ask(client, request("GET", "/v1/models"))
    assert (await ask(client, BARE)).body == body_of(BUSY)
    assert [len(each.requests) for each in upstreams] == [1, 1, 1, 0]
    assert handle.gateway.telemetry.retries == {"vllm": 1, "vllm-b": 1}


@pytest.mark.usefixtures("first_of_equals")
@pytest.mark.parametrize("threshold", ["1", "100"], ids=["the breaker opens", "attempts run out"])
async def test_its_answer_says_more_than_that_nobody_else_is_there(gateway, make_upstream, connect, threshold):
    one, other = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=one, vllm_b=other, CIRCUIT_BREAKER_FAILURE_THRESHOLD=threshold)
    client = await connect(handle)
    await ask(client, request("GET", "/v1/models"))
    one.repeat(BUSY)
    other.stop_listening()
    answer = await ask(client, BARE)
    assert (answer.status, answer.body, answer.get("X-GoModel-Provider")) == (503, body_of(BUSY), "vllm")
    assert handle.gateway.telemetry.connects["vllm-b", "connection_refused"] == (1 if threshold == "1" else 2)


@pytest.mark.usefixtures("first_of_equals")
async def test_a_busy_one_is_no_wrong_list_so_an_unloaded_model_may_still_be_looked_for(
    gateway, make_upstream, connect
):
    upstreams = [await make_upstream() for _ in range(3)]
    for each, answer in zip(upstreams, (BUSY, UNLOADED, OK), strict=True):
        each.repeat(answer)
    handle = await gateway(**dict(zip(("vllm", "vllm_b", "vllm_c"), upstreams, strict=True)))
    client = await connect(handle)
    await ask(client, request("GET", "/v1/models"))
    answer = await ask(client, BARE)
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-c")
    assert [len(each.requests) for each in upstreams] == [1, 1, 1]


async def test_a_trial_that_finds_it_busy_has_found_it(gateway, upstream, connect):
    """The server is back; that it is full is said by its own answer, not by the breaker."""
    handle = await gateway(
        vllm=upstream,
        CIRCUIT_BREAKER_FAILURE_THRESHOLD="1",
        CIRCUIT_BREAKER_TIMEOUT="50ms",
        RETRY_MAX_RETRIES="0",
    )
    client = await connect(handle)
    upstream.on_request(BROKEN)
    await ask(client)
    breaker = handle.replica().breaker
    assert not breaker.closed
    upstream.repeat(BUSY)
    await turned(lambda: breaker.candidate(monotonic()))
    assert (await ask(client)).body == body_of(BUSY)
    assert breaker.closed
