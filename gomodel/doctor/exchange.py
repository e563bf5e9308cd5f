"""What came back for one request, byte by byte and with the times, whatever it was: the doctor's only witness.

Decides where a response's head and body end, and how it ended. Pure: times and bytes are fed to it. Refuses nothing;
a bad response is what the doctor looks for.
"""

import json
import zlib
from dataclasses import dataclass, field
from typing import Any

from ..http1.framing import Body, Chunked, Sized, UntilClose

# Statuses without a body (RFC 9110 6.4.1); no answer to HEAD has one. 101 ends HTTP on its connection: what follows is
# kept as the body.
_BODILESS = (204, 304)
SWITCHING = 101


@dataclass
class Exchange:
    """Times are seconds on one clock. `arrivals`: payload with the time of the read that brought it.

    `end`: "" while it is going on, then "complete", "closed" (in its middle), "reset", "broken" (bad framing),
    "timeout", or "unreachable" with `why`. `extra`: bytes behind a complete response.
    """

    method: str = "GET"
    asked_at: float = 0.0
    head_at: float = 0.0
    ended_at: float = 0.0
    status: int = 0
    fields: list[tuple[str, str]] = field(default_factory=list)
    framing: str = ""  # "length", "chunked", "close", "none"
    arrivals: list[tuple[float, bytes]] = field(default_factory=list)
    end: str = ""
    why: str = ""
    extra: bytes = b""
    kept: bool = False  # its connection could be used again
    _head: bytes = b""
    _body: Body | None = None

    def feed(self, data: bytes, now: float) -> None:
        """Take what a read brought."""
        while data and not self.end:
            if self._body is None:
                data = self._read_head(data, now)
                continue
            payload = self._body.feed(data)
            if payload:
                self.arrivals.append((now, payload))
            if self._body.broken:
                self._ended("broken", now)
            elif self._body.complete:
                self._ended("complete", now)
                data = self._body.rest
                break
            else:
                data = self._body.rest
        if self.end == "complete":
            self.extra += data

    def closed(self, now: float, *, reset: bool) -> None:
        """The connection ended."""
        if not self.end:
            whole = self.framing == "close" and not reset
            self._ended("complete" if whole else "reset" if reset else "closed", now)
        self.kept = False

    def gave_up(self, now: float) -> None:
        """Nobody waits for it any more."""
        if not self.end:
            self._ended("timeout", now)

    def _ended(self, how: str, now: float) -> None:
        self.end, self.ended_at = how, now

    def _read_head(self, data: bytes, now: float) -> bytes:
        """The bytes behind the head, once it is there."""
        self._head += data
        end = self._head.find(b"\r\n\r\n")
        if end < 0:
            return b""
        head, rest = self._head[:end], self._head[end + 4 :]
        first, *lines = head.split(b"\r\n")
        parts = first.split(b" ", 2)
        if not first.startswith(b"HTTP/1.") or len(parts) < 2 or not parts[1].isdigit():
            self._ended("broken", now)
            return b""
        status = int(parts[1])
        self._head = b""
        if 100 <= status < 200 and status != SWITCHING:
            return rest
        self.status, self.head_at = status, now
        pairs = [line.partition(b":") for line in lines]
        self.fields = [(name.decode("latin-1"), value.strip().decode("latin-1")) for name, _, value in pairs]
        self.kept = parts[0] == b"HTTP/1.1" and "close" not in self.header("connection").lower()
        length = self.header("content-length")
        if status == SWITCHING:
            self.framing, self._body = "close", UntilClose()
        elif status in _BODILESS or self.method == "HEAD":
            self.framing = "none"
        elif "chunked" in self.header("transfer-encoding").lower():
            self.framing, self._body = "chunked", Chunked()
        elif length.isdigit():
            self.framing = "length"
            self._body = Sized(int(length)) if int(length) else None
        else:
            self.framing, self._body, self.kept = "close", UntilClose(), False
        if self._body is None:
            self._ended("complete", now)
        return rest

    def header(self, name: str) -> str:
        """The value of a field, "" where there is none."""
        return next((value for key, value in self.fields if key.lower() == name), "")

    @property
    def well(self) -> bool:
        """Whether it is a whole answer of success."""
        return self.status == 200 and self.end == "complete"

    @property
    def raw_body(self) -> bytes:
        """The body as it came, its chunk framing taken off."""
        return b"".join(payload for _, payload in self.arrivals)

    @property
    def body(self) -> bytes:
        """The body, decompressed where it is compressed in a way that the doctor offered."""
        return b"".join(payload for _, payload in self.decoded())

    def decoded(self) -> list[tuple[float, bytes]]:
        """`arrivals`, decompressed."""
        coding = self.header("content-encoding").lower()
        if coding not in ("gzip", "deflate"):
            return self.arrivals
        inflate = zlib.decompressobj(zlib.MAX_WBITS | 32 if coding == "gzip" else zlib.MAX_WBITS)
        try:
            return [(at, inflate.decompress(payload)) for at, payload in self.arrivals]
        except zlib.error:
            return self.arrivals

    def json(self) -> Any:
        """The body as JSON, None where it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def media_type(self) -> str:
        return self.header("content-type").partition(";")[0].strip().lower()

    @property
    def in_words(self) -> str:
        """What came of it, for a table."""
        if self.end == "unreachable":
            return self.why
        if not self.status:
            return {"timeout": "no answer in time", "broken": "no HTTP"}.get(self.end, f"{self.end} without an answer")
        return f"{self.status}" if self.end == "complete" else f"{self.status}, {self.end or 'unfinished'}"
