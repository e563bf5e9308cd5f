"""Header fields of a client's request: which go to the instance, as raw bytes, and what the gateway reads in them.

Decides what is dropped (RFC 9110 7.6.1, contract section 7), where a key may stand, and which heads are refused. Fields
that cross keep their order, case, duplicates and every byte of their value. Pure; knows nothing of bodies or routes.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import BadRequest
from .field_kinds import (
    API_KEY,
    AUTHORIZATION,
    BATCH,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPECT,
    HOST,
    ORIGIN,
    OWNER,
    PLAIN,
    REPLICA,
    REQUEST_ID,
    SESSION,
    SUBPROTOCOLS,
    TRACEPARENT,
    TRANSFER_ENCODING,
    kinds_of_fields,
)
from .hop_by_hop import PROTECTED_OPTIONS, connection_options

# OpenAI's own name for it; the key stands behind it.
SUBPROTOCOL_KEY = b"openai-insecure-api-key."

# A reg-name, IPv4 or bracketed IP literal and an optional port (RFC 3986 3.2.2); no userinfo, which Host cannot have.
_valid_host = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(?::[0-9]{0,5})?").fullmatch
# Not of dots alone: as the last segment of DELETE /admin/requests/{id}, "." and ".." would be another path.
_valid_request_id = re.compile(rb"(?!\.*\Z)[A-Za-z0-9._-]{1,128}").fullmatch
# version-traceid-parentid-flags (W3C Trace Context 3.2.2); goes on as it came, but only this is worth a word in a log.
_valid_traceparent = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_MAX_LENGTH_DIGITS = 20
# Of another length a parser is asked, as in `repeated_head`.
_plain_length = re.compile(rb"[1-9][0-9]{0,14}").fullmatch

_WITH_SESSIONS = kinds_of_fields()


class RequestFields:
    """The facts of one request's fields, and those that go upstream; one pass over the raw pairs."""

    __slots__ = (
        "_base",
        "_by_name",
        "_length_at",
        "_lines",
        "_varying",
        "allowed",
        "around_length",
        "authorization",
        "batch",
        "before_text",
        "caller",
        "chunked",
        "client",
        "codings",
        "content_coding",
        "content_length",
        "content_type",
        "expect",
        "form",
        "forwarded",
        "host",
        "keys",
        "offered",
        "opening",
        "options",
        "origin",
        "owner",
        "replica",
        "request_id",
        "route",
        "session",
        "trace",
        "upstream",
        "upstreams",
        "varied",
    )

    def __init__(
        self,
        raw_headers: Sequence[tuple[bytes, bytes]],
        strip: frozenset[bytes],
        kinds: Mapping[bytes, int] = _WITH_SESSIONS,
    ) -> None:
        """`strip` is lower case: the operator's STRIP_REQUEST_HEADERS. `kinds`: as `kinds_of_fields` makes them."""
        self.around_length: tuple[bytes, bytes] | None = None
        self.upstream: Any = None  # the head that was written last, for `http1.head.written_head`
        self.upstreams: dict[int, Any] | None = None  # and those of other servers
        self.opening: Any = None  # of the last body behind this head, where its model stands there
        self.before_text = b""  # what stood before the text that names its conversation
        self.varied = False  # by `vary`
        self.allowed: object = False  # a head with these fields has passed every check of the chain
        self.caller: Any = None  # whose key it has, where callers are told apart
        self.client = ""  # behind the proxies that are believed; only where there are any
        self.route: Any = None  # of the target that the head has, once it is known
        self.content_length: int | None = None
        self.content_type = b""
        self.form = False  # the body is one, by its Content-Type; any other is taken for JSON
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
        self.replica = b""  # the one that an operator wants to reach; for the gateway alone
        self.trace = b""
        self.session = b""  # the session that the client names, or nothing
        session_kind = 0
        self.owner = b""  # these two are believed on the batcher's own socket alone, and go nowhere
        self.batch = b""
        forwarded: list[tuple[bytes, bytes]] = []
        self._by_name = kinds
        for pair in raw_headers:
            name = pair[0].lower()
            kind = kinds.get(name, PLAIN)
            if kind == PLAIN:
                if name not in strip:
                    forwarded.append(pair)
            elif kind == CONTENT_LENGTH:
                # int() refuses thousands of digits, zeros too; `check` refuses what 64 bits do not need.
                self.content_length = int(pair[1]) if len(pair[1]) <= _MAX_LENGTH_DIGITS else -1
                forwarded.append(pair)
            elif kind == CONTENT_TYPE:
                self.content_type = pair[1]
                self.form = pair[1][:19].lower() == b"multipart/form-data"
                if name not in strip:
                    forwarded.append(pair)
            elif kind == HOST:
                self.host = pair[1]
            elif kind == AUTHORIZATION:
                self.authorization.append(pair[1])
            elif kind == API_KEY:
                self.keys.append((name, pair[1]))
            elif kind == TRANSFER_ENCODING:
                self.codings.append(pair[1])
                self.chunked = True
            elif kind == CONNECTION:
                self.options.append(pair[1])
            elif kind == REQUEST_ID:
                self.request_id = pair[1] if _valid_request_id(pair[1]) else None
            elif kind == EXPECT:
                self.expect = pair[1]
            elif kind == TRACEPARENT:
                self.trace = pair[1] if _valid_traceparent(pair[1]) else b""
                if name not in strip:
                    forwarded.append(pair)
            elif kind == ORIGIN:
                self.origin = pair[1]
                if name not in strip:
                    forwarded.append(pair)
            elif kind == SUBPROTOCOLS:
                offer = self._without_key(pair[1])
                if offer and name not in strip:
                    forwarded.append((pair[0], offer))
            elif kind == OWNER:
                self.owner = pair[1]
            elif kind == BATCH:
                self.batch = pair[1]
            elif kind == CONTENT_ENCODING:
                if pair[1].lower() not in (b"", b"identity"):
                    self.content_coding += b", " * bool(self.content_coding) + pair[1]
                if name not in strip:
                    forwarded.append(pair)
            elif kind >= SESSION:
                if pair[1] and not 0 < session_kind <= kind:
                    self.session, session_kind = pair[1], kind
                if name not in strip:
                    forwarded.append(pair)
            elif kind == REPLICA:
                self.replica = pair[1]
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
        if self.host is not None and not _valid_host(self.host):
            raise BadRequest("Invalid Host header.")
        if self.options:
            named = connection_options(self.options)
            if named & PROTECTED_OPTIONS:
                raise BadRequest("The Connection header names a field that frames or routes the request.")
            self.forwarded = [pair for pair in self.forwarded if pair[0].lower() not in named]

    def presented(self) -> list[bytes]:
        """The keys that it shows: bearer token, x-api-key, api-key, a WebSocket's subprotocol; each of them once.

        Nothing when one of them is there twice: servers disagree on which one counts.
        """
        keys = self.keys
        if len(self.authorization) > 1 or (len(keys) > 1 and len(dict(keys)) < len(keys)):
            return []
        shown = [key for _, key in keys]
        if self.authorization:
            scheme, _, token = self.authorization[0].partition(b" ")
            if scheme.lower() == b"bearer":
                shown.insert(0, token.strip(b" "))
        return shown

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

    def varying(self, raw_headers: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """The name of each field that may have another value in a head that `vary` can take for this one, else b"".

        Those that nothing here reads; and the length, the trace, the request id and the session where they are the
        only ones of their kind. Where `client` is set a list of proxies said so. To be called after `write_once`.
        """
        names = [name.lower() for name, _ in raw_headers]
        kinds = [self._by_name.get(name, PLAIN) for name in names]
        one_session = sum(kind >= SESSION for kind in kinds) == 1
        self._varying: list[tuple[int, int, bytes]] = []
        forwarded, at = self.forwarded, 0
        for kind, (name, _) in zip(kinds, raw_headers, strict=True):
            crosses = at < len(forwarded) and forwarded[at][0] == name  # of a name that may vary all do, or none
            self._varying.append((kind, at if crosses else -1, name + b": "))
            at += crosses
        self._base = self.content_length or 0, self.trace, self.request_id, self.session
        proxied = b"x-forwarded-for" if self.client else b""
        return [
            pair[0]
            if (kind == PLAIN and name != proxied)
            or (kind in (CONTENT_LENGTH, TRACEPARENT, REQUEST_ID) and names.count(name) == 1)
            or (kind >= SESSION and one_session)
            else b""
            for kind, name, pair in zip(kinds, names, raw_headers, strict=True)
        ]

    def vary(self, changed: Iterable[tuple[int, bytes]]) -> bool:
        """Become the fields of a head that has these values in these places, and is the same but for them.

        False for a length that wants a closer look; the fields are nobody's then.
        """
        lines, varying = self._lines.copy(), self._varying
        self.content_length, self.trace, self.request_id, self.session = self._base
        for at, value in changed:
            kind, to, name = varying[at]
            if kind == CONTENT_LENGTH:
                if not _plain_length(value):
                    return False
                self.content_length = int(value)
                continue
            if kind == TRACEPARENT:
                self.trace = value if _valid_traceparent(value) else b""
            elif kind == REQUEST_ID:
                self.request_id = value if _valid_request_id(value) else None
            elif kind >= SESSION:
                self.session = value
            if to >= 0:
                lines[to] = b"%b%b\r\n" % (name, value)
        self._around(lines)
        self.varied = True
        return True
