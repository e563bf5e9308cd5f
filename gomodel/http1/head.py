"""Which header fields cross the gateway, each way, as raw bytes.

Decides what is dropped, kept and added (RFC 9110 7.6.1, contract section 7) and writes both heads. Fields that
cross keep their order, case, duplicates and every byte of their value. Knows nothing of bodies, routes or sockets.
"""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus

from ..errors import BadRequest
from .locations import LOCATING_FIELDS

RawHeaders = Sequence[tuple[bytes, bytes]]

# RFC 9110 7.6.1; they describe one connection and end here although Connection may not name them.
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
# The client's credentials are for the gateway; Host, Expect and the request id are written anew.
NEVER_UPSTREAM = frozenset({b"host", b"authorization", b"x-api-key", b"api-key", b"cookie", b"expect", b"x-request-id"})
# OpenAI's own name for it; the key stands behind it.
SUBPROTOCOL_KEY = b"openai-insecure-api-key."
# RFC 9110 5.6.2; a Connection option naming one of these would change where the message goes or how it is framed.
PROTECTED_OPTIONS = frozenset({b"content-length", b"transfer-encoding", b"host"})

# A reg-name, IPv4 or bracketed IP literal and an optional port (RFC 3986 3.2.2); no userinfo, which Host cannot have.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?")
# Not of dots alone: as the last segment of DELETE /admin/requests/{id}, "." and ".." would be another path.
_REQUEST_ID = re.compile(rb"(?!\.*\Z)[A-Za-z0-9._-]{1,128}")
# version-traceid-parentid-flags (W3C Trace Context 3.2.2); goes on as it came, but only this is worth a word in a log.
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_LENGTH_DIGITS = 20
# Of another length a parser is asked, as in `repeated_head`.
_PLAIN_LENGTH = re.compile(rb"[1-9][0-9]{0,14}")

_PLAIN, _DROP, _LENGTH, _CONNECTION, _CODING, _HOST_FIELD, _BEARER, _KEY, _ID, _EXPECT, _TYPE, _ENCODING, _TRACE = (
    range(13)
)
_ORIGIN, _OFFER, _LOCATION = range(13, 16)
_REQUEST_FIELDS: dict[bytes, int] = (
    dict.fromkeys(HOP_BY_HOP | NEVER_UPSTREAM, _DROP)
    | {b"content-length": _LENGTH, b"connection": _CONNECTION, b"transfer-encoding": _CODING, b"host": _HOST_FIELD}
    | {b"authorization": _BEARER, b"x-api-key": _KEY, b"x-request-id": _ID, b"expect": _EXPECT, b"content-type": _TYPE}
    | {b"api-key": _KEY, b"sec-websocket-protocol": _OFFER, b"traceparent": _TRACE, b"origin": _ORIGIN}
    | {b"content-encoding": _ENCODING}
)


