"""Reads the head of a client's request: where it ends, whether it is too large, and what aiohttp's parser makes of it.

The parser gets heads and nothing else, so that it never has a body, an upgrade or half of the next request in it.
Decides what is refused before any route is known, and what can still be said of the request that was. Knows nothing
of connections and bodies.

Leans on these internals of aiohttp 3.14 (tests/wire/test_aiohttp_internals.py fails when they move): a
`HttpRequestParser` that is told messages have no body reads head after head.
"""

import asyncio
import re

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpRequestParser, HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from ..errors import BadRequest, HeaderTooLarge, UriTooLong

# vLLM's own server takes no more (--h11-max-header-count).
MAX_FIELDS = 256
# What ends a head, in all that the parser might take for it (RFC 9112 2.2).
_blank_line = re.compile(rb"\n\r?\n").search
_request_line = re.compile(rb"([A-Z]{1,20}) ([!-~]+)").match
# One space twice (RFC 9112 3), a method as methods are registered, and HTTP.
_strict_line = re.compile(rb"[A-Z-]+ [^ \t\r\n]+ HTTP/1\.[01]\r\n").match
# aiohttp's limit for a reader of bodies, which this parser never has.
_NO_READER = 1
NO_URL = URL("/")
NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())


class BadHead(Exception):
    """A head that is refused. `message` has its method and target as far as they can be read."""

    def __init__(self, error: BadRequest, begun: bytes | bytearray) -> None:
        super().__init__(error.message)
        self.error = error
        found = _request_line(begun)
        method, target = (found[1].decode(), found[2].decode()) if found else ("UNKNOWN", "")
        self.message = RawRequestMessage(
            method, target, HttpVersion10, NO_HEADERS, (), True, None, False, False, NO_URL
        )


class HeadReader:
    """The heads of one connection, one after the other."""

    __slots__ = ("_loop", "_parser", "begun", "ended", "limit")

    def __init__(self, loop: asyncio.AbstractEventLoop, limit_bytes: int) -> None:
        """`limit_bytes` is for a whole head, the request line included."""
        self.limit = limit_bytes
        self.begun = bytearray()  # of a head whose end has not arrived
        self._loop = loop
        self._parser: HttpRequestParser | None = None
        self.ended = 0  # where the last head ended in the bytes that were fed

    def feed(self, data: bytes) -> RawRequestMessage | None:
        """The message whose head ends in `data`, at `ended`; None when more of it has to come.

        Raises BadHead: no HTTP/1.1 (RFC 9112), a request line or a head over the limit (RFC 9110 15.5.15, RFC 6585 5).
        """
        begun, start = self.begun, 0
        if not begun:
            start = len(data) - len(data.lstrip(b"\r\n"))  # RFC 9112 2.2
            if start == len(data):
                return None
        before = len(begun)
        if before:
            begun += data
            blank = _blank_line(begun, max(0, before - 2))
            head: bytes | bytearray = begun
        else:
            blank = _blank_line(data, start)
            head = data[start : start + self.limit + 1] if blank is None else data[start : blank.end()]
        end = blank.end() if blank else before + len(data)
        if (end if before else end - start) > self.limit:
            raise BadHead(self._too_large(head), head)
        self.ended = end - before
        parser = self._parser or self._new_parser()
        try:
            messages, upgraded, _ = parser.feed_data(data[start : self.ended])
        except (HttpProcessingError, ValueError) as exc:
            # ValueError: the parser in Python passes on what int() says of a length of thousands of digits.
            raise BadHead(_refusal(exc), head) from None
        if blank is None:
            if not before:
                begun += data[start:]
            return None
        if before:
            self.begun = bytearray()
        if upgraded:
            parser.set_upgraded(False)  # whether the protocol changes is not its business
        message: RawRequestMessage | None = messages[0][0] if messages else None
        if message is None or not _speaks_http(message, head):
            raise BadHead(BadRequest("The request is not valid HTTP/1.1."), head)
        return message

    def rest(self) -> None:
        """No head is begun, and the next one hardly needs to be parsed: an open stream keeps no parser."""
        self._parser = None

    def _new_parser(self) -> HttpRequestParser:
        # A protocol is told of bodies alone, which this parser does not read. With the connection in its place the two
        # would keep each other until the collector comes.
        self._parser = HttpRequestParser(
            BaseProtocol(self._loop),
            self._loop,
            _NO_READER,
            response_with_body=False,
            auto_decompress=False,
            max_line_size=self.limit,
            max_field_size=self.limit,
            max_headers=MAX_FIELDS,
        )
        return self._parser

    def _too_large(self, head: bytes | bytearray) -> BadRequest:
        said = f"is over the limit of {self.limit} bytes (HTTP_HEADER_LIMIT)."
        if head.find(b"\n", 0, self.limit) < 0:
            return UriTooLong(f"The request line {said}")
        return HeaderTooLarge(f"The request's header {said}")


def _refusal(exc: Exception) -> BadRequest:
    """What a refusal of the parser means; its text, which quotes the request, stays here."""
    if isinstance(exc, BadHttpMessage) and "Too many headers" in exc.message:
        return HeaderTooLarge(f"The request has more than {MAX_FIELDS} header fields.")
    return BadRequest("The request is not valid HTTP/1.1.")


def _speaks_http(message: RawRequestMessage, head: bytes | bytearray) -> bool:
    """Whether a request line is HTTP/1.1 to the letter; other versions are refused with a 505.

    The C parser reads RTSP and ICE as well, whose versions look like ours, and takes several spaces for one; that in
    Python takes any word for a method.
    """
    return message.version not in (HttpVersion11, HttpVersion10) or _strict_line(head) is not None
