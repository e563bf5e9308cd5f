"""Where an answer ends: what an instance may say about it, what the client is told, and which connections live on."""

import pytest

from gomodel.http1.framing import Sized

from ..harness.scripted import (
    LAST_CHUNK,
    Fin,
    SendByteByByte,
    Stall,
    chunked,
    head,
    request,
)
from ..harness.verdicts import CANARY, KEPT, OK, aborted, ask, own_error, served, tells_nothing

pytestmark = pytest.mark.transports("tcp", "tls", "unix")


async def exchange(gateway, upstream, connect, steps, raw=None, method="GET"):
    """One request, answered by `steps`, and a second one on the same client connection; both answers and the handle."""
    upstream.on_request(*steps)
    upstream.on_request(OK)
    handle = await gateway(KEPT, vllm=upstream)
    client = await connect(handle)
    answer = await ask(client, raw, method)
    again = await ask(client) if answer.end == "keepalive" else None
    return handle, answer, again


BODILESS = [
    # Request method, the answer's head, what the client is told of its length.
    pytest.param("HEAD", head(200, [("Content-Length", "1234")]), "1234", id="HEAD with a length"),
    pytest.param("HEAD", head(200, [("Content-Length", "0")]), "0", id="HEAD with length 0"),
    pytest.param("HEAD", head(200, [("Transfer-Encoding", "chunked")]), None, id="HEAD of a chunked answer"),
    pytest.param("HEAD", head(404, [("Content-Length", "9")]), "9", id="HEAD 404"),
    pytest.param("GET", head(204), None, id="204"),
    pytest.param("GET", head(204, [("Content-Length", "0")]), None, id="204 with a length"),
    pytest.param("GET", head(304), None, id="304"),
    pytest.param("GET", head(304, [("Content-Length", "99"), ("ETag", '"a"')]), "99", id="304 with a length"),
    pytest.param("GET", head(205, [("Content-Length", "0")]), "0", id="205"),
    pytest.param("GET", head(200, [("Content-Length", "0")]), "0", id="length 0"),
]


@pytest.mark.parametrize(("method", "sent", "length"), BODILESS)
async def test_an_answer_without_a_body_keeps_its_head_and_both_connections(
    gateway, upstream, connect, method, sent, length
):
    raw = request(method, "/p/vllm/x")
    _, answer, again = await exchange(gateway, upstream, connect, (sent,), raw, method)
    assert (answer.status, answer.body, answer.complete) == (int(sent[9:12]), b"", True)
    assert (answer.get("Content-Length"), answer.get("Transfer-Encoding")) == (length, None)
    assert again.status == 200
    assert len(served(upstream)) == 1


async def test_a_head_answer_that_says_nothing_of_a_length_is_passed_as_it_is(gateway, upstream, connect):
    raw = request("HEAD", "/p/vllm/x")
    _, answer, again = await exchange(gateway, upstream, connect, (head(200, [("X-A", "1")]),), raw, "HEAD")
    assert (answer.get("X-A"), answer.get("Content-Length"), answer.get("Transfer-Encoding")) == ("1", None, None)
    assert (answer.complete, answer.end, again.status) == (True, "keepalive", 200)


