"""Reads the heads of an instance's responses: aiohttp's parser, size limits, interim responses, heads that come again.

Decides where a head ends, which head is the response's and whether to believe it (`response_checks`). Knows nothing of
bodies, of connections or of who asked.

Leans on `HttpResponseParser` of aiohttp 3.14 (tests/wire/test_aiohttp_internals.py fails when it moves): `feed_data`
returns (messages, upgraded, tail), and a parser that is told responses have no body reads head after head.
"""

import asyncio
import re
from typing import Any

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpResponseParser

from ..http1.head import status_line
from ..http1.message import ResponseMessage
from ..http1.repeated_head import RepeatedHead, repeatable
from ..http1.response_fields import ResponseFields
from .response_checks import distrust, fault, parse_error

# vLLM's embeddings with `encoding_format: bytes` send a header of 114 KB at 1,000 inputs; it grows with the input.
MAX_FIELD_BYTES = 1 << 20
MAX_HEAD_BYTES = 2 << 20
# An interim head, or an empty line, takes time whatever its length is, and counts as so many bytes more.
_HEAD_COST_BYTES = 512
MAX_FIELDS = 128
# What ends a head, in all that the parser takes for it (RFC 9112 2.2).
_blank_line = re.compile(rb"\n\r?\n").search
# aiohttp's limit for a reader of bodies, which this parser never has.
_NO_READER = 1
_PROTOCOL = b"HTTP/"
_NO_BODY = frozenset({204, 304})
# Of answers with these and higher statuses some are withheld, with their fields; those must not become another head's.
_WITHHELD = 400


class Head:
    """The head of one response: aiohttp's message, and its fields by our rules.

    What is asked of every response is looked up once, for a head that comes again.
    """

    __slots__ = ("bodiless", "code", "fields", "last", "message")

    def __init__(self, message: ResponseMessage, fields: ResponseFields) -> None:
        self.message = message
        self.fields = fields
        self.code: int = message.code
        self.last: bool = message.should_close  # the connection ends with it
        self.bodiless = self.code in _NO_BODY


class HeadReader:
    """Reads the heads of one connection, one after the other."""

    __slots__ = (
        "_begun_bytes",
        "_instance",
        "_known",
        "_line",
        "_loop",
        "_parser",
        "_repeated",
        "_tail",
        "end",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, instance: str) -> None:
        self._loop = loop
        self._instance = instance
        self._parser: Any = None  # an HttpResponseParser; the one in C makes other classes than are declared
        self._repeated: RepeatedHead | None = None  # recognises the last head, `_known`, when it comes again
        self._known: Head
        self._begun_bytes = 0  # of the head being read, and of interim ones before it
        self._line = b""  # its first bytes
        self._tail = b""  # its last bytes so far, in which its end may have begun
        self.end = 0  # of the head that was returned, in the data that completed it

    @property
    def begun(self) -> bool:
        """Whether a part of a head has arrived."""
        return self._begun_bytes > 0

    def read(self, data: bytes, upgradable: bool) -> Head | None:
        """The head that `data` completes, which ends at `end` in it; None while more has to come.

        A 101 is returned only where the request is `upgradable` and the parser agrees. Raises UpstreamError for what is
        no head, or is not to be believed.
        """
        repeated = self._repeated
        if repeated is not None and not self._begun_bytes and (start := repeated.match(data)):
            self.end = start
            known = self._known
            if repeated.length != known.fields.length:
                known.fields.repeat(repeated.length)
            return known
        return self._parse(data, upgradable)

    def _parse(self, data: bytes, upgradable: bool) -> Head | None:
        """Give the parser heads and nothing else: interim ones, which end here, and the one that counts."""
        self._repeated = None
        if self._parser is None:
            self._parser = self._new_parser()
        first = not self._begun_bytes
        before = fed = len(self._tail)
        if before:
            data, self._tail = self._tail + data, b""
        at = 0
        while True:
            blank = _blank_line(data, at)
            end = blank.end() if blank else len(data)
            self._begun_bytes += end - fed
            if len(self._line) < len(_PROTOCOL):
                self._line = (self._line + data[fed:end]).lstrip(b"\r\n")[: len(_PROTOCOL)]
            try:
                messages, upgraded, _ = self._parser.feed_data(data[fed:end])
            except Exception as exc:
                # The parser's tree is wide, and every branch of it is the instance's fault.
                raise parse_error(self._instance, exc, data) from None
            if messages:
                message: ResponseMessage = messages[0][0]
                if self._line != _PROTOCOL:  # the parser reads RTSP and ICE as well
                    raise fault(
                        self._instance, "http_protocol_error", "sent something that is not a valid HTTP response"
                    )
                self._line = b""
                if message.code >= 200 or message.code == 101 or message.code < 100:
                    alone = first and not at  # nothing of it or of another came before
                    self.end = end - before
                    return self._whole(message, data, end, alone=alone, switching=upgraded and upgradable)
                # aiohttp cannot pass an interim response on; the first-byte limit bounds a stream of them.
            if self._begun_bytes > MAX_HEAD_BYTES:
                raise fault(
                    self._instance, "http_response_header_section_size", "sent a response head that is too large"
                )
            if end == len(data):
                self._tail = b"" if blank else data[-2:]
                return None
            at = fed = end
            self._begun_bytes += _HEAD_COST_BYTES

    def _whole(self, message: ResponseMessage, data: bytes, end: int, *, alone: bool, switching: bool) -> Head:
        """A head that ends at `end` in `data`; the next one begins anew."""
        fields = ResponseFields(message.raw_headers)
        self._begun_bytes = 0
        self._parser = None  # it has the head's fields as well, and an answer may stream for hours
        head = Head(message, fields)
        if message.code == 101 and switching:
            return head
        doubt = distrust(message, fields)
        if doubt is not None:
            raise fault(self._instance, *doubt)
        if fields.lengths:
            fields.length = int(fields.lengths[0])
        if alone and fields.may_repeat and message.code < _WITHHELD:
            self._known = head
            self._repeated = repeatable(data, end)
            if self._repeated is not None and not head.bodiless:
                fields.write_once(status_line(head.code, message.reason))
        return head

    def _new_parser(self) -> HttpResponseParser:
        # A protocol is told of bodies alone, which this parser does not read. With the connection in its place the two
        # would keep each other until the collector comes.
        return HttpResponseParser(
            BaseProtocol(self._loop),
            self._loop,
            _NO_READER,
            response_with_body=False,
            auto_decompress=False,
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            max_headers=MAX_FIELDS,
        )
