"""A head is taken for one that came before only where a parser would have made the same of it."""

import asyncio

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gomodel.downstream.request_head import BadHead, HeadReader
from gomodel.errors import GatewayError
from gomodel.http1.head import request_head
from gomodel.http1.request_fields import RequestFields
from gomodel.http1.similar_head import similar

LIMIT = 2048
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BASE = (
    b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer k\r\nContent-Type: application/json\r\n"
    b"X-A: 1\r\ntraceparent: %b\r\nX-Request-Id: r-1\r\nContent-Length: 17\r\nConnection: keep-alive, X-Named\r\n"
    b"X-Named: 1\r\nX-Stripped: 1\r\nx-a:2\r\nX-Empty:\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n"
) % TRACE
STRIP = frozenset({b"x-stripped"})


def parsed(head):
    """What the parser and our checks make of a head that begins `head`: where it ends, its line and fields, or None."""
    loop = asyncio.new_event_loop()
    try:
        reader = HeadReader(loop, LIMIT)
        message = reader.feed(head)
        if message is None:
            return None
        fields = RequestFields(message.raw_headers, STRIP)
        fields.check(http_10=False)
    except (BadHead, GatewayError):
        return None
    finally:
        loop.close()
    return reader.ended, message, fields


def known(base=BASE, client=""):
    """The heads like `base`, and its fields as they are kept."""
    _, message, fields = parsed(base)
    fields.client = client
    fields.write_once()
    return similar(base, fields.varying(message.raw_headers), LIMIT), fields


def facts(message, fields):
    length = fields.content_length
    sent = request_head(message.method, message.path, fields, b"Host: y\r\n", b"id", 3)
    given = fields.trace, fields.request_id, fields.session
    return sent, length, given, fields.host, fields.authorization, fields.content_type


def same(data, base=BASE):
    """Whether `data` is taken for a head like `base`; if so everything must be as if it had been parsed.

    Neither depends on which fields differed before.
    """
    first = taken(data, base)
    others = [(b": 17\r", b": 18\r"), (b"r-1\r", b"r-22\r"), (b"-01\r", b"-00\r"), (b"X-A: 1\r", b"X-A: 3\r")]
    assert taken(data, base, others) is first
    return first


def taken(data, base, before=()):
    """`same`, behind heads that had other values, where those are the base's to have."""
    head, fields = known(base)
    for old, new in before:
        if head.match(base.replace(old, new, 1)):
            assert fields.vary(head.changed)
    start = head.match(data)
    if not start or not fields.vary(head.changed):
        return False
    found = parsed(data)
    assert found is not None
    ended, message, fresh = found
    assert (ended, message.method, message.path, message.version) == (start, "POST", "/v1/chat/completions", (1, 1))
    assert not message.should_close
    assert not message.upgrade
    assert not message.chunked
    assert facts(message, fields) == facts(message, fresh)
    return True


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"X-A: 1", b"X-A: 2"),
        (b"X-A: 1", b'X-A:\t two words, "and" more \t'),
        (b"X-A: 1", b"X-A:"),
        (b"X-A: 1", b"X-A: " + b"1" * (LIMIT - len(BASE) + 1)),
        (b"X-Empty:", b"X-Empty: full"),
        (b"x-a:2", b"x-a:3"),
        (b"-01\r\n", b"-00\r\n"),
        (TRACE, b"not a trace"),
        (b"r-1", b"r-2"),
        (b"r-1", b"no id"),
        (b": 17", b": 18"),
        (b": 17", b":9999"),
        (b"X-Named: 1", b"X-Named: 2"),
        (b"X-Stripped: 1", b"X-Stripped: 2"),
        (b"1.2.3.4", b"1.2.3.5, ::1"),
        (b"", b""),
    ],
)
def test_a_head_with_another_value_is_like_it(old, new):
    assert same(BASE.replace(old, new, 1))
    assert same(BASE.replace(old, new, 1) + b'{"model":"m"}\r\n\r\n')


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"POST", b"GET"),
        (b"completions", b"completion"),
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"Host: x", b"Host: y"),
        (b"Bearer k", b"Bearer l"),
        (b"application/json", b"multipart/form-data; boundary=x"),
        (b"keep-alive", b"close"),
        (b"X-A: 1", b"x-A: 1"),
        (b"X-A: 1", b"X-B: 1"),
        (b"X-A: 1", b"X-A : 1"),
        (b"X-A: 1", b"X-A: 1\r\nX-B: 1"),
        (b"X-A: 1\r\n", b""),
        (b"X-A: 1", b"X-A: \x001"),
        (b"X-A: 1", b"X-A: 1\n"),
        (b"X-A: 1", b"X-A: 1\nTransfer-Encoding: chunked"),
        (b"X-A: 1", b"X-A: 1\rTransfer-Encoding: chunked"),
        (b"X-A: 1", b"X-A: \xe9"),
        (b"X-A: 1", b"X-A: \x7f"),
        (b"X-A: 1\r\n", b" X-A: 1\r\n"),
        (b"X-A: 1", b"Transfer-Encoding: chunked"),
        (b": 17", b": 017"),
        (b": 17", b": +17"),
        (b": 17", b": 1 7"),
        (b": 17", b": 17,17"),
        (b": 17", b": 0"),
        (b": 17", b":"),
        (b": 17", b": " + b"9" * 16),
        (b"X-A: 1", b"X-A: " + b"1" * LIMIT),
        (b"X-A: 1", b"X-A: " + b"1" * (LIMIT - len(BASE) + 2)),
        (b"\r\n\r\n", b"\r\n"),
        (b"POST", b"\r\nPOST"),
    ],
)
def test_any_other_head_is_the_parsers(old, new):
    assert old in BASE
    assert not same(BASE.replace(old, new, 1))


