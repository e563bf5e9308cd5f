"""What the doctor's connection makes of bytes: where heads and bodies end, and how an answer ended."""

import gzip

import pytest

from gomodel.doctor.exchange import Exchange

SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: a\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
BARE = b"HTTP/1.1 200 OK\r\n\r\nhello"

VECTORS = [
    # bytes, status, framing, body, end, kept
    (SIZED, 200, "length", b"hello", "complete", True),
    (CHUNKED, 200, "chunked", b"hello", "complete", True),
    (b"HTTP/1.1 100 Continue\r\n\r\n" + SIZED, 200, "length", b"hello", "complete", True),
    (SIZED.replace(b"1.1", b"1.0"), 200, "length", b"hello", "complete", False),
    (SIZED.replace(b"Server: a", b"Connection: close"), 200, "length", b"hello", "complete", False),
    (b"HTTP/1.1 204 No Content\r\n\r\n", 204, "none", b"", "complete", True),
    (b"HTTP/1.1 413 X\r\nContent-Length: 0\r\n\r\n", 413, "length", b"", "complete", True),
    (BARE, 200, "close", b"hello", "", False),
    (b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n\x81\x00", 101, "close", b"\x81\x00", "", True),
    (CHUNKED[:-1], 200, "chunked", b"hello", "", True),
    (SIZED[:-1], 200, "length", b"hell", "", True),
    (b"SSH-2.0-x\r\n\r\n", 0, "", b"", "broken", False),
    (CHUNKED.replace(b"3\r\n", b"z\r\n"), 200, "chunked", b"", "broken", True),
]


@pytest.mark.parametrize(("data", "status", "framing", "body", "end", "kept"), VECTORS)
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_bytes(data: bytes, status: int, framing: str, body: bytes, end: str, kept: bool, step: int) -> None:
    exchange = Exchange()
    for number, at in enumerate(range(0, len(data), step)):
        exchange.feed(data[at : at + step], float(number))
    assert (exchange.status, exchange.framing, exchange.raw_body, exchange.end) == (status, framing, body, end)
    assert exchange.kept is kept


@pytest.mark.parametrize(
    ("data", "reset", "end"),
    [
        (SIZED, False, "complete"),
        (SIZED[:-1], False, "closed"),
        (CHUNKED[:-1], False, "closed"),
        (BARE, False, "complete"),
        (BARE, True, "reset"),
        (b"", False, "closed"),
        (b"", True, "reset"),
    ],
)
def test_the_end_of_the_connection(data: bytes, reset: bool, end: str) -> None:
    exchange = Exchange()
    exchange.feed(data, 1.0)
    exchange.closed(2.0, reset=reset)
    exchange.gave_up(3.0)
    assert (exchange.end, exchange.kept) == (end, False)


@pytest.mark.parametrize("framing", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Server: x"])
def test_an_answer_to_head_has_no_body(framing: bytes) -> None:
    exchange = Exchange(method="HEAD")
    exchange.feed(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n", 1.0)
    assert (exchange.end, exchange.framing, exchange.raw_body, exchange.kept) == ("complete", "none", b"", True)


def test_what_follows_a_complete_answer_is_kept_apart() -> None:
    exchange = Exchange()
    exchange.feed(SIZED + b"\r\n", 1.0)
    exchange.feed(b"more", 2.0)
    assert (exchange.raw_body, exchange.extra, exchange.ended_at) == (b"hello", b"\r\nmore", 1.0)


def test_nobody_waits_any_more() -> None:
    exchange = Exchange()
    exchange.gave_up(3.0)
    assert (exchange.end, exchange.in_words) == ("timeout", "no answer in time")


@pytest.mark.parametrize("coding", ["gzip", "br"])
def test_a_compressed_body_keeps_the_times_of_its_pieces(coding: str) -> None:
    packed = gzip.compress(b"hello")
    exchange = Exchange(fields=[("Content-Encoding", coding)], arrivals=[(1.0, packed[:9]), (2.0, packed[9:])])
    assert exchange.body == (b"hello" if coding == "gzip" else packed)
    assert [at for at, _ in exchange.decoded()] == [1.0, 2.0]


def test_a_body_that_is_not_compressed_as_it_says_stays_as_it_is() -> None:
    assert Exchange(fields=[("Content-Encoding", "gzip")], arrivals=[(1.0, b"plain")]).body == b"plain"