class RequestFields:
    """The facts of one request's fields, and those that go upstream; one pass over the raw pairs."""

    __slots__ = (
        "_base",
        "_kinds",
        "_length_at",
        "_lines",
        "_places",
        "allowed",
        "around_length",
        "authorization",
        "chunked",
        "client",
        "codings",
        "content_coding",
        "content_length",
        "content_type",
        "expect",
        "forwarded",
        "host",
        "keys",
        "offered",
        "options",
        "origin",
        "request_id",
        "trace",
        "varied",
    )

    def __init__(self, raw_headers: RawHeaders, strip: frozenset[bytes]) -> None:
        """`strip` is lower case: the operator's STRIP_REQUEST_HEADERS."""
        self.around_length: tuple[bytes, bytes] | None = None
        self.varied = False  # by `vary`
        self.allowed = False  # a head with these fields has passed every check of the chain
        self.client = ""  # behind the proxies that are believed; only where there are any
        self.content_length: int | None = None
        self.content_type = b""
        self.content_coding = b""
        self.chunked = False
        self.codings: list[bytes] = []
        self.expect = b""
        self.authorization: list[bytes] = []
        self.keys: list[tuple[bytes, bytes]] = []  # by lower-case name, from every other place a key may stand in
        self.offered: list[bytes] | None = None  # the WebSocket subprotocols besides the one that was a key
        self.origin: bytes | None = None
        self.request_id: bytes | None = None
        self.host: bytes | None = None
        self.options: list[bytes] = []
        self.trace = b""
        forwarded: list[tuple[bytes, bytes]] = []
        kinds = _REQUEST_FIELDS
        for pair in raw_headers:
            name = pair[0].lower()
            kind = kinds.get(name, _PLAIN)
            if kind == _PLAIN:
                if name not in strip:
                    forwarded.append(pair)
            elif kind == _LENGTH:
                # int() refuses thousands of digits, zeros too; `check` refuses what 64 bits do not need.
                self.content_length = int(pair[1]) if len(pair[1]) <= _LENGTH_DIGITS else -1
                forwarded.append(pair)
            elif kind == _TYPE:
                self.content_type = pair[1]
                if name not in strip:
                    forwarded.append(pair)
            elif kind == _HOST_FIELD:
                self.host = pair[1]
            elif kind == _BEARER:
                self.authorization.append(pair[1])
            elif kind == _KEY:
                self.keys.append((name, pair[1]))
            elif kind == _CODING:
                self.codings.append(pair[1])
                self.chunked = True
            elif kind == _CONNECTION:
                self.options.append(pair[1])
            elif kind == _ID:
                self.request_id = pair[1] if _REQUEST_ID.fullmatch(pair[1]) else None
            elif kind == _EXPECT:
                self.expect = pair[1]
            elif kind == _TRACE:
                self.trace = pair[1] if _TRACEPARENT.fullmatch(pair[1]) else b""
                if name not in strip:
                    forwarded.append(pair)
            elif kind == _ORIGIN:
                self.origin = pair[1]
                if name not in strip:
                    forwarded.append(pair)
            elif kind == _OFFER:
                offer = self._without_key(pair[1])
                if offer and name not in strip:
                    forwarded.append((pair[0], offer))
            elif kind == _ENCODING:
                if pair[1].lower() not in (b"", b"identity"):
                    self.content_coding += b", " * bool(self.content_coding) + pair[1]
                if name not in strip:
                    forwarded.append(pair)
        self.forwarded = forwarded

    def _without_key(self, offer: bytes) -> bytes:
        """The WebSocket subprotocols offered, without the key that a browser can send in no other place."""
        protocols = [each.strip(b" \t") for each in offer.split(b",")]
        others = [each for each in protocols if not each.startswith(SUBPROTOCOL_KEY)]
        if len(others) == len(protocols):
            return offer
        self.keys += [(SUBPROTOCOL_KEY, each[len(SUBPROTOCOL_KEY) :]) for each in protocols if each not in others]
        self.offered = (self.offered or []) + others
        return b", ".join(others)

    def check(self, http_10: bool) -> None:
        """Refuse what aiohttp accepts and another server may read differently.

        Raises BadRequest: a transfer coding but `chunked` (RFC 9112 6.1), any in HTTP/1.0 or beside a Content-Length,
        one of more than 20 digits, an invalid Host (RFC 9112 3.2), a Connection option that names a field which frames
        or routes.
        """
        if self.content_length == -1:
            raise BadRequest("Invalid Content-Length header.")
        if self.codings and self.content_length is not None:
            raise BadRequest("Send Content-Length or Transfer-Encoding, not both.")
        if self.codings and (http_10 or len(self.codings) > 1 or self.codings[0].lower() != b"chunked"):
            raise BadRequest("Unsupported Transfer-Encoding; send 'chunked' alone, with HTTP/1.1.")
        if self.host is not None and not _HOST.fullmatch(self.host):
            raise BadRequest("Invalid Host header.")
        if self.options:
            named = connection_options(self.options)
            if named & PROTECTED_OPTIONS:
                raise BadRequest("The Connection header names a field that frames or routes the request.")
            self.forwarded = [pair for pair in self.forwarded if pair[0].lower() not in named]

    def write_once(self) -> None:
        """Write the lines that go upstream around the digits of Content-Length, for a head that may come again."""
        self._lines = [b"%b: %b\r\n" % pair for pair in self.forwarded]
        at = next(at for at, (name, _) in enumerate(self.forwarded) if name.lower() == b"content-length")
        self._length_at = at
        self._lines[at] = self.forwarded[at][0] + b": "
        self._around(self._lines)

    def _around(self, lines: list[bytes]) -> None:
        at = self._length_at
        self.around_length = b"".join(lines[: at + 1]), b"\r\n" + b"".join(lines[at + 1 :])

    def varying(self, raw_headers: RawHeaders) -> list[bytes]:
        """The name of each field that may have another value in a head that `vary` can take for this one, else b"".

        Those that nothing here reads; and the length, the trace and the request id where they are the only ones of
        their name. Where `client` is set a list of proxies said so. To be called after `write_once`.
        """
        names = [name.lower() for name, _ in raw_headers]
        kinds = [_REQUEST_FIELDS.get(name, _PLAIN) for name in names]
        self._kinds = kinds
        places = {id(pair): at for at, pair in enumerate(self.forwarded)}
        self._places = [places.get(id(pair), -1) for pair in raw_headers]
        self._base = self.content_length or 0, self.trace, self.request_id
        proxied = b"x-forwarded-for" if self.client else b""
        return [
            pair[0]
            if (kind == _PLAIN and name != proxied) or (kind in (_LENGTH, _TRACE, _ID) and names.count(name) == 1)
            else b""
            for kind, name, pair in zip(kinds, names, raw_headers, strict=True)
        ]

    def vary(self, changed: Iterable[tuple[int, bytes]]) -> bool:
        """Become the fields of a head that has these values in these places, and is the same but for them.

        False for a length that wants a closer look; the fields are nobody's then.
        """
        lines = self._lines.copy()
        self.content_length, self.trace, self.request_id = self._base
        for at, value in changed:
            kind, to = self._kinds[at], self._places[at]
            if kind == _LENGTH:
                if not _PLAIN_LENGTH.fullmatch(value):
                    return False
                self.content_length = int(value)
                continue
            if kind == _TRACE:
                self.trace = value if _TRACEPARENT.fullmatch(value) else b""
            elif kind == _ID:
                self.request_id = value if _REQUEST_ID.fullmatch(value) else None
            if to >= 0:
                lines[to] = lines[to][: lines[to].index(b":")] + b": %b\r\n" % value
        self._around(lines)
        self.varied = True
        return True


