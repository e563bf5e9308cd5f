"""Which fields of a response cross and how its head begins, by the rules alone: raw pairs in, raw lines out."""

import pytest

from gomodel.http1.head import status_line
from gomodel.http1.response_fields import ResponseFields

NAMES = [
    *("Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "TE", "Trailer"),
    *("Transfer-Encoding", "Upgrade", "HTTP2-Settings", "X-Request-Id", "X-GoModel-Provider"),
    *("Content-Length", "Content-Type", "Content-Encoding", "Date", "Server", "Set-Cookie", "Cache-Control", "Via"),
    *("X-Accel-Buffering", "X-Custom", "Location", "WWW-Authenticate", "Retry-After"),
]
ENDS_HERE_IN_RESPONSES = {name.lower() for name in NAMES[:12]}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title, str])
def test_a_response_field_crosses_or_ends_here_in_any_case_even_when_empty(name, case):
    raw = case(name).encode()
    for value in (b"1", b""):
        lines = ResponseFields([(raw, value)]).lines
        ends = name.lower() in ENDS_HERE_IN_RESPONSES
        assert lines == ([] if ends else [raw + b": " + value + b"\r\n"])


def test_what_connection_names_in_a_response_ends_here():
    pairs = [(b"X-A", b"1"), (b"Connection", b"x-a, close"), (b"x-b", b"2"), (b"X-AB", b"3"), (b"connection", b"X-B")]
    assert ResponseFields(pairs).lines == [b"X-AB: 3\r\n"]


def test_a_response_whose_connection_names_its_framing_keeps_it():
    made = ResponseFields([(b"Connection", b"content-length, x-a"), (b"Content-Length", b"2"), (b"X-A", b"1")])
    assert (made.lines, made.lengths) == ([b"Content-Length: 2\r\n"], [b"2"])


def test_the_facts_of_a_response_are_told():
    made = ResponseFields(
        [
            (b"content-length", b"1"),
            (b"Content-Length", b"2"),
            (b"TRANSFER-ENCODING", b"chunked"),
            (b"Content-Type", b"Text/Event-Stream; charset=utf-8"),
            (b"Content-Encoding", b"gzip"),
            (b"date", b"d"),
            (b"CACHE-control", b"c"),
            (b"x-accel-buffering", b"no"),
        ]
    )
    assert (made.lengths, made.codings) == ([b"1", b"2"], [b"chunked"])
    assert (made.event_stream, made.encoded, made.dated, made.cache, made.accel) == (True,) * 5
    bare = ResponseFields([(b"Content-Type", b"text/event")])
    assert (bare.event_stream, bare.encoded, bare.dated, bare.cache, bare.accel) == (False,) * 5


@pytest.mark.parametrize(
    ("pairs", "may"),
    [
        ([(b"content-length", b"2"), (b"X-A", b"1")], True),
        ([(b"X-A", b"1"), (b"Content-Length", b"2")], True),
        ([(b"Content-Length", b"2"), (b"Connection", b"close")], False),
        ([(b"Content-Length", b"2"), (b"Content-Length", b"2")], False),
        ([(b"X-A", b"1")], False),
    ],
)
def test_a_head_may_come_again_with_another_length_where_it_has_one(pairs, may):
    made = ResponseFields(pairs)
    assert made.may_repeat is may
    if may:
        made.repeat(345)
        again = ResponseFields(
            [(name, b"345" if name.lower() == b"content-length" else value) for name, value in pairs]
        )
        assert (made.lines, made.lengths) == (again.lines, again.lengths)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], False),
        ([b"X-Rate-Limit", b"Ratelimit-Limit", b"X-RateLimit"], False),
        ([b"X-A", b"X-RATELIMIT-Limit-Requests"], True),
        ([b"x-ratelimit-reset-tokens", b"X-A"], True),
    ],
)
def test_an_answer_that_says_something_of_limits_is_known(names, says):
    made = ResponseFields([(name, b"1") for name in names])
    assert [made.rate_limits for _ in range(2)] == [says, says]


@pytest.mark.parametrize(
    "name", [b"Content-Length ", b"CONTENT-length   ", b"Transfer-Encoding ", b"Connection ", b"X-A "]
)
def test_spaces_after_a_response_fields_name_are_no_part_of_it(name):
    made, plain = (ResponseFields([(each, b"1"), (b"X-B", b"2")]) for each in (name, name.rstrip()))
    assert (made.lines, made.lengths, made.codings) == (plain.lines, plain.lengths, plain.codings)


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, None, b"HTTP/1.1 200 OK\r\n"),
        (200, "OK", b"HTTP/1.1 200 OK\r\n"),
        (200, "", b"HTTP/1.1 200 \r\n"),
        (200, "Very\tWell", b"HTTP/1.1 200 Very\tWell\r\n"),
        (404, "a\r\nX: y", b"HTTP/1.1 404 Not Found\r\n"),
        (404, "a\nb", b"HTTP/1.1 404 Not Found\r\n"),
        (404, "\x00", b"HTTP/1.1 404 Not Found\r\n"),
        (404, "\udcff", b"HTTP/1.1 404 Not Found\r\n"),
        (404, "\u20ac", b"HTTP/1.1 404 Not Found\r\n"),
        (299, None, b"HTTP/1.1 299 \r\n"),
        (299, "\x7f", b"HTTP/1.1 299 \r\n"),
        (299, "Odd", b"HTTP/1.1 299 Odd\r\n"),
        (499, None, b"HTTP/1.1 499 \r\n"),
    ],
)
def test_a_status_line_is_always_one_valid_line(status, reason, line):
    assert status_line(status, reason) == line
