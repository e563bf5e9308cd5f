"""A head is known again by its bytes, whatever its Content-Length, and nothing else is taken for it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.http1.repeated_head import LIMIT_BYTES, repeatable

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\nAccept: */*\r\n\r\n"


def known(head=HEAD, body=b""):
    found = repeatable(head + body, len(head))
    assert found is not None
    return found


@pytest.mark.parametrize("length", [b"1", b"9", b"10", b"17", b"123456", b"9" * 15])
def test_the_same_head_with_another_length_is_known(length):
    sent = HEAD.replace(b"17", length)
    head = known()
    assert head.match(sent + b"the body") == len(sent)
    assert head.length == int(length)
    assert head.with_length(int(length)) == sent


@pytest.mark.parametrize(
    "line",
    [b"content-length:17", b"CONTENT-LENGTH:\t17", b"Content-Length:  17", b"Content-length: 17"],
)
def test_the_field_may_be_spelt_in_any_way_that_stays_the_same(line):
    sent = HEAD.replace(b"Content-Length: 17", line)
    head = known(sent, b"x" * 17)
    assert head.match(sent + b"x" * 17) == len(sent)
    assert head.match(sent.replace(b"17", b"4") + b"abcd") == len(sent) - 1
    assert head.length == 4
    assert head.match(HEAD) == 0


@pytest.mark.parametrize(
    "length",
    [
        *(
            b"",
            b"0",
            b"017",
            b"+17",
            b"-17",
            b"1_7",
            b"1 7",
            b" 17",
            b"17 ",
            b"17\t",
            b"0x11",
            b"1e1",
            b"17,17",
            b"17;",
            b"1\x00",
        ),
        *("\u0661".encode(), b"\xb2", b"9" * 16, b"1" * 4000, b"17\n", b"17\r", b"17\r\nContent-Length: 17"),
    ],
)
def test_a_length_in_any_other_form_is_left_to_the_parser(length):
    sent = HEAD.replace(b"17", length)
    assert known().match(sent + b"x" * 17) == 0


@pytest.mark.parametrize(
    "sent",
    [
        *(HEAD[:at] for at in range(0, len(HEAD), 7)),
        b"\r\n" + HEAD,
        HEAD.replace(b"POST", b"PUT"),
        HEAD.replace(b"/v1", b"/V1"),
        HEAD.replace(b"Host: x", b"Host: y"),
        HEAD.replace(b"Accept: */*", b"accept: */*"),
        HEAD.replace(b"Accept: */*", b"Accept: */* "),
        HEAD.replace(b"Accept: */*", b"Accept: */*\r\nTransfer-Encoding: chunked"),
        HEAD.replace(b"Content-Length", b"Transfer-Encoding: chunked\r\nContent-Length"),
        HEAD.replace(b"\r\n\r\n", b"\r\nX: 1\r\n\r\n"),
        HEAD.replace(b"\r\n", b"\n"),
    ],
)
def test_a_head_that_differs_anywhere_else_is_not_known(sent):
    assert known().match(sent) == 0


@given(st.integers(0, len(HEAD) - 1), st.integers(0, 255))
def test_one_byte_makes_another_head(at, byte):
    start = HEAD.index(b"17")
    sent = HEAD[:at] + bytes([byte]) + HEAD[at + 1 :]
    digit = at in (start, start + 1) and chr(byte) in "0123456789" and (at > start or byte != ord("0"))
    assert (known().match(sent) != 0) == (digit or sent == HEAD)


@pytest.mark.parametrize(
    "sent",
    [
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 17\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 17\r\n\r\n",
        HEAD.replace(b"*/*", b"x" * (LIMIT_BYTES - len(HEAD) + 3)),
    ],
    ids=["last", "first", "alone", "as long as may be"],
)
def test_the_field_may_stand_anywhere_in_any_head_that_is_short_enough(sent):
    head = known(sent, b"Content-Length: 17\r\n")
    assert head.match(sent) == len(sent)
    assert head.length == 17


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        HEAD.replace(b"17", b"0"),
        HEAD.replace(b"17", b"017"),
        HEAD.replace(b"17", b"17 "),
        HEAD.replace(b"Content-Length: 17", b"Transfer-Encoding: chunked"),
        HEAD.replace(b"Host", b"X-Content-Length"),
        HEAD.replace(b"Accept", b"X" * LIMIT_BYTES),
    ],
)
def test_what_has_no_such_length_or_is_too_long_is_not_kept(head):
    expected = b"\r\nContent-Length: 17\r" in head and len(head) <= LIMIT_BYTES
    assert (repeatable(head, len(head)) is not None) == expected


def test_a_content_length_in_the_body_is_not_the_heads():
    head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert repeatable(head + b"\r\nContent-Length: 5\r\n", len(head)) is None
