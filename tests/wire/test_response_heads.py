"""What of an instance's response head reaches the client: every end-to-end field as it came, and only valid HTTP."""

import gzip
import time
from email.utils import parsedate_to_datetime

import pytest

from ..harness.scripted import LAST_CHUNK, SendPieces, Stall, chunked, head, request, response
from ..harness.verdicts import OK, ask, own_error, post, tells_nothing

OWN = ["date", "x-request-id", "x-gomodel-provider"]


async def answered(gateway, upstream, connect, sent, raw=None, **settings):
    """The client's view of one answer."""
    upstream.on_request(*(sent if isinstance(sent, tuple) else (sent,)))
    return await ask(await connect(await gateway(vllm=upstream, **settings)), raw)


@pytest.mark.parametrize(
    "line",
    [
        "HTTP/1.1 000 X",
        "HTTP/1.1 099 X",
        "HTTP/1.1 99 X",
        "HTTP/1.1 600 X",
        "HTTP/1.1 999 X",
        "HTTP/1.1 2000 X",
        "HTTP/1.1 20x X",
        "HTTP/1.1 +20 X",
        "HTTP/1.1  200 X",
        "HTTP/1.1200 X",
        "HTTP/1.1 X",
        "HTTP/1.1",
        "HTTP/2.0 200 X",
        "HTTP/2 200 X",
        "HTTP/3.0 200 X",
        "HTTP/0.9 200 X",
        "HTTP/1.2 200 X",
        "HTTP/1.10 200 X",
        "HTTP/11.1 200 X",
        "http/1.1 200 X",
        "ICY 200 OK",
        "HTTPS/1.1 200 OK",
        "HTTP/1.1 200 X\rX-A: 1",
    ],
)
async def test_a_status_line_that_http_1_does_not_know_is_502(gateway, upstream, connect, line):
    sent = f"{line}\r\nX-Secret: canary-6b1f\r\nContent-Length: 2\r\n\r\nok".encode()
    upstream.on_request(sent, Stall())
    handle = await gateway(vllm=upstream)
    answer = await ask(await connect(handle))
    own_error(answer, 502, "http_protocol_error")
    await upstream.requests[0].connection.closed
    tells_nothing(handle, answer, upstream)


@pytest.mark.parametrize(
    ("status", "reason", "shown"),
    [
        (200, "OK", "OK"),
        (200, "Fine By Me", "Fine By Me"),
        (200, "a\tb", "a\tb"),
        (200, "", ""),
        (429, "Slow Down", "Slow Down"),
        (418, "I'm a Teapot", "I'm a Teapot"),
        (299, "Whatever", "Whatever"),
        # What a client may choke on gives way to the standard phrase, or to none.
        (200, "O\x01K", "OK"),
        (404, "\x7f", "Not Found"),
        (200, "Ok\xe9", "OK"),
        (200, "O\xffK", "OK"),
        (299, "O\x1bK", ""),
    ],
)
async def test_the_reason_phrase_is_the_instances_unless_it_is_not_text(
    gateway, upstream, connect, status, reason, shown
):
    answer = await answered(gateway, upstream, connect, response(b"ok", status, reason=reason))
    assert (answer.status, answer.reason, answer.body) == (status, shown, b"ok")


