"""Which heads of responses are not believed, and in which words an operator hears of it."""

from typing import NamedTuple

import pytest
from aiohttp.http import HttpVersion, HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import BadHttpMessage, BadStatusLine, LineTooLong

from gomodel.http1.response_fields import ResponseFields
from gomodel.upstream.response_checks import distrust, parse_error


class Head(NamedTuple):
    """As the parser gives it, as far as it is looked at."""

    code: int = 200
    version: HttpVersion = HttpVersion11
    chunked: bool = False


UPGRADE = ("http_upgrade_failed", "switched protocols without being asked")
STATUS = ("http_protocol_error", "sent an invalid status line")
CODING = ("http_response_transfer_coding", "used a transfer coding that is not 'chunked'")
TWICE = ("http_protocol_error", "framed its response in two ways")
LENGTH = ("http_protocol_error", "framed its response in an invalid way")
CHUNKED = (b"Transfer-Encoding", b"chunked")


def sized(*lengths: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"Content-Length", each) for each in lengths]


@pytest.mark.parametrize(
    ("head", "fields", "said"),
    [
        (Head(), [], None),
        (Head(200), sized(b"0"), None),
        (Head(599, HttpVersion10), sized(b"9"), None),
        (Head(101), [], UPGRADE),
        (Head(102), [], STATUS),
        (Head(199), [], STATUS),
        (Head(600), [], STATUS),
        (Head(200, HttpVersion(2, 0)), [], STATUS),
        (Head(200, HttpVersion(0, 9)), [], STATUS),
        (Head(chunked=True), [CHUNKED], None),
        (Head(chunked=True), [(b"transfer-encoding", b"Chunked")], None),
        (Head(), [CHUNKED], CODING),
        (Head(chunked=True), [CHUNKED, CHUNKED], CODING),
        (Head(), [(b"Transfer-Encoding", b"gzip")], CODING),
        (Head(chunked=True), [(b"Transfer-Encoding", b"gzip, chunked")], CODING),
        (Head(chunked=True), [CHUNKED, *sized(b"5")], TWICE),
        (Head(), sized(b"5", b"5"), TWICE),
        (Head(), sized(b"9223372036854775807"), None),
        (Head(), sized(b"9223372036854775808"), LENGTH),
        (Head(), sized(b"18446744073709551615"), LENGTH),
    ],
)
def test_a_head_that_can_be_read_in_two_ways_is_not_believed(head, fields, said):
    assert distrust(head, ResponseFields(fields)) == said


SENT = b"HTTP/1.1 200 OK\r\nX-Secret: canary\r\n"


TLS = ("http_protocol_error", "speaks TLS but is set to plain http")
LARGE = ("http_response_header_size", "sent a header that is too large")
MANY = ("http_response_header_section_size", "sent too many headers")
NO_HTTP = ("http_protocol_error", "sent something that is not a valid HTTP response")


@pytest.mark.parametrize(
    ("exc", "data", "said"),
    [
        (BadStatusLine("canary"), b"\x15\x03\x01\x00\x02", TLS),
        (BadStatusLine("canary"), b"\x15\x02", NO_HTTP),
        (BadStatusLine("canary"), SENT + b"\x15\x03", NO_HTTP),
        (LineTooLong("canary", 8190), SENT, LARGE),
        (BadHttpMessage("Too many headers received"), SENT, MANY),
        (BadHttpMessage("canary"), SENT, NO_HTTP),
        (ValueError("Too many headers"), SENT, NO_HTTP),
    ],
)
def test_what_the_parser_refuses_is_told_in_our_words(exc, data, said):
    code, what = said
    error = parse_error("vllm", exc, data)
    assert (error.status, error.type, error.code) == (502, "upstream_error", code)
    assert error.message == f"Instance 'vllm' {what}."
