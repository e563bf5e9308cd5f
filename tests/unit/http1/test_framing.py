"""Where a response body ends, whatever pieces it arrives in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.http1.framing import (
    _PIECES,
    CHUNK_LIMIT_BYTES,
    LINE_LIMIT_BYTES,
    LINES_PER_TURN,
    TRAILERS_LIMIT_BYTES,
    Chunked,
    Sized,
    UntilClose,
    whole_chunk,
)

EVENT = b'data: {"choices":[]}\n\n'


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


def fed(body, pieces):
    """All payload of `pieces`, fed until the body is over or broken."""
    payload = b""
    for piece in pieces:
        payload += body.feed(piece)
        if body.complete or body.broken:
            break
    return payload


def ways(data):
    """Whole, byte by byte, and cut in two at every place."""
    yield [data]
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(1, len(data)):
        yield [data[:at], data[at:]]


WHOLE = [
    pytest.param(chunk(b"ok") + b"0\r\n\r\n", b"ok", id="one chunk"),
    pytest.param(chunk(b"a") + chunk(b"bc") + b"0\r\n\r\n", b"abc", id="two chunks"),
    pytest.param(b"0\r\n\r\n", b"", id="empty"),
    pytest.param(chunk(b"\r\n0\r\n\r\n") + b"0\r\n\r\n", b"\r\n0\r\n\r\n", id="payload that looks like the end"),
    pytest.param(b"A\r\n0123456789\r\n0\r\n\r\n", b"0123456789", id="upper case"),
    pytest.param(b"000000000000000000000000000000000002\r\nok\r\n000\r\n\r\n", b"ok", id="leading zeros"),
    pytest.param(b'2;a="b";c=d\r\nok\r\n0;last\r\n\r\n', b"ok", id="extensions"),
    pytest.param(b"2 \r\nok\r\n0\t \r\n\r\n", b"ok", id="spaces behind the size"),
    pytest.param(b"2 ;a\r\nok\r\n0\r\n\r\n", b"ok", id="space before an extension"),
    pytest.param(b"2\r\nok\r\n0\r\nX-A: 1\r\nX-B: 2\r\n\r\n", b"ok", id="trailers"),
]


@pytest.mark.parametrize(("sent", "payload"), WHOLE)
def test_a_chunked_body_ends_where_it_says(sent, payload):
    for pieces in ways(sent):
        body = Chunked()
        assert fed(body, pieces) == payload
        assert (body.complete, body.broken, body.rest) == (True, False, b"")


@pytest.mark.parametrize(("sent", "payload"), WHOLE)
@pytest.mark.parametrize("extra", [b"x", b"\r\n", b"0\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_bytes_behind_a_chunked_body_are_left_and_no_payload(sent, payload, extra):
    body = Chunked()
    assert body.feed(sent + extra) == payload
    assert (body.complete, body.rest) == (True, extra)


@pytest.mark.parametrize(("sent", "payload"), WHOLE)
def test_a_chunked_body_cut_short_anywhere_is_not_complete(sent, payload):
    for at in range(len(sent)):
        body = Chunked()
        assert payload.startswith(body.feed(sent[:at]))
        assert (body.complete, body.broken) == (False, False)


@pytest.mark.parametrize(
    ("sent", "payload"),
    [
        pytest.param(b"\r\nok\r\n", b"", id="no size"),
        pytest.param(b";a\r\nok\r\n", b"", id="an extension alone"),
        pytest.param(b"x\r\n", b"", id="no hex"),
        pytest.param(b"0x2\r\nok\r\n", b"", id="0x"),
        pytest.param(b"+2\r\nok\r\n", b"", id="plus"),
        pytest.param(b"-2\r\nok\r\n", b"", id="minus"),
        pytest.param(b"1_0\r\n0123456789abcdef\r\n", b"", id="underscore"),
        pytest.param(b" 2\r\nok\r\n", b"", id="space before the size"),
        pytest.param(b"2\x0b\r\nok\r\n", b"", id="vertical tab behind the size"),
        pytest.param(b"2\x0c;a\r\nok\r\n", b"", id="form feed behind the size"),
        pytest.param(b"2\nok\r\n", b"", id="size ends in LF"),
        pytest.param(b"2\rok\r\n", b"", id="size ends in CR"),
        pytest.param(b"2;a\nb\r\nok\r\n", b"", id="LF in an extension"),
        pytest.param(b"2;a\rb\r\nok\r\n", b"", id="CR in an extension"),
        pytest.param(b"2\r\nok2\r\nok\r\n", b"ok", id="no line end behind the payload"),
        pytest.param(b"2\r\nok\n0\r\n\r\n", b"ok", id="LF behind the payload"),
        pytest.param(b"2\r\nok\r\r\n", b"ok", id="CR CR behind the payload"),
        pytest.param(b"%x\r\n" % CHUNK_LIMIT_BYTES, b"", id="more than any body"),
        pytest.param(b"2\r\nok\r\n0\r\nX: 1\n\r\n", b"ok", id="trailer ends in LF"),
        pytest.param(b"2;" + b"a" * LINE_LIMIT_BYTES + b"\r\n", b"", id="endless extension"),
    ],
)
def test_a_chunked_body_that_breaks_the_rules_is_broken_from_there_on(sent, payload):
    for pieces in [[sent], [sent[at : at + 1] for at in range(len(sent))]]:
        body = Chunked()
        assert fed(body, pieces) == payload
        assert (body.complete, body.broken) == (False, True)


@pytest.mark.parametrize(
    "begun",
    [
        *(b"g", b"2 x", b"2\x0b", b"2\x0c;", b"2\rx", b"2;a\rx", b"2\r\nokx", b"2\r\nok\rx", b"0\r\nX: 1\rx"),
        *(b"a" * (LINE_LIMIT_BYTES + 1), b"0\r\n" + b"X" * (LINE_LIMIT_BYTES + 1)),
    ],
)
def test_a_fault_shows_before_its_line_is_over(begun):
    body = Chunked()
    body.feed(begun)
    assert body.broken


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"2 \r\nok\r\n", id="a blank behind the size"),
        pytest.param(b"2\t\r\nok\r\n", id="a tab behind the size"),
        pytest.param(b"2;a\0b\r\nok\r\n", id="NUL in an extension"),
        pytest.param(b"0\r\nX: \0\r\n\r\n", id="NUL in a trailer"),
        pytest.param(b"0\r\nX: \x7f\r\n\r\n", id="DEL in a trailer"),
    ],
)
def test_a_client_gets_less_leave_than_an_instance(sent):
    for pieces in [[sent], [sent[at : at + 1] for at in range(len(sent))]]:
        body = Chunked(strict=True)
        fed(body, pieces)
        assert (body.complete, body.broken) == (False, True)
        body = Chunked()
        fed(body, pieces)
        assert not body.broken


def test_a_client_may_write_blanks_where_an_extension_follows():
    body = Chunked(strict=True)
    assert fed(body, [b'2 \t;a="\t"\r\nok\r\n0 ;b\r\nX: \t1\r\n\r\n']) == b"ok"
    assert body.complete


def test_a_clients_tiny_chunks_are_read_some_at_a_time():
    sent = chunk(b"a") * (2 * LINES_PER_TURN) + b"0\r\n\r\nNEXT"
    body = Chunked(strict=True)
    payload, turns = body.feed(sent), 1
    assert len(payload) == LINES_PER_TURN / 2
    while not body.complete:
        assert body.rest
        payload += body.feed(body.rest)
        turns += 1
    assert (payload, body.rest, turns) == (b"a" * (2 * LINES_PER_TURN), b"NEXT", 5)


def test_an_instances_are_read_at_once():
    body = Chunked()
    assert len(body.feed(chunk(b"a") * (2 * LINES_PER_TURN) + b"0\r\n\r\n")) == 2 * LINES_PER_TURN
    assert body.complete


LINES = [
    pytest.param(b"2;%b\r\nok\r\n0\r\n\r\n" % (b"a" * (LINE_LIMIT_BYTES - 2)), id="an extension"),
    pytest.param(b"2\r\nok\r\n0\r\nX:%b\r\n\r\n" % (b"a" * (LINE_LIMIT_BYTES - 2)), id="a trailer"),
    pytest.param(
        b"2\r\nok\r\n0\r\n"
        + (b"X" * LINE_LIMIT_BYTES + b"\r\n") * (TRAILERS_LIMIT_BYTES // LINE_LIMIT_BYTES)
        + b"\r\n",
        id="all trailers",
    ),
]


@pytest.mark.parametrize("sent", LINES)
def test_what_is_as_long_as_it_may_be_passes_however_it_is_cut(sent):
    for pieces in [[sent], [sent[at : at + 1] for at in range(len(sent))]]:
        body = Chunked()
        assert fed(body, pieces) == b"ok"
        assert (body.complete, body.broken) == (True, False)


def test_endless_trailers_are_broken():
    body = Chunked()
    body.feed(b"0\r\n")
    fed(body, [b"X: " + b"a" * 4000 + b"\r\n"] * (TRAILERS_LIMIT_BYTES // 4000 + 1))
    assert (body.complete, body.broken) == (False, True)


PAYLOADS = st.lists(st.binary(min_size=1, max_size=40), max_size=8)


@given(PAYLOADS, st.lists(st.integers(1, 30), min_size=1))
def test_no_payload_and_no_cutting_changes_what_comes_out(payloads, sizes):
    sent = b"".join(map(chunk, payloads)) + b"0\r\n\r\n"
    pieces, at = [], 0
    while at < len(sent):
        pieces.append(sent[at : at + sizes[len(pieces) % len(sizes)]])
        at += len(pieces[-1])
    body = Chunked()
    assert fed(body, pieces) == b"".join(payloads)
    assert (body.complete, body.broken, body.rest) == (True, False, b"")


@given(
    st.binary(max_size=60)
    | st.integers(1, 5000).map(lambda size: chunk(b"e" * size))
    | PAYLOADS.map(lambda payloads: b"".join(map(chunk, payloads)))
)
def test_what_is_taken_for_a_whole_chunk_is_one(data):
    start = whole_chunk(data)
    if start:
        body = Chunked()
        assert body.feed(data) == data[start:-2]
        assert (body.between, body.complete, body.broken) == (True, False, False)


@pytest.mark.parametrize("size", [16, 17, 171, 254, 255, 256, 257, 2748, 4095])
@pytest.mark.parametrize("case", [bytes.lower, bytes.upper])
def test_a_chunk_as_servers_write_it_is_seen_as_a_whole(size, case):
    frame = case(b"%x" % size) + b"\r\n" + b"e" * size + b"\r\n"
    assert whole_chunk(frame) == frame.index(b"e" * size)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"0\r\n\r\n", id="the end"),
        pytest.param(chunk(b"x" * 15), id="too small for an event"),
        pytest.param(chunk(b"x" * 4096), id="too large for an event"),
        pytest.param(chunk(EVENT) * 2, id="two"),
        pytest.param(chunk(EVENT)[:-1], id="unfinished"),
        pytest.param(chunk(EVENT) + b"1", id="one and a beginning"),
        pytest.param(b"0" + chunk(EVENT), id="leading zero"),
        pytest.param(chunk(EVENT).replace(b"\r\n", b";a\r\n", 1), id="extension"),
        pytest.param(chunk(EVENT)[:-2] + b"\n\n", id="no CRLF at its end"),
        pytest.param(b"\r\n" + chunk(EVENT), id="blank line"),
        pytest.param(EVENT, id="no size"),
    ],
)
def test_anything_else_takes_the_general_way(data):
    assert whole_chunk(data) == 0


def test_a_place_between_chunks_is_known():
    body = Chunked()
    assert body.between
    for at, byte in enumerate(chunk(EVENT), 1):
        body.feed(bytes([byte]))
        assert body.between == (at == len(chunk(EVENT)))
    body.feed(b"0\r\n")
    assert not body.between


@pytest.mark.parametrize("size", [1, 2, 10])
def test_a_body_with_a_length_ends_with_its_last_byte(size):
    sent = bytes(range(size))
    for pieces in ways(sent):
        body = Sized(size)
        assert fed(body, pieces) == sent
        assert (body.complete, body.rest, body.broken, body.between) == (True, b"", False, False)


@pytest.mark.parametrize("size", [1, 2, 10])
def test_bytes_behind_a_length_are_left(size):
    body = Sized(size)
    assert body.feed(b"x" * size + b"more") == b"x" * size
    assert (body.complete, body.rest) == (True, b"more")


def test_a_body_until_the_close_never_ends_by_itself():
    body = UntilClose()
    assert fed(body, [b"0\r\n\r\n", b"", b"x"]) == b"0\r\n\r\nx"
    assert (body.complete, body.rest, body.broken, body.between) == (False, b"", False, False)


def uncopied(body, pieces):
    """As `fed`, by `pieces` where that has an answer; the payload, and how often it had."""
    payload, answers = b"", 0
    for piece in pieces:
        uncopied = body.pieces(memoryview(piece))
        answers += uncopied is not None
        payload += body.feed(piece) if uncopied is None else b"".join(uncopied)
        if body.complete or body.broken:
            break
    return payload, answers


@pytest.mark.parametrize(("sent", "payload"), WHOLE)
def test_a_read_that_is_not_copied_is_followed_like_any_other(sent, payload):
    for pieces in ways(sent):
        for known in (Chunked(), Chunked(strict=True)):
            followed = type(known)(strict=known._strict)
            expected = fed(followed, pieces)
            assert uncopied(known, pieces)[0] == expected
            assert (known.complete, known.broken, known.between) == (
                followed.complete,
                followed.broken,
                followed.between,
            )


@pytest.mark.parametrize(
    ("reads", "payloads"),
    [
        ([chunk(b"ab"), chunk(b"c" * 300)], [[b"ab"], [b"c" * 300]]),
        ([b"5\r\nab", b"cde\r\n2\r\nf", b"g", b"\r\n"], [[b"ab"], [b"cde", b"f"], [b"g"], []]),
        ([b"5\r\nabcde", b"\r\n1\r\n", b"x"], [[b"abcde"], [], [b"x"]]),
        ([chunk(b"x") * _PIECES], [[b"x"] * _PIECES]),
        ([chunk(b"x") * (_PIECES + 1)], [None]),
        ([b"5\r\nabcde\r"], [None]),
        ([b"5;a\r\nabcde\r\n"], [None]),
        ([b"5\r\nabcde\r\n1"], [None]),
        ([b"5\r\nabcde\n"], [None]),
        ([b"2\r\nabc\r\n"], [None]),
        ([b"%x\r\n" % CHUNK_LIMIT_BYTES], [None]),
        ([chunk(b"ab") + b"0\r\n\r\n"], [None]),
    ],
)
def test_plain_chunks_are_not_copied(reads, payloads):
    body = Chunked(strict=True)
    found = [body.pieces(memoryview(read)) for read in reads]
    assert [each if each is None else list(map(bytes, each)) for each in found] == payloads
    assert not body.broken


@pytest.mark.parametrize("sent", [b"5\r\nab\r\n", b"5\r\nabcde", b"5\r\nabcdex\r\n"])
def test_what_is_not_answered_is_as_if_it_had_not_been_asked(sent):
    body, other = Chunked(strict=True), Chunked(strict=True)
    rest = sent[4:] + b"2;x\r\nok\r\n0\r\n\r\n"
    assert body.pieces(memoryview(sent[:4])) == [b"a"]
    assert body.pieces(memoryview(rest)) is None
    other.feed(sent[:4])
    assert (body.feed(rest), body.complete, body.broken) == (other.feed(rest), other.complete, other.broken)


def test_a_sized_body_is_not_copied_before_its_end():
    body = Sized(5)
    assert body.pieces(memoryview(b"abc")) == [b"abc"]
    assert body.pieces(memoryview(b"de")) is None
    assert body.pieces(memoryview(b"defg")) is None
    assert (body.feed(b"defg"), body.complete, body.rest) == (b"de", True, b"fg")
