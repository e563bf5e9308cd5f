"""What came in is what went out, both ways: a byte that gomodel itself changed, lost or doubled is found."""

import asyncio
from dataclasses import replace
from zlib import crc32

import pytest

from gomodel.downstream.body import RequestBody
from gomodel.http1.writers import Chunked
from gomodel.relay import at_once
from gomodel.relay.event_flow import EventFlow
from gomodel.relay.exchange import Exchange
from gomodel.relay.relay import Relay
from gomodel.selector import json_search

from ..harness.forms import form
from ..harness.forms import post as form_post
from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    Fin,
    ReadBody,
    ReadHead,
    SendPieces,
    WaitFor,
    chunked,
    head,
    json_response,
    let_peers_run,
    request,
    response,
    sse,
)
from ..harness.verdicts import CHAT, OK, access_lines, ask, counted, post, turned

SUMMED = {"DIGEST": "all"}
WHOLE = b'{"model":"vllm/m","messages":[]}'


def mismatches(handle):
    return dict(handle.gateway.telemetry.mismatches)


ANSWER = b'{"id":"ok"}'
NONE = {"request": 0, "response": 0}
STREAM = sse(["1", "2", "[DONE]"])
EVENTS = b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n"
REQUESTS = {
    "whole": request("POST", CHAT, [], body=WHOLE),
    "in chunks": request("POST", CHAT, [("Transfer-Encoding", "chunked")]) + chunked(WHOLE[:9], WHOLE[9:]) + LAST_CHUNK,
    "a model with escapes": request("POST", CHAT, [], body=b'{"x":1,"model":"vll\\u006d\\/m"}'),
    "another model for an alias": request("POST", CHAT, [], body=b'{"x":1,"model":"gpt"}'),
    "a form": form_post(form("vllm/m", "last")),
    "without a model": request("POST", CHAT, [], body=b"{}"),
    "passthrough": request("POST", "/p/vllm/x", [], body=b"x" * 100_000),
    "without a body": request("GET", "/p/vllm/x"),
}
ANSWERS = {
    "of a length": (json_response({"id": 1}), b'{"id": 1}'),
    "a stream": (STREAM, EVENTS),
    "with its connection": (head(200, []) + b"abc", b"abc"),
    "no content": (head(204), b""),
    "an empty one": (response(b""), b""),
    "a refusal": (response(b"busy", 503), b"busy"),
}


@pytest.mark.parametrize("way", REQUESTS)
async def test_a_request_that_is_sent_on_as_it_came_is_no_mismatch(gateway, upstream, connect, way):
    upstream.on_request(OK)
    handle = await gateway({**SUMMED, "MODEL_ALIASES": "gpt=vllm/org/another"}, vllm=upstream)
    await ask(await connect(handle), REQUESTS[way])
    await counted(handle, 1)
    assert mismatches(handle) == NONE
    [line] = access_lines(handle)
    assert line["digest"].endswith(f"/{crc32(ANSWER):08x}")


@pytest.mark.parametrize("way", ANSWERS)
async def test_an_answer_that_is_sent_on_as_it_came_is_no_mismatch(gateway, upstream, connect, way):
    sent, body = ANSWERS[way]
    upstream.on_request(sent, *([Fin()] if way == "with its connection" else []))
    handle = await gateway(SUMMED, vllm=upstream)
    assert (await ask(await connect(handle), REQUESTS["whole"])).body == body
    await counted(handle, 1)
    assert mismatches(handle) == NONE
    assert access_lines(handle)[0]["digest"] == f"{crc32(WHOLE):08x}/{crc32(body):08x}"


async def test_events_that_come_one_by_one_are_sent_on_and_no_mismatch(gateway, upstream, connect):
    events = b"data: 1, as long as most\n\n", b"data: 2, as long as most\n\n"
    upstream.on_request(SendPieces((SSE_HEAD, *map(chunked, events), LAST_CHUNK)))
    handle = await gateway(SUMMED, vllm=upstream)
    assert (await ask(await connect(handle))).body == b"".join(events)
    await counted(handle, 1)
    assert mismatches(handle) == NONE


