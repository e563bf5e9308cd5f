"""What a client sees when an instance fails after its response head went out: the bytes so far and no clean end."""

import asyncio
import json

import pytest

from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    Close,
    Dribble,
    Fin,
    Reset,
    SendPieces,
    Stall,
    WaitFor,
    chunked,
    head,
    sse_event,
)
from ..harness.verdicts import CANARY, KEPT, OK, aborted, access_lines, ask, counted, post, tells_nothing

pytestmark = pytest.mark.transports("tcp", "tls", "unix")

EVENT = sse_event({"token": "a"})
OPENAI = {
    "error": {
        "message": "The stream from instance 'vllm' was interrupted before it was complete.",
        "type": "upstream_error",
        "param": None,
        "code": "stream_interrupted",
    }
}
JSON_HEAD = head(200, [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")])
CLOSE_DELIMITED = head(200, [("Content-Type", "text/event-stream")])
GZIP_HEAD = SSE_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n")
LENGTH_HEAD = head(200, [("Content-Type", "text/event-stream"), ("Content-Length", "1000")])
STALL = {"HTTP_STREAM_IDLE_TIMEOUT": "150ms"}

# How an instance breaks off; each after its bytes so far have reached the client.
ENDS = [
    pytest.param((Fin(),), {}, id="fin"),
    pytest.param((Reset(),), {}, id="reset"),
    pytest.param((Stall(),), STALL, id="silence"),
    pytest.param((b"zz\r\n" + CANARY.encode(), Stall()), {}, id="bad chunk size"),
    pytest.param((b"ffffffffffffffff1\r\n" + CANARY.encode(), Stall()), {}, id="chunk size overflow"),
    pytest.param((b"0\r", Fin()), {}, id="half a last chunk"),
    pytest.param((b"0\r\n", Fin()), {}, id="no blank line after the last chunk"),
    pytest.param((b"0\r\n" + CANARY.encode(), Fin()), {}, id="half a trailer"),
    pytest.param((b"5", Fin()), {}, id="half a chunk size"),
]


async def relayed(gateway, upstream, connect, sent, seen, steps, settings, raw=None):
    """Relay `sent`, let the client read up to `seen`, then let `steps` happen; the handle, client and whole answer."""
    go_on = asyncio.Event()
    upstream.on_request(sent, WaitFor(go_on), *steps)
    handle = await gateway(KEPT, vllm=upstream, **settings)
    client = await connect(handle)
    await client.send(raw if raw is not None else post())
    answer = await client.read_head()
    if seen:
        await client.read_body_until(seen)
    go_on.set()
    await client.read_rest()
    await upstream.requests[0].connection.closed
    return handle, client, answer


async def broken(gateway, upstream, connect, *args):
    """The same, for what ends the client's connection; the handle and the answer, by then with all its bytes."""
    handle, client, answer = await relayed(gateway, upstream, connect, *args)
    assert (await client.closed, answer.end) in (("fin", "fin"), ("reset", "reset"))
    assert await client.read_all_until_close() == b""
    return handle, answer


@pytest.mark.parametrize(("steps", "settings"), ENDS)
@pytest.mark.parametrize("so_far", [b"", EVENT, EVENT * 2, b": keep-alive\n\n", b"data: a\r\n\r\n", b"data: a\r\r"])
async def test_a_stream_that_breaks_off_between_events_ends_with_an_error_event_and_no_end(
    gateway, upstream, connect, steps, settings, so_far
):
    sent = SSE_HEAD + (chunked(so_far) if so_far else b"")
    handle, answer = await broken(gateway, upstream, connect, sent, so_far, steps, settings)
    assert answer.status == 200
    assert answer.body.startswith(so_far)
    event = answer.body.removeprefix(so_far)
    assert (event[:6], event[-2:], event.count(b"\n")) == (b"data: ", b"\n\n", 2)
    assert json.loads(event[6:]) == OPENAI
    assert (answer.complete, answer.end, answer.malformed) == (False, "fin", None)
    assert await aborted(handle) == {("upstream", "data"): 1}
    assert await counted(handle, 1) == {200: 1}
    tells_nothing(handle, answer, upstream)
    (line,) = access_lines(handle)
    assert (line["ended_by"], line["phase"]) == ("upstream", "data")
    assert line["reason"] == (
        "http_response_timeout" if settings else "http_protocol_error" if Stall() in steps else "connection_terminated"
    )


@pytest.mark.parametrize(("steps", "settings"), ENDS)
@pytest.mark.parametrize("so_far", [EVENT[:-1], EVENT + b"da", b"d", b"data: \xf0\x9f", b"\xef\xbb\xbf"])
async def test_a_stream_that_breaks_off_inside_an_event_is_cut_right_there(
    gateway, upstream, connect, steps, settings, so_far
):
    handle, answer = await broken(gateway, upstream, connect, SSE_HEAD + chunked(so_far), so_far, steps, settings)
    assert (answer.status, answer.body, answer.complete, answer.end) == (200, so_far, False, "fin")
    assert await aborted(handle) == {("upstream", "data"): 1}
    tells_nothing(handle, answer, upstream)


@pytest.mark.parametrize(("steps", "settings"), ENDS)
async def test_a_chunked_answer_that_is_no_stream_of_events_is_cut_without_a_word(
    gateway, upstream, connect, steps, settings
):
    body = b'{"a":\n\n'
    handle, answer = await broken(gateway, upstream, connect, JSON_HEAD + chunked(body), body, steps, settings)
    assert (answer.status, answer.body, answer.complete, answer.end) == (200, body, False, "fin")
    tells_nothing(handle, answer, upstream)


@pytest.mark.parametrize(("steps", "settings"), ENDS)
async def test_a_compressed_stream_is_cut_without_a_word(gateway, upstream, connect, steps, settings):
    body = b"\x1f\x8b\x08\n\n"
    _, answer = await broken(gateway, upstream, connect, GZIP_HEAD + chunked(body), body, steps, settings)
    assert (answer.status, answer.body, answer.complete, answer.end) == (200, body, False, "fin")


@pytest.mark.parametrize("end", [(Fin(),), (Reset(),), (Close(),)])
@pytest.mark.parametrize("missing", [1, 900])
async def test_an_answer_short_of_its_content_length_stays_short(gateway, upstream, connect, end, missing):
    body = EVENT + b"x" * (1000 - missing - len(EVENT) - 2) + b"\n\n"
    handle, answer = await broken(gateway, upstream, connect, LENGTH_HEAD + body, body, end, {})
    assert (answer.get("Content-Length"), answer.get("Transfer-Encoding")) == ("1000", None)
    assert (answer.body, answer.complete, answer.end) == (body, False, "fin")
    assert await aborted(handle) == {("upstream", "data"): 1}


async def test_a_content_length_answer_that_falls_silent_is_cut(gateway, upstream, connect):
    _, answer = await broken(gateway, upstream, connect, LENGTH_HEAD + EVENT, EVENT, (Stall(),), STALL)
    assert (answer.body, answer.complete) == (EVENT, False)


@pytest.mark.transports("tcp", "tls")  # a unix socket knows no reset
@pytest.mark.parametrize(
    ("how", "complete"), [pytest.param(Fin(), True, id="fin"), pytest.param(Reset(), False, id="reset")]
)
async def test_only_a_fin_completes_a_close_delimited_answer(gateway, upstream, connect, how, complete):
    handle, client, answer = await relayed(gateway, upstream, connect, CLOSE_DELIMITED + EVENT, EVENT, (how,), {})
    assert (answer.get("Transfer-Encoding"), answer.complete) == ("chunked", complete)
    assert answer.body == EVENT if complete else answer.body.startswith(EVENT + b"data: ")
    assert await aborted(handle) == ({} if complete else {("upstream", "data"): 1})
    if complete:
        upstream.on_request(OK)
        assert (await ask(client)).status == 200


@pytest.mark.transports("tcp", "tcp>tls")
@pytest.mark.parametrize("sent", [SSE_HEAD + chunked(EVENT), CLOSE_DELIMITED + EVENT], ids=["chunked", "by close"])
async def test_a_client_of_http_1_0_is_reset_since_a_fin_would_complete_its_answer(gateway, upstream, connect, sent):
    raw = post().replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    handle, answer = await broken(gateway, upstream, connect, sent, EVENT, (Reset(),), {}, raw)
    assert (answer.get("Transfer-Encoding"), answer.get("Connection")) == (None, "close")
    assert answer.body.startswith(EVENT + b"data: {")
    assert (answer.complete, answer.end) == (False, "reset")
    assert await aborted(handle) == {("upstream", "data"): 1}


@pytest.mark.transports("tcp", "tcp>tls", "tcp>unix")
async def test_a_client_of_http_1_0_reads_a_whole_stream_up_to_the_close(gateway, upstream, connect):
    raw = post().replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    _, _client, answer = await relayed(
        gateway,
        upstream,
        connect,
        SSE_HEAD + chunked(EVENT),
        EVENT,
        (chunked(b"data: [DONE]\n\n") + LAST_CHUNK, Fin()),
        {},
        raw,
    )
    assert (answer.body, answer.complete, answer.end) == (EVENT + b"data: [DONE]\n\n", True, "fin")


@pytest.mark.parametrize("path", ["/v1/messages", "/p/vllm/v1/messages", "/p/vllm/messages"])
async def test_an_anthropic_stream_ends_with_anthropics_error_event(gateway, upstream, connect, path):
    so_far = b'event: message_start\ndata: {"type":"message_start"}\n\n'
    _, answer = await broken(gateway, upstream, connect, SSE_HEAD + chunked(so_far), so_far, (Fin(),), {}, post(path))
    name, data, *rest = answer.body.removeprefix(so_far).split(b"\n")
    assert (name, data[:6], rest) == (b"event: error", b"data: ", [b"", b""])
    document = json.loads(data[6:])
    assert (document["type"], document["error"]["type"]) == ("error", "api_error")
    assert set(document["error"]) == {"type", "message"}
    assert (answer.complete, answer.end) == (False, "fin")


@pytest.mark.parametrize("path", ["/v1/responses", "/p/vllm/v1/responses", "/p/vllm/responses"])
async def test_a_responses_stream_ends_with_a_typed_error_event(gateway, upstream, connect, path):
    so_far = b'event: response.created\ndata: {"type":"response.created","sequence_number":0}\n\n'
    _, answer = await broken(gateway, upstream, connect, SSE_HEAD + chunked(so_far), so_far, (Reset(),), {}, post(path))
    name, data, *rest = answer.body.removeprefix(so_far).split(b"\n")
    assert (name, data[:6], rest) == (b"event: error", b"data: ", [b"", b""])
    document = json.loads(data[6:])
    assert (document["type"], document["code"], document["param"]) == ("error", "stream_interrupted", None)
    assert (answer.complete, answer.end) == (False, "fin")


@pytest.mark.parametrize("tail", [b"zz\r\n" + CANARY.encode(), b"-1\r\n", b"5\r\nabcdeXX"])
async def test_what_came_before_a_framing_error_in_the_same_segment_still_arrives(gateway, upstream, connect, tail):
    sent = chunked(EVENT, EVENT) + tail
    handle, answer = await broken(gateway, upstream, connect, SSE_HEAD, b"", (sent, Stall()), {})
    assert answer.body.startswith(EVENT * 2)
    assert not answer.complete
    assert await aborted(handle) == {("upstream", "data"): 1}
    tells_nothing(handle, answer, upstream)


@pytest.mark.parametrize("body", [b"data: 1\n\n", b"data: 1\r\n\r\n", b"data: 1\n", b"data: 1\n\n\ndata: 2\r\n"])
async def test_a_boundary_is_seen_when_it_arrives_byte_by_byte(gateway, upstream, connect, body):
    chunks = [chunked(body[at : at + 1]) for at in range(len(body))]
    handle, answer = await broken(gateway, upstream, connect, SSE_HEAD, b"", (SendPieces(tuple(chunks)), Fin()), {})
    between = body.endswith((b"\n\n", b"\r\n\r\n"))
    assert answer.body.startswith(body + b"data: {") if between else answer.body == body
    assert await aborted(handle) == {("upstream", "data"): 1}


@pytest.mark.parametrize(
    ("pieces", "event"),
    [
        # A chunk that comes alone goes out as it came, one in pieces anew: the last of either says where it stands.
        ((chunked(EVENT), chunked(EVENT), chunked(b"data: x")[:-1], b"\n"), False),
        ((chunked(EVENT), chunked(EVENT[:-1]), chunked(b"\n")[:-1], b"\n"), True),
        ((chunked(b"da"), chunked(b"ta: a long beginning")), False),
        ((chunked(b"da"), chunked(b"ta: and its end\n\n")), True),
        ((chunked(b"data: " + b"x" * 20), chunked(b"\n\n")), True),
        ((chunked(EVENT + b"data: " + b"x" * 20), chunked(b"\n")), False),
    ],
)
async def test_a_boundary_is_seen_however_the_chunks_before_it_arrived(gateway, upstream, connect, pieces, event):
    upstream.on_request(SendPieces((SSE_HEAD, *pieces)), Fin())
    answer = await ask(await connect(await gateway(vllm=upstream)))
    assert (answer.status, answer.complete) == (200, False)
    assert (b"stream_interrupted" in answer.body) is event


async def test_a_request_that_waits_behind_a_broken_answer_is_not_answered_into_it(gateway, upstream, connect):
    go_on = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(EVENT), WaitFor(go_on), Fin())
    client = await connect(await gateway(vllm=upstream))
    await client.send(post() + post())
    answer = await client.read_head()
    await client.read_body_until(EVENT)
    go_on.set()
    answer = await client.read_rest()
    assert (answer.complete, answer.end) == (False, "fin")
    assert await client.read_all_until_close() == b""
    assert answer.raw.count(b"HTTP/1.1") == len(upstream.requests) == 1


async def test_all_that_was_received_reaches_a_slow_reader_before_the_cut(gateway, upstream, connect):
    body = EVENT * 100_000
    upstream.on_request(SSE_HEAD + chunked(*(body[at : at + 65_000] for at in range(0, len(body), 65_000))), Fin())
    client = await connect(await gateway(vllm=upstream), receive_buffer=4096)
    await client.send(post())
    await upstream.wait_for_request()
    answer = await client.read_response()
    assert answer.body.startswith(body)
    assert b"stream_interrupted" in answer.body[len(body) :]
    assert (answer.complete, answer.end) == (False, "fin")


async def test_a_last_event_does_not_end_a_stream_that_its_framing_leaves_open(gateway, upstream, connect):
    done = b"data: [DONE]\n\n"
    go_on = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(done), WaitFor(go_on), LAST_CHUNK)
    client = await connect(await gateway(vllm=upstream))
    await client.send(post())
    answer = await client.read_head()
    await client.read_body_until(done)
    assert not answer.complete
    go_on.set()
    answer = await client.read_rest()
    assert (answer.body, answer.complete, answer.end) == (done, True, "keepalive")


async def test_a_slow_stream_lives_as_long_as_it_is_never_silent_for_the_limit(gateway, upstream, connect):
    upstream.on_request(SSE_HEAD, Dribble(chunked(EVENT), 4, 0.18), LAST_CHUNK)
    handle = await gateway(vllm=upstream, HTTP_STREAM_IDLE_TIMEOUT="1s")
    answer = await ask(await connect(handle))
    assert (answer.body, answer.complete) == (EVENT, True)
    assert await aborted(handle) == {}


async def test_an_error_event_of_the_instance_and_its_clean_end_pass_as_they_are(gateway, upstream, connect):
    body = sse_event({"error": {"message": "boom", "code": 500}}) + b"data: [DONE]\n\n"
    upstream.on_request(SSE_HEAD + chunked(body) + LAST_CHUNK)
    handle = await gateway(vllm=upstream)
    answer = await ask(await connect(handle))
    assert (answer.status, answer.body, answer.complete) == (200, body, True)
    assert await aborted(handle) == {}
