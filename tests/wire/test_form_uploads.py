"""While a form's `model` is looked for the upload waits on disk; what comes behind streams; nothing is left over."""

import asyncio
import errno
import hashlib
import os
import tracemalloc

import pytest

from ..harness.forms import WAV, form, part, post
from ..harness.scripted import SSE_HEAD, ReadBody, ReadHead, Stall, WaitFor, chunked, json_response, request
from ..harness.verdicts import OK, ask, own_error, turned
from ..harness.wire import Signal

# No limit that could end what has to end by itself.
PATIENT = {f"HTTP_{phase}_TIMEOUT": "60s" for phase in ("RESPONSE_HEADER", "STREAM_IDLE", "REQUEST_IDLE", "WRITE_IDLE")}
BIG = b"x" * 400_000  # on disk when it stands before the field


async def test_a_form_over_the_limit_is_refused_whether_its_length_is_known_or_not(gateway, upstream, connect, spools):
    handle = await gateway(vllm=upstream, BODY_SIZE_LIMIT="1M")
    client = await connect(handle)
    await client.send(post((1 << 20) + 1))
    own_error(await client.read_response(), 413, "body_too_large", "invalid_request_error")
    client = await connect(handle)
    whole = form("vllm/m", wav=b"x" * 65536 * 200)
    await client.send(post([whole[at : at + 65536] for at in range(0, len(whole), 65536)]))
    own_error(await client.read_response(), 413, "body_too_large", "invalid_request_error")
    assert upstream.connections == []
    await turned(lambda: spools() == 0)


async def test_what_stands_behind_the_field_streams_through_while_it_arrives(gateway, upstream, connect):
    upstream.on_request(ReadHead(), ReadBody(), OK)
    client = await connect(await gateway(vllm=upstream))
    whole = form("vllm/m", "first")
    expected = form("m", "first")
    await client.send(post(len(whole)) + whole[:80])
    # The delimiter behind the value is what ends it.
    await client.send(whole[80:120])
    seen = await upstream.wait_for_request()
    for at in range(120, len(whole)):
        await client.send(whole[at : at + 1])
        await turned(lambda at=at: len(seen.body) == at + 1 - len("vllm/"))
    assert (await client.read_response()).status == 200
    assert seen.body == expected


async def test_a_large_file_before_the_field_waits_on_disk_and_not_in_memory(gateway, upstream, connect, spools):
    digest = hashlib.sha256()
    taken = Signal("the end of the upload")

    async def take(connection):
        """Reads on without keeping it, as the harness would."""
        wire, data = connection.wire, connection.current.body
        missing = int(connection.current.get("Content-Length"))
        while data:
            digest.update(data)
            missing -= len(data)
            data = await wire.read() if missing else b""
            wire.received.clear()
            wire.segments.clear()
        taken.set()

    upstream.lenient = True
    upstream.on_request(ReadHead(), take, OK)
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    piece = bytes(range(256)) * 256
    opening = part("file", b"", "b0undary", "a.wav")[:-2]
    closing = b"\r\n" + part("model", b"vllm/m", "b0undary") + b"--b0undary--\r\n"
    pieces = 320  # 20 MB
    expected = hashlib.sha256(opening)
    tracemalloc.start()
    try:
        await client.send(post(len(opening) + pieces * len(piece) + len(closing)) + opening)
        base = tracemalloc.get_traced_memory()[0]
        for _ in range(pieces):
            await client.send(piece)
            expected.update(piece)
        await turned(lambda: spools() == 1)
        assert upstream.requests == []
        await client.send(closing)
        await taken
        peak = tracemalloc.get_traced_memory()[1] - base
    finally:
        tracemalloc.stop()
    expected.update(closing.replace(b"vllm/m", b"m"))
    assert digest.digest() == expected.digest()
    assert peak < 4 << 20
    client.wire.close()
    await turned(lambda: spools() == 0)