async def test_neither_is_what_a_client_does_not_wait_for_or_an_instance_breaks_off(gateway, upstream, connect):
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(asyncio.Event()))
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Fin())
    handle = await gateway(SUMMED, vllm=upstream)
    leaving = await connect(handle)
    await leaving.send(post())
    await leaving.read_until(b"data: 1")
    leaving.fin()
    await counted(handle, 1)
    await ask(await connect(handle))
    await counted(handle, 2)
    assert mismatches(handle) == NONE


async def test_every_attempt_is_summed_by_itself(gateway, upstream, make_upstream, connect):
    gone, twin = await make_upstream(), await make_upstream()
    gone.on_request(response(b'{"error":{"message":"The engine is currently busy.","code":503}}', 503))
    twin.on_request(OK)
    handle = await gateway(SUMMED, vllm=f"{gone.base_url},{twin.base_url}")
    while not (gone.requests and twin.requests):
        gone.on_request(OK)
        twin.on_request(OK)
        await ask(await connect(handle))
    assert mismatches(handle) == NONE


def flipped(data):
    """With one bit of one of its letters changed."""
    at = next((at for at in map(data.rfind, (b"essage", b"x", b"ok", b"data: 2")) if at >= 0), -1)
    return data if at < 0 else data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def through(change, *arguments):
    """Arguments of a call, the bytes among them changed."""
    return [change(each) if isinstance(each, bytes) else each for each in arguments]


def plant(monkeypatch, owner, name, change, *, result=False):
    """A fault between the two points: `change` is done to the bytes that a method is given, or returns."""
    original = getattr(owner, name)

    def faulty(*arguments, **more):
        if result:
            return change(original(*arguments, **more))
        changed = through(change, *arguments)
        return True if None in changed else original(*changed, **more)  # as if it had been dealt with

    monkeypatch.setattr(owner, name, faulty)


def lost(data):
    return None if b"data: 2" in data else data


def doubled(data):
    return data.replace(b"ok", b"okk")


UPLOAD = [request("POST", CHAT, [("Content-Length", str(len(WHOLE)))]) + WHOLE[:20], WHOLE[20:]]
IN_CHUNKS = [
    request("POST", CHAT, [("Transfer-Encoding", "chunked")]) + chunked(WHOLE[:20]),
    chunked(WHOLE[20:]) + LAST_CHUNK,
]
IN_REQUESTS = {
    "an upload": (UPLOAD, RequestBody, "take", lambda pieces: [*map(flipped, pieces)]),
    "an upload in chunks": (IN_CHUNKS, RequestBody, "take", lambda pieces: [*map(flipped, pieces)]),
    "a piece of one": (UPLOAD, RequestBody, "take", lambda pieces: pieces[1:]),
    "a piece that is framed": (IN_CHUNKS, Chunked, "parts", lambda parts: [*map(flipped, parts)]),
}


@pytest.mark.parametrize("where", IN_REQUESTS)
async def test_a_fault_in_a_request_is_found(gateway, upstream, connect, monkeypatch, where):
    pieces, owner, name, change = IN_REQUESTS[where]
    upstream.on_request(ReadHead(), ReadBody(), OK)
    never_whole = {"HTTP_RESPONSE_HEADER_TIMEOUT": "300ms"} if where == "a piece of one" else {}
    handle = await gateway(SUMMED, vllm=upstream, **never_whole)
    plant(monkeypatch, owner, name, change, result=True)
    client = await connect(handle)
    for piece in pieces:
        await client.send(piece)
        await let_peers_run()
    await client.read_response()
    await counted(handle, 1)
    assert mismatches(handle) == {"request": 1, "response": 0}
    [line] = access_lines(handle)
    handle.expect_error(f"The request body of request {line['request_id']} is not the one that came in")