def connection_options(values: Iterable[bytes]) -> set[bytes]:
    """The lower-case options of all Connection lines (RFC 9110 7.6.1)."""
    return {option.strip(b" \t").lower() for value in values for option in value.split(b",")} - {b""}


def request_head(
    method: str,
    path: str,
    fields: RequestFields,
    own: bytes,
    request_id: bytes,
    removed_bytes: int,
) -> bytes:
    """The head that goes upstream.

    `own` is the instance's ready-made `Host` and `Authorization` lines, `removed_bytes` what the selector's
    prefix took off the body: Content-Length is corrected by it, where it stands.
    """
    start = f"{method} {path} HTTP/1.1\r\n".encode("latin-1")
    if fields.around_length is not None and fields.content_length is not None:
        before, after = fields.around_length
        length = fields.content_length - removed_bytes
        return b"%b%b%b%d%bX-Request-Id: %b\r\n\r\n" % (start, own, before, length, after, request_id)
    parts = [start, own]
    for name, value in fields.forwarded:
        if removed_bytes and name.lower() == b"content-length":
            value = b"%d" % (int(value) - removed_bytes)  # noqa: PLW2901
        parts.append(b"%b: %b\r\n" % (name, value))
    if fields.chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    parts.append(b"X-Request-Id: %b\r\n\r\n" % request_id)
    return b"".join(parts)