# What RFC 9112 6.3 calls an invalid message -> the code of the 502.
FRAMINGS = [
    (["Content-Length: 2", "Transfer-Encoding: chunked"], "http_protocol_error"),
    (["Transfer-Encoding: chunked", "Content-Length: 2"], "http_protocol_error"),
    (["Content-Length: 2", "Content-Length: 2"], "http_protocol_error"),
    (["Content-Length: 2", "Content-Length: 3"], "http_protocol_error"),
    (["Content-Length: 2, 2"], "http_protocol_error"),
    (["Content-Length: +2"], "http_protocol_error"),
    (["Content-Length: -2"], "http_protocol_error"),
    (["Content-Length: 0x2"], "http_protocol_error"),
    (["Content-Length: 2 2"], "http_protocol_error"),
    (["Content-Length:"], "http_protocol_error"),
    (["Content-Length: 18446744073709551615"], "http_protocol_error"),
    (["Content-Length: 18446744073709551616"], "http_protocol_error"),
    (["Content-Length\t: 2"], "http_protocol_error"),
    (["Content-Length : 2", "Content-Length: 2"], "http_protocol_error"),
    (["Transfer-Encoding : chunked", "Content-Length: 2"], "http_protocol_error"),
    (["Transfer-Encoding : chunked", "Transfer-Encoding: gzip"], "http_response_transfer_coding"),
    (["Transfer-Encoding : gzip"], "http_response_transfer_coding"),
    (["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"], "http_response_transfer_coding"),
    (["Transfer-Encoding: chunked", "Transfer-Encoding: gzip"], "http_response_transfer_coding"),
    (["Transfer-Encoding: chunked, chunked"], "http_response_transfer_coding"),
    (["Transfer-Encoding: chunked, gzip"], "http_response_transfer_coding"),
    (["Transfer-Encoding: gzip, chunked"], "http_response_transfer_coding"),
    (["Transfer-Encoding: gzip"], "http_response_transfer_coding"),
    (["Transfer-Encoding: identity"], "http_response_transfer_coding"),
    (["Transfer-Encoding: xchunked"], "http_response_transfer_coding"),
    (["Transfer-Encoding: chunked;q=1"], "http_response_transfer_coding"),
    (["Transfer-Encoding: \x0bchunked"], "http_response_transfer_coding"),
    (["Transfer-Encoding:"], "http_response_transfer_coding"),
]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(("lines", "code"), FRAMINGS)
async def test_an_answer_framed_in_a_doubtful_way_is_502_and_its_connection_closed(
    gateway, upstream, connect, lines, code, split
):
    raw = "\r\n".join(["HTTP/1.1 200 X", *lines, "", ""]).encode("latin-1")
    sent = raw + chunked(CANARY.encode()) + LAST_CHUNK
    handle, answer, again = await exchange(
        gateway, upstream, connect, (SendByteByByte(sent) if split else sent, Stall())
    )
    assert "'vllm'" in own_error(answer, 502, code)
    await upstream.requests[0].connection.closed
    assert again.status == 200
    assert len(served(upstream)) == 2
    tells_nothing(handle, answer, upstream)
    assert await aborted(handle, 2) == {("upstream", "head"): 1}


@pytest.mark.parametrize("coding", ["chunked", "Chunked", "CHUNKED"])
async def test_the_one_coding_there_is_may_be_spelt_in_any_case(gateway, upstream, connect, coding):
    sent = head(200, [("Transfer-Encoding", coding)]) + chunked(b"o", b"k") + LAST_CHUNK
    _, answer, again = await exchange(gateway, upstream, connect, (sent,))
    assert (answer.body, answer.complete, again.status) == (b"ok", True, 200)
    assert len(served(upstream)) == 1


async def test_chunk_extensions_and_trailers_end_at_the_gateway(gateway, upstream, connect):
    body = b'2;a="b";c=d\r\nok\r\n0;last\r\nX-Trailer: 1\r\nSet-Cookie: a=b\r\n\r\n'
    sent = head(200, [("Trailer", "X-Trailer"), ("Transfer-Encoding", "chunked")]) + body
    _, answer, again = await exchange(gateway, upstream, connect, (sent,))
    assert (answer.body, answer.complete, answer.trailers, answer.get("Trailer")) == (b"ok", True, [], None)
    assert b";" not in answer.raw.partition(b"\r\n\r\n")[2]
    assert again.status == 200


@pytest.mark.parametrize(
    "fields", [[("Content-Length", "2")], [("Content-Length", "2"), ("Content-Type", "text/event-stream")]]
)
async def test_a_length_stays_a_length_and_the_rest_is_chunked(gateway, upstream, connect, fields):
    _, answer, _ = await exchange(gateway, upstream, connect, (head(200, fields) + b"ok",))
    assert (answer.get("Content-Length"), answer.get("Transfer-Encoding"), answer.body) == ("2", None, b"ok")


