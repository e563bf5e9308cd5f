"""A stream that the gateway itself ends, by an operator's order or with its process, ends as one that broke off."""

import asyncio
import contextlib
import json
import ssl

import pytest

from ..harness.leaks import nothing_left
from ..harness.scripted import SSE_HEAD, ReadHead, Stall, chunked, head, request, sse_event
from ..harness.tls import KEY_AND_CERTIFICATE
from ..harness.verdicts import aborted, ask, own_error, post

EVENT = sse_event({"token": "a"})
NAMED = [("X-Request-Id", "r-1")]
BY_CLOSE = head(200, [("Content-Type", "text/event-stream")])


async def by_an_operator(handle, connect):
    answer = await ask(await connect(handle), request("DELETE", "/admin/requests/r-1"), "DELETE")
    assert answer.status == 200


async def at_the_drain_limit(handle, connect):
    assert await handle.gateway.drain(0.0) == 1
    await handle.gateway.close()


async def at_once(handle, connect):
    await handle.gateway.close()


ENDINGS = pytest.mark.parametrize("end", [by_an_operator, at_the_drain_limit, at_once])


async def ended(gateway, upstream, connect, end, sent, seen, raw):
    upstream.on_request(sent, Stall())
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(raw)
    answer = await client.read_head()
    await client.read_body_until(seen)
    await end(handle, connect)
    await client.read_rest()
    await upstream.requests[0].connection.closed
    assert answer.complete is False
    assert await aborted(handle) == {("gomodel", "data"): 1}
    return answer


@ENDINGS
@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/chat/completions", ["data: {"]),
        ("/p/vllm/v1/completions", ["data: {"]),
        ("/v1/messages", ["event: error", "data: {"]),
        ("/v1/responses", ["event: error", "data: {"]),
    ],
)
async def test_between_events_with_an_error_event_and_no_end(gateway, upstream, connect, end, path, shape):
    answer = await ended(gateway, upstream, connect, end, SSE_HEAD + chunked(EVENT), EVENT, post(path, headers=NAMED))
    assert answer.body.startswith(EVENT)
    lines = answer.body.removeprefix(EVENT).decode().split("\n")
    assert lines[-2:] == ["", ""]
    assert [line[: len(start)] for line, start in zip(lines[:-2], shape, strict=True)] == shape
    said = json.dumps(json.loads(lines[-3].removeprefix("data: ")))
    assert ("An operator of the gateway ended this request." in said) == (end is by_an_operator)
    assert ("The gateway is shutting down." in said) == (end is not by_an_operator)
    assert "The answer is not complete." in said
    assert "instance" not in said


@ENDINGS
@pytest.mark.parametrize(
    ("start", "so_far"),
    [(SSE_HEAD, EVENT[:-1]), (SSE_HEAD, EVENT + b"da"), (head(200, [("Transfer-Encoding", "chunked")]), EVENT)],
)
async def test_elsewhere_without_a_word(gateway, upstream, connect, end, start, so_far):
    answer = await ended(gateway, upstream, connect, end, start + chunked(so_far), so_far, post(headers=NAMED))
    assert answer.body == so_far


@ENDINGS
@pytest.mark.parametrize("sent", [SSE_HEAD + chunked(EVENT), BY_CLOSE + EVENT], ids=["chunked", "by close"])
async def test_a_client_of_http_1_0_is_told_and_reset(gateway, upstream, connect, end, sent):
    raw = post(headers=NAMED).replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    answer = await ended(gateway, upstream, connect, end, sent, EVENT, raw)
    assert answer.body.startswith(EVENT + b"data: {")
    assert answer.end == "reset"


@ENDINGS
@pytest.mark.parametrize("transport", ["tls", "unix"])
async def test_over_other_transports_too(gateway, upstream, connect, end, transport, tmp_path):
    pem, path = tmp_path / "pem", tmp_path / "g.sock"
    pem.write_text(KEY_AND_CERTIFICATE)
    upstream.on_request(SSE_HEAD + chunked(EVENT), Stall())
    served = {"TLS_CERT_FILE": str(pem), "TLS_KEY_FILE": str(pem)} if transport == "tls" else {}
    handle = await gateway(vllm=upstream, GOMODEL_UNIX_SOCKET=str(path), **served)
    if transport == "tls":
        context = ssl.create_default_context(cafile=str(pem))
        context.check_hostname = False
        reader, writer = await asyncio.open_connection("127.0.0.1", handle.port, ssl=context)
    else:
        reader, writer = await asyncio.open_unix_connection(path)
    writer.write(post(headers=NAMED))
    await reader.readuntil(EVENT)

    async def inside(_):
        return await connect(path=str(path))

    await end(handle, inside)
    rest = b""
    with contextlib.suppress(OSError):
        while piece := await reader.read(1 << 16):
            rest += piece
    assert b"stream_interrupted" in rest
    assert not rest.endswith(b"0\r\n\r\n")
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@pytest.mark.parametrize("end", [at_the_drain_limit, at_once])
async def test_a_request_without_an_answer_is_told_to_come_back(gateway, upstream, connect, end):
    upstream.on_request(ReadHead(), Stall())
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(post(headers=NAMED))
    await upstream.wait_for_request()
    await end(handle, connect)
    answer = await client.read_response()
    own_error(answer, 503, "draining", "overloaded_error")
    assert (answer.get("Retry-After"), answer.get("Connection")) == ("5", "close")
    assert handle.replica().breaker.closed
    await nothing_left(handle.remains)