async def test_a_status_line_may_lack_the_reason_and_its_space(gateway, upstream, connect):
    answer = await answered(gateway, upstream, connect, b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok")
    assert (answer.status, answer.reason, answer.body) == (200, "", b"ok")


async def test_fields_keep_their_order_case_duplicates_and_every_byte(gateway, upstream, connect):
    fields = [
        ("Set-Cookie", "a=1; Path=/; Expires=Wed, 21 Oct 2026 07:28:00 GMT"),
        ("x-CUSTOM", "1"),
        ("set-cookie", "b=2"),
        ("WWW-Authenticate", 'Bearer realm="a"'),
        ("X-Custom", "2, 3"),
        ("WWW-Authenticate", "Basic"),
        ("X-Custom", ""),
        ("X-Custom", 'q="a , b"; \t x'),
        ("X-8bit", "caf\xe9 \xff\x80"),
        ("server", "uvicorn"),
        ("Location", "http://elsewhere.test/"),
        ("Via", "1.1 other"),
        ("Set-Cookie", "a=1; Path=/; Expires=Wed, 21 Oct 2026 07:28:00 GMT"),
        ("Date", "Wed, 21 Oct 2015 07:28:00 GMT"),
    ]
    answer = await answered(gateway, upstream, connect, response(b"ok", 200, fields))
    ours = [name for name, _ in answer.headers[len(fields) :]]
    assert [(name, value.encode("latin-1")) for name, value in answer.headers[: len(fields)]] == [
        (name, value.encode("latin-1")) for name, value in fields
    ]
    assert [name.lower() for name in ours] == ["content-length", "x-request-id", "x-gomodel-provider"]


async def test_only_a_date_and_gomodels_own_fields_are_added(gateway, upstream, connect):
    answer = await answered(gateway, upstream, connect, head(200, [("Content-Length", "2")]) + b"ok")
    assert [name.lower() for name, _ in answer.headers] == ["content-length", *OWN]
    date = parsedate_to_datetime(answer.get("Date"))
    assert abs(date.timestamp() - time.time()) < 60
    assert answer.get("Date").endswith(" GMT")


async def test_hop_by_hop_fields_and_what_connection_names_end_here(gateway, upstream, connect):
    fields = [
        ("Connection", "close, X-A ,,x-b"),
        ("X-A", "1"),
        ("connection", "X-C"),
        ("X-B", "2"),
        ("x-c", "3"),
        ("X-AB", "kept"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "close"),
        ("Proxy-Authenticate", "Basic"),
        ("Trailer", "X-T"),
        ("TE", "trailers"),
        ("Upgrade", "h2c"),
        ("X-Request-Id", "theirs"),
        ("X-GoModel-Provider", "theirs"),
    ]
    answer = await answered(gateway, upstream, connect, response(b"ok", 200, fields))
    assert [name.lower() for name, _ in answer.headers] == ["x-ab", "content-length", *OWN]
    assert answer.get("X-GoModel-Provider") == "vllm"
    assert answer.get("X-Request-Id") != "theirs"
    assert answer.end == "keepalive"


async def test_a_stream_of_events_is_marked_so_that_nobody_in_front_holds_it_back(gateway, upstream, connect):
    fields = [("content-type", "text/event-stream; charset=utf-8"), ("Transfer-Encoding", "chunked")]
    answer = await answered(gateway, upstream, connect, head(200, fields) + LAST_CHUNK)
    assert (answer.get("Cache-Control"), answer.get("X-Accel-Buffering")) == ("no-cache", "no")


@pytest.mark.parametrize("content_type", ["text/event-stream", "application/json"])
async def test_what_an_instance_says_of_caching_and_buffering_stands(gateway, upstream, connect, content_type):
    fields = [("Content-Type", content_type), ("cache-control", "max-age=1"), ("x-accel-buffering", "yes")]
    answer = await answered(gateway, upstream, connect, response(b"ok", 200, fields))
    assert (answer.get("Cache-Control"), answer.get("X-Accel-Buffering")) == ("max-age=1", "yes")


async def test_compressed_bodies_pass_with_their_bytes_and_coding(gateway, upstream, connect):
    body = gzip.compress(b"hello " * 1000)
    sent = response(body, 200, [("Content-Encoding", "gzip"), ("Content-Type", "application/json")])
    answer = await answered(gateway, upstream, connect, sent)
    assert (answer.body, answer.get("Content-Encoding"), answer.get("Content-Length")) == (body, "gzip", str(len(body)))


async def test_what_calls_itself_gzip_and_is_not_passes_all_the_same(gateway, upstream, connect):
    sent = head(200, [("Content-Encoding", "gzip"), ("Transfer-Encoding", "chunked")]) + chunked(b"plain") + LAST_CHUNK
    answer = await answered(gateway, upstream, connect, sent)
    assert (answer.body, answer.complete) == (b"plain", True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_passed_on_and_never_followed(gateway, upstream, connect, status):
    location = f"http://elsewhere.test:{upstream.port}/v1/models"
    answer = await answered(gateway, upstream, connect, response(b"moved", status, [("Location", location)]))
    assert (answer.status, answer.get("Location"), answer.body) == (status, location, b"moved")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    "interim", [head(100), head(102) * 1000, head(103, [("Link", "</a>"), ("Content-Length", "5")])]
)
async def test_interim_responses_are_swallowed_and_the_answer_passes(gateway, upstream, connect, interim):
    answer = await answered(gateway, upstream, connect, interim + OK)
    assert (answer.status, answer.informational, answer.body) == (200, [], b'{"id":"ok"}')
    assert answer.get("Link") is None


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"\r\n\r\n" + OK, id="blank lines first"),
        pytest.param(OK.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"\n") + b"\n\n" + b'{"id":"ok"}', id="bare LF"),
    ],
)
async def test_what_a_lenient_parser_accepts_leaves_as_strict_http(gateway, upstream, connect, sent):
    answer = await answered(gateway, upstream, connect, sent)
    assert (answer.status, answer.get("Content-Type"), answer.body) == (200, "application/json", b'{"id":"ok"}')
    assert b"\n" not in answer.head.replace(b"\r\n", b"")