# An answer after which the instance closes, or says it will -> its body.
LAST_ANSWERS = [
    pytest.param((head(200, [("Connection", "close"), ("Content-Length", "2")]) + b"ok", Stall()), id="says close"),
    pytest.param((b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", Stall()), id="http/1.0"),
    pytest.param((head() + b"ok", Fin()), id="by close"),
    pytest.param((b"HTTP/1.0 200 OK\r\n\r\nok", Fin()), id="http/1.0 by close"),
    pytest.param((head(205) + b"ok", Fin()), id="205 by close"),
    pytest.param(
        (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", Stall()), id="1.0 chunked"
    ),
]


@pytest.mark.parametrize("steps", LAST_ANSWERS)
async def test_a_connection_that_ends_with_its_answer_serves_no_other(gateway, upstream, connect, steps):
    _, answer, again = await exchange(gateway, upstream, connect, steps)
    assert (answer.body, answer.complete, answer.end) == (b"ok", True, "keepalive")
    await upstream.requests[0].connection.closed
    assert again.status == 200
    assert len(served(upstream)) == 2


async def test_an_http_1_0_instance_that_offers_keep_alive_is_taken_at_its_word(gateway, upstream, connect):
    sent = b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"
    _, answer, again = await exchange(gateway, upstream, connect, (sent,))
    assert (answer.version, answer.body, again.status) == ("1.1", b"ok", 200)
    assert len(served(upstream)) == 1


@pytest.mark.parametrize("named", ["Content-Length", "Transfer-Encoding", "X, content-length, transfer-encoding"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_connection_option_cannot_take_the_framing_away(gateway, upstream, connect, named, framing):
    fields = [("Connection", named), ("X", "1")]
    if framing == "length":
        sent = head(200, [*fields, ("Content-Length", "2")]) + b"ok"
    else:
        sent = head(200, [*fields, ("Transfer-Encoding", "chunked")]) + chunked(b"ok") + LAST_CHUNK
    _, answer, again = await exchange(gateway, upstream, connect, (sent,))
    assert (answer.body, answer.complete, answer.end) == (b"ok", True, "keepalive")
    assert answer.get("X") == (None if "X" in named else "1")
    assert again.status == 200


@pytest.mark.parametrize("field", ["Content-Length : 2", "content-length   : 2", "Transfer-Encoding : chunked"])
async def test_spaces_before_a_colon_end_at_the_gateway(gateway, upstream, connect, field):
    body = chunked(b"ok") + LAST_CHUNK if "chunked" in field else b"ok"
    sent = f"HTTP/1.1 200 X\r\n{field}\r\nUpgrade : x\r\nProxy-Connection : x\r\n\r\n".encode() + body
    _, answer, again = await exchange(gateway, upstream, connect, (sent,))
    assert (answer.body, answer.complete, answer.end) == (b"ok", True, "keepalive")
    assert b" :" not in answer.head
    assert (answer.get("Upgrade"), answer.get("Proxy-Connection"), again.status) == (None, None, 200)


class OneMore(Sized):
    """Finds a byte at the end that nobody sent."""

    def feed(self, data):
        return super().feed(data) + b"!" * self.complete


class OneLess(Sized):
    """Loses the last byte."""

    def feed(self, data):
        payload = super().feed(data)
        return payload[:-1] if self.complete else payload


@pytest.mark.parametrize("miscounting", [OneMore, OneLess])
@pytest.mark.interpreted
async def test_a_body_that_got_another_length_in_the_gateway_is_broken_off(
    gateway, upstream, connect, logs, monkeypatch, miscounting
):
    monkeypatch.setattr("gomodel.upstream.channel.Sized", miscounting)
    sent = head(200, [("Content-Length", "6")]) + b"abcdef"
    logs.expected.append("does not have the length of its head")
    _, answer, again = await exchange(gateway, upstream, connect, (SendByteByByte(sent),))
    assert (answer.status, answer.complete, again) == (200, False, None)
    assert b"abcdef".startswith(answer.body)