_RESPONSE_FIELDS: dict[bytes, int] = dict.fromkeys(HOP_BY_HOP | {b"x-request-id", b"x-gomodel-provider"}, _DROP) | {
    b"content-length": _LENGTH,
    b"connection": _CONNECTION,
    b"transfer-encoding": _CODING,
    b"content-type": _TYPE,
    b"content-encoding": _ENCODING,
    b"date": _ID,
    b"cache-control": _KEY,
    b"x-accel-buffering": _EXPECT,
    **dict.fromkeys(LOCATING_FIELDS, _LOCATION),
}


class ResponseFields:
    """The facts of one upstream response's fields, and those that go to the client; one pass over the raw pairs."""

    __slots__ = (
        "_length_at",
        "accel",
        "cache",
        "codings",
        "dated",
        "encoded",
        "event_stream",
        "lengths",
        "lines",
        "locating",
    )

    def __init__(self, raw_headers: RawHeaders) -> None:
        self.lengths: list[bytes] = []
        self.codings: list[bytes] = []
        self._length_at = -1
        self.event_stream = False
        self.encoded = False
        self.dated = False
        self.cache = False
        self.accel = False
        self.locating = False  # a field holds an address, which may be the instance's own
        options: list[bytes] = []
        lines: list[bytes] = []
        kinds = _RESPONSE_FIELDS
        for name, value in raw_headers:
            kind = kinds.get(name.lower(), _PLAIN)
            if not kind and name[-1] == 0x20:
                # The parser lets spaces stand after the names it knows and heeds them; they end here (RFC 9112 5.1).
                name = name.rstrip(b" ")  # noqa: PLW2901
                kind = kinds.get(name.lower(), _PLAIN)
            if kind:
                if kind == _LENGTH:
                    self.lengths.append(value)
                    self._length_at = len(lines)
                elif kind == _TYPE:
                    self.event_stream = value[:17].lower() == b"text/event-stream"
                elif kind == _ID:
                    self.dated = True
                elif kind == _KEY:
                    self.cache = True
                elif kind == _EXPECT:
                    self.accel = True
                elif kind == _ENCODING:
                    self.encoded = True
                elif kind == _LOCATION:
                    self.locating = True
                else:
                    if kind == _CONNECTION:
                        options.append(value)
                    elif kind == _CODING:
                        self.codings.append(value)
                    continue
            lines.append(b"%b: %b\r\n" % (name, value))
        if options:
            named = tuple(option + b":" for option in connection_options(options) - PROTECTED_OPTIONS)
            lines = [line for line in lines if not line.lower().startswith(named)]
            self._length_at = -1
        self.lines = lines

    @property
    def may_repeat(self) -> bool:
        """Whether `repeat` may be called: the one thing that differs in the same head another time is its length."""
        return len(self.lengths) == 1 and self._length_at >= 0

    def repeat(self, length: int) -> None:
        """Make these the fields of the same head with another Content-Length."""
        self.lengths[0] = digits = b"%d" % length
        name = self.lines[self._length_at].partition(b":")[0]
        self.lines[self._length_at] = b"%b: %b\r\n" % (name, digits)


def _status_lines() -> dict[int, bytes]:
    return {status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus}


_STATUS_LINES = _status_lines()
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_REASON = re.compile(r"[\t\x20-\x7e]*")


def status_line(status: int, reason: str | None = None) -> bytes:
    """The status line; a reason that may not be written (RFC 9112 4) becomes the standard one."""
    if reason is None or reason == _REASONS.get(status) or not _REASON.fullmatch(reason):
        return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"HTTP/1.1 %d %b\r\n" % (status, reason.encode())