@pytest.mark.parametrize("fold", [b"\r\n ", b"\r\n\t", b"\r\n   \t ", b"\n "])
async def test_a_folded_line_becomes_one_line(gateway, upstream, connect, fold):
    sent = b"HTTP/1.1 200 X\r\nX-Folded: a" + fold + b"b\r\nContent-Length: 2\r\n\r\nok"
    answer = await answered(gateway, upstream, connect, sent)
    assert answer.get("X-Folded").split() == ["a", "b"]
    assert (answer.get("Content-Length"), answer.body) == ("2", b"ok")


@pytest.mark.parametrize("field", [b"X-A: b\0c", b"X-A: b\rc", b"X A: b", b": b", b"X-A", b"X-A : b", b"X\x01: b"])
async def test_a_field_that_could_be_read_in_two_ways_is_502(gateway, upstream, connect, field):
    sent = b"HTTP/1.1 200 X\r\n" + field + b"\r\nContent-Length: 2\r\n\r\nok"
    answer = await answered(gateway, upstream, connect, (sent, Stall()))
    own_error(answer, 502, "http_protocol_error")
    await upstream.requests[0].connection.closed


@pytest.mark.parametrize("raw", [post(), request("GET", "/p/vllm/x"), request("DELETE", "/p/vllm/x")])
async def test_the_request_id_is_the_clients_or_a_new_one_on_both_sides(gateway, upstream, connect, raw):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream))
    mine = raw.replace(b"\r\n", b"\r\nX-Request-Id: abc-1._Z\r\n", 1)
    for sent in (mine, raw, raw):
        answer = await ask(client, sent)
        assert upstream.requests[-1].get("X-Request-Id") == answer.get("X-Request-Id")
    first, second, third = (each.get("X-Request-Id") for each in upstream.requests)
    assert first == "abc-1._Z"
    assert second != third


async def test_a_head_may_be_cut_anywhere_with_its_body_behind_it(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream))
    for sent in (
        response(b"body", 200, [("X-A", "b")]),
        head(200, [("Transfer-Encoding", "chunked")]) + chunked(b"body") + LAST_CHUNK,
    ):
        for at in range(1, len(sent)):
            upstream.on_request(SendPieces((sent[:at], sent[at:])))
            answer = await ask(client)
            assert (answer.status, answer.body, answer.complete, answer.end) == (200, b"body", True, "keepalive")