@pytest.mark.parametrize("wav", [WAV, BIG], ids=["in memory", "on disk"])
async def test_an_answer_in_events_streams_back(gateway, upstream, connect, wav, spools):
    go_on = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(go_on), chunked(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    client = await connect(await gateway(vllm=upstream))
    await client.send(post(form("vllm/m", wav=wav)))
    answer = await client.read_head()
    assert await client.read_chunk() == b"data: 1\n\n"
    assert answer.get("X-Accel-Buffering") == "no"
    go_on.set()
    assert (await client.read_rest()).body == b"data: 1\n\ndata: [DONE]\n\n"
    assert upstream.requests[0].body == form("m", wav=wav)
    await turned(lambda: spools() == 0)


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_client_that_leaves_during_the_upload_leaves_no_file(gateway, upstream, connect, how, spools):
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    whole = post(form("vllm/m", wav=BIG))
    await client.send(whole[:-50])
    await turned(lambda: spools() == 1)
    client.reset() if how == "reset" else client.fin()
    await turned(lambda: spools() == 0 and not handle.gateway.telemetry.running.records)
    assert upstream.connections == []


@pytest.mark.parametrize(
    ("size", "steps"),
    [
        pytest.param(12 << 20, (ReadHead(), Stall()), id="passed on"),
        pytest.param(3 << 20, (ReadHead(), Stall()), id="passed on as far as the kernel"),
        pytest.param(4 << 20, (Stall(),), id="waiting"),
        pytest.param(4 << 20, (SSE_HEAD, Stall()), id="answered"),
    ],
)
async def test_a_client_that_leaves_later_leaves_no_file_either(gateway, upstream, connect, spools, size, steps):
    upstream.lenient = True
    upstream.on_request(*steps)
    client = await connect(await gateway(vllm=upstream, **PATIENT))
    await client.send(post(form("vllm/m", wav=b"x" * size)))
    seen = await upstream.wait_for_request()
    if SSE_HEAD in steps:
        await client.read_head()
    assert spools() == 1
    client.fin()
    await turned(lambda: spools() == 0)
    await seen.connection.closed


async def test_an_upload_that_stalls_before_the_field_is_a_408(gateway, upstream, connect, spools):
    client = await connect(await gateway(vllm=upstream, HTTP_REQUEST_IDLE_TIMEOUT="100ms"))
    await client.send(post(form("vllm/m", wav=BIG))[:-50])
    own_error(await client.read_response(), 408, "request_timeout", "invalid_request_error")
    await turned(lambda: spools() == 0)
    assert upstream.connections == []


@pytest.mark.parametrize("wav", [WAV, BIG], ids=["in memory", "on disk"])
async def test_a_form_goes_to_the_next_instance_when_one_cannot_be_reached(
    gateway, make_upstream, connect, wav, spools
):
    gone, other = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=gone, vllm_b=other)
    await ask(await connect(handle), request("GET", "/v1/models"))
    gone.stop_listening()
    other.on_request(OK)
    answer = await ask(await connect(handle), post(form("m", wav=wav)))
    assert (answer.status, other.requests[0].body) == (200, form("m", wav=wav))
    refused = await ask(await connect(handle), post(form("vllm/m", wav=wav)))
    own_error(refused, 502, "connection_refused")
    await turned(lambda: spools() == 0)


@pytest.mark.parametrize("wav", [WAV, BIG], ids=["in memory", "on disk"])
async def test_a_client_that_waits_for_100_is_told_to_go_on(gateway, upstream, connect, wav):
    upstream.on_request(OK)
    client = await connect(await gateway(vllm=upstream))
    body = form("vllm/m", wav=wav)
    await client.send(post(len(body), headers=[("Expect", "100-continue")]))
    assert await client.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    await client.send(body)
    assert (await client.read_response()).status == 200
    assert (upstream.requests[0].body, upstream.requests[0].get("Expect")) == (form("m", wav=wav), None)


async def test_an_upload_for_which_the_disk_has_no_room_is_a_503(gateway, upstream, connect, spools, monkeypatch):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("gomodel.downstream.spool.TemporaryFile", full)
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(post(form("vllm/m", wav=BIG)))
    answer = await client.read_response()
    own_error(answer, 503, "spool_full", "overloaded_error")
    assert answer.get("Retry-After") == "5"
    said = [each.getMessage() for each in handle.logs.records if each.levelname == "WARNING"]
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert (upstream.connections, spools()) == ([], 0)


async def test_a_refusal_of_the_instance_during_the_upload_passes(gateway, upstream, connect):
    upstream.lenient = True
    upstream.on_request(ReadHead(), json_response({"error": "too large"}, 400), Stall())
    client = await connect(await gateway(vllm=upstream))
    whole = post(form("vllm/m", "first", wav=BIG))
    await client.send(whole[:2000])
    answer = await client.read_response()
    assert (answer.status, answer.body, answer.get("Connection")) == (400, b'{"error": "too large"}', "close")
    upstream.release()