SESSION = BASE.replace(b"X-A: 1", b"X-Session-ID: s-1", 1)


def test_a_head_of_another_session_is_like_it():
    assert same(SESSION, SESSION)
    assert same(SESSION.replace(b"s-1", b"s-22", 1), SESSION)
    assert same(SESSION.replace(b"s-1", b"", 1), SESSION)


@pytest.mark.parametrize("name", [b"traceparent: " + TRACE, b"X-Request-Id: r-1", b"Session-Id: s-1"])
def test_one_of_two_that_count_once_is_the_parsers(name):
    base = (SESSION if b"Session" in name else BASE).replace(b"x-a:2" if b"Session" in name else b"X-A: 1", name, 1)
    assert same(base, base)
    assert not same(base[::-1].replace(b"1"[::-1], b"2", 1)[::-1].replace(name, name[:-1] + b"9", 1), base)


def test_a_list_of_proxies_that_decides_who_the_client_is_is_the_parsers():
    head, _ = known(client="1.2.3.4")
    assert head.match(BASE)
    assert not head.match(BASE.replace(b"1.2.3.4", b"1.2.3.5"))


def test_what_differed_in_one_head_is_as_it_was_in_the_next():
    head, fields = known()
    _, message, fresh = parsed(BASE)
    for old, new in ((b"X-A: 1", b"X-A: 2"), (b"r-1", b"r-2"), (b": 17", b": 18"), (TRACE, b"x")):
        assert head.match(BASE.replace(old, new, 1))
        assert fields.vary(head.changed)
        assert facts(message, fields) != facts(message, fresh)
    assert head.match(BASE)
    assert fields.vary(head.changed)
    assert facts(message, fields) == facts(message, fresh)


def test_every_value_that_differs_counts_wherever_it_stands_and_whatever_stands_before_it() -> None:
    first = BASE.replace(b"Host: x\r\n", b"X-First: 1\r\nHost: x\r\n", 1)
    assert same(first.replace(b"X-First: 1", b"X-First: 2", 1), first)
    # The length comes before the other.
    assert same(BASE.replace(b": 17", b": 18").replace(b"X-Named: 1", b"X-Named: 2").replace(b"x-a:2", b"x-a:3"))


def test_fields_that_were_another_heads_say_so() -> None:
    head, fields = known()
    assert not fields.varied
    assert head.match(BASE.replace(b": 17", b": 0", 1)) == 0 or not fields.vary(head.changed)
    assert not fields.varied
    assert head.match(BASE.replace(b"X-A: 1", b"X-A: 2", 1))
    assert fields.vary(head.changed)
    assert fields.varied


@pytest.mark.parametrize("line", [b"X-Of-Eight: \xe9", b"X-Folded: 1\r\n 2"])
def test_heads_that_are_not_plain_are_like_none(line):
    base = BASE.replace(b"X-A: 1", line, 1)
    found = parsed(base)
    if found is not None:
        _, message, fields = found
        fields.write_once()
        assert similar(base, fields.varying(message.raw_headers), LIMIT) is None


def test_a_head_with_another_number_of_lines_than_fields_is_like_none():
    lines = BASE.count(b"\r\n") - 2
    assert similar(BASE, [b""] * lines, LIMIT) is not None
    for other in (lines - 1, lines + 1, 0):
        assert similar(BASE, [b""] * other, LIMIT) is None


PIECES = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b",", b"\0", b"1", b"x", b"\xff", b"X-A: 1\r\n", b"\r\n\r\n"]
)


@given(
    edits=st.lists(
        st.tuples(st.integers(0, len(BASE)), st.integers(0, 12), st.one_of(PIECES, st.binary(max_size=6))), max_size=3
    )
)
@example(edits=[])
def test_whatever_is_edited_is_taken_only_for_what_the_parser_makes_of_it(edits):
    data = BASE
    for at, cut, piece in edits:
        data = data[:at] + piece + data[at + cut :]
    same(data)
