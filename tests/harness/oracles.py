"""What a message on the wire is, in the judgement of h11 and of RFC 9112's grammar, never of the code under test.

Decides whether a message is complete and what is wrong with it. Knows nothing of sockets.
"""

import json
import re
from typing import Any

import h11

# h11 guards servers with 16 KiB; here a huge head is a thing to look at, not to refuse.
_HEAD_LIMIT = 2**24
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*", re.DOTALL)
_REQUEST_LINE = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ [\x21-\x7e]+ HTTP/1\.[01]")
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [1-5][0-9][0-9] [\t \x21-\x7e\x80-\xff]*")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def head_problems(head: bytes) -> list[str]:
    """Everything RFC 9112 forbids in one head, given with its blank line; h11 is lenient about most of these."""
    start, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    is_response = start.startswith(b"HTTP/")
    problems = []
    if not (_STATUS_LINE if is_response else _REQUEST_LINE).fullmatch(start):
        problems.append(f"start line {start!r}")
    fields: dict[bytes, list[bytes]] = {}
    for line in lines:
        match = _FIELD.fullmatch(line)
        if not match or _CONTROL.search(match[2]):
            problems.append(f"field line {line!r}")
        else:
            fields.setdefault(match[1].lower(), []).append(match[2])
    lengths = fields.get(b"content-length", [])
    codings = fields.get(b"transfer-encoding", [])
    if len(lengths) + len(codings) > 1:
        problems.append(f"framing said twice: {lengths + codings}")
    if any(not length.isdigit() for length in lengths) or any(coding.lower() != b"chunked" for coding in codings):
        problems.append(f"framing {lengths + codings}")
    if not is_response and len(fields.get(b"host", [])) != 1:
        problems.append(f"{len(fields.get(b'host', []))} Host fields")
    if is_response and (lengths or codings) and (start[9:10] == b"1" or start[9:12] == b"204"):
        problems.append(f"framing in {start!r}")
    return problems


class Message:
    """One request or response while it arrives; feed() it bytes, b"" for a clean end of the connection."""

    def __init__(self, connection: h11.Connection) -> None:
        self._h11 = connection
        self._fed = bytearray()
        self._body = bytearray()
        self._chunk_open = False
        self.version = ""
        self.headers: list[tuple[str, str]] = []
        self.trailers: list[tuple[str, str]] = []
        self.chunks: list[bytes] = []
        self.informational: list[int] = []
        self.has_head = False
        self.complete = False
        self.malformed: str | None = None
        self.problems: list[str] = []
        self.leftover = b""

    @property
    def raw(self) -> bytes:
        """Every byte of the message as it came, nothing of the next one."""
        return bytes(self._fed[: len(self._fed) - len(self.leftover)])

    @property
    def head(self) -> bytes:
        """The raw final head with its blank line."""
        blocks = bytes(self._fed).split(b"\r\n\r\n", len(self.informational) + 1)
        return blocks[len(self.informational)] + b"\r\n\r\n"

    @property
    def body(self) -> bytes:
        """The decoded body so far."""
        return bytes(self._body)

    def get(self, name: str) -> str | None:
        """The only value of a field, None without one; AssertionError when there are several."""
        values = self.get_all(name)
        if len(values) > 1:
            raise AssertionError(f"{name} came {len(values)} times: {values}")
        return values[0] if values else None

    def get_all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def json(self) -> Any:
        return json.loads(self._body)

    def feed(self, data: bytes) -> None:
        """Parses on; afterwards see `has_head`, `complete`, `malformed`."""
        self._fed += data
        if self.malformed is not None:
            return
        try:
            self._h11.receive_data(data)
            while not self.complete:
                event = self._h11.next_event()
                if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                    return
                self._take(event)
        except h11.RemoteProtocolError as error:
            if data:
                self.malformed = str(error)
                self.problems.append(self.malformed)

    def _take(self, event: h11.Event | type[h11.Event]) -> None:
        if isinstance(event, h11.Data):
            self._take_data(event)
        elif isinstance(event, h11.EndOfMessage):
            self.trailers = _fields(event.headers)
            self._finish()
        elif isinstance(event, h11.InformationalResponse) and event.status_code != 101:
            self.informational.append(event.status_code)
        elif isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
            self.version = event.http_version.decode("ascii")
            self.headers = _fields(event.headers.raw_items())
            self._start(event)
            self.has_head = True
            self.problems += head_problems(self.head)
            if isinstance(event, h11.InformationalResponse):
                self._finish()

    def _take_data(self, event: h11.Data) -> None:
        if self._chunk_open and not event.chunk_start:
            self.chunks[-1] += event.data
        else:
            self.chunks.append(bytes(event.data))
        # Only chunked framing has chunks; of any other body each piece that arrives counts as one.
        chunked = event.chunk_start or event.chunk_end or self._chunk_open
        self._chunk_open = chunked and not event.chunk_end
        self._body += event.data

    @property
    def whole_chunks(self) -> int:
        """How many entries of `chunks` have all their bytes."""
        return len(self.chunks) - self._chunk_open

    def _finish(self) -> None:
        self.complete = True
        self.leftover = self._h11.trailing_data[0]

    def _start(self, event: Any) -> None:
        raise NotImplementedError


class RequestMessage(Message):
    """A request as an upstream reads it."""

    method = ""
    target = ""

    def __init__(self) -> None:
        super().__init__(h11.Connection(h11.SERVER, max_incomplete_event_size=_HEAD_LIMIT))

    def _start(self, event: h11.Request) -> None:
        self.method = event.method.decode("ascii")
        self.target = event.target.decode("ascii")


class ResponseMessage(Message):
    """A response as a client reads it, which has to know the method it asked with (RFC 9112 6.3)."""

    status = 0
    reason = ""

    def __init__(self, method: str) -> None:
        super().__init__(h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_LIMIT))
        # The offer of an upgrade changes nothing but that h11 then lets a 101 be looked at.
        offer = [("Host", "x"), ("Connection", "upgrade"), ("Upgrade", "x")]
        self._h11.send(h11.Request(method=method, target="/", headers=offer))
        self._h11.send(h11.EndOfMessage())
        self.end = ""

    @property
    def must_close(self) -> bool:
        """Whether the server said, by its head, that it will close after this response."""
        return self._h11.their_state is h11.MUST_CLOSE

    def _start(self, event: h11.Response | h11.InformationalResponse) -> None:
        self.status = event.status_code
        self.reason = bytes(event.reason).decode("latin-1")


def _fields(items: Any) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in items]