@pytest.mark.interpreted
async def test_a_fault_in_what_came_with_its_head_is_found(gateway, upstream, connect, monkeypatch):
    upstream.repeat(OK)
    handle = await gateway(SUMMED, vllm=upstream)
    client = await connect(handle)
    await ask(client)  # from the next one on there is a connection to send it over at once
    original = Exchange.begin

    def begin(exchange, channel, head, outgoing):
        outgoing.parts = [*map(flipped, outgoing.parts)]
        original(exchange, channel, head, outgoing)

    monkeypatch.setattr(Exchange, "begin", begin)
    await ask(client, REQUESTS["whole"])
    await counted(handle, 2)
    assert mismatches(handle) == {"request": 1, "response": 0}
    handle.expect_error("The request body of request")


async def test_a_cut_in_the_wrong_place_is_found(gateway, upstream, connect, monkeypatch):
    upstream.on_request(ReadHead(), ReadBody(), OK)
    handle = await gateway(SUMMED, vllm=upstream)
    original = RequestBody.cut
    monkeypatch.setattr(RequestBody, "cut", lambda body, at, size: original(body, at + 1, size))
    client = await connect(handle)
    for piece in UPLOAD:
        await client.send(piece)
        await let_peers_run()
    await client.read_response()
    await counted(handle, 1)
    assert mismatches(handle) == {"request": 1, "response": 0}
    handle.expect_error("The request body of request")


@pytest.mark.interpreted
async def test_a_model_that_is_found_in_the_wrong_place_is_found(gateway, upstream, connect, monkeypatch):
    upstream.repeat(OK)
    handle = await gateway(SUMMED, vllm=upstream)
    client = await connect(handle)
    await ask(client)  # as above

    def shifted(original):
        def look(*arguments):
            found = original(*arguments)
            return found and replace(found, start=found.start + 1, end=found.end + 1)

        return look

    monkeypatch.setattr(at_once, "_usual", shifted(at_once._usual))
    monkeypatch.setattr(json_search, "usual", shifted(json_search.usual))
    await ask(client, REQUESTS["whole"])
    await counted(handle, 2)
    assert mismatches(handle) == {"request": 1, "response": 0}
    handle.expect_error("The request body of request")


EVENT = b"data: 2, as long as most\n\n"
JSON = json_response({"is": "ok"})
LONG = head(200, [("Content-Length", "4")])
IN_ANSWERS = {
    "in an event": ((SSE_HEAD, chunked(EVENT), chunked(EVENT), LAST_CHUNK), EventFlow, "takes", flipped),
    "an event": ((SSE_HEAD, chunked(EVENT), chunked(EVENT), LAST_CHUNK), EventFlow, "takes", lost),
    "in a piece": ((LONG, b"okok"), Relay, "on_data", flipped),
    "in what comes with the head": ((JSON,), Relay, "on_response", flipped),
    "in a piece that is framed": ((SSE_HEAD, chunked(b"ok"), chunked(b"ok"), LAST_CHUNK), Chunked, "write", doubled),
}


@pytest.mark.parametrize("where", IN_ANSWERS)
async def test_a_fault_in_an_answer_is_found(gateway, upstream, connect, monkeypatch, where):
    sent, owner, name, change = IN_ANSWERS[where]
    upstream.on_request(SendPieces(sent))
    handle = await gateway(SUMMED, vllm=upstream)
    plant(monkeypatch, owner, name, change)
    client = await connect(handle)
    await client.send(post())
    await client.read_response()
    await counted(handle, 1)
    assert mismatches(handle) == {"request": 0, "response": 1}
    [line] = access_lines(handle)
    handle.expect_error(f"The response body of request {line['request_id']} is not the one that came in")


@pytest.mark.parametrize(("digest", "summed"), [("off", 0), ("sampled", 1), ("all", 101)])
async def test_one_of_101_requests_is_summed_unless_an_operator_says_otherwise(
    gateway, upstream, connect, digest, summed
):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream, DIGEST=digest)
    client = await connect(handle)
    for _ in range(101):
        await ask(client)
    await turned(lambda: len(access_lines(handle)) == 101)
    assert sum("digest" in line for line in access_lines(handle)) == summed
