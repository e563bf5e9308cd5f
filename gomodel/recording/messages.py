"""One direction of an HTTP/1.1 connection, cut into messages: head, pieces of the body as they came, end. Pure.

Decides where messages end, by RFC 9112 6.3, so that an exchange can be told from the next on its connection. Knows
nothing of who sends them. What is no HTTP ends it: from there on nothing is told apart.
"""

from collections import deque
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from ..http1.framing import Body, Chunked, Sized, UntilClose

_HEAD_LIMIT_BYTES = 1 << 20
_BODILESS = (204, 304)
SWITCHING = 101


class Kind(Enum):
    HEAD = 1
    PIECE = 2
    END = 3


class Part(NamedTuple):
    """`data`: bytes of the wire. `payload`: what of them is body, its framing taken off."""

    kind: Kind
    data: bytes = b""
    payload: bytes = b""


class Head:
    """The first line and the fields of a message."""

    __slots__ = ("data", "fields", "first")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.first, *lines = data.rstrip(b"\r\n").split(b"\r\n")
        self.fields = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]

    def field(self, name: bytes) -> bytes:
        """The value of the first field of this name, in lower case, b"" without one."""
        return next((value.lower() for key, value in self.fields if key.lower() == name), b"")

    @property
    def method(self) -> str:
        """Of a request."""
        return self.first.partition(b" ")[0].decode("latin-1")

    @property
    def target(self) -> str:
        """Of a request."""
        return self.first.split(b" ")[1].decode("latin-1") if self.first.count(b" ") > 1 else ""

    @property
    def status(self) -> int:
        """Of a response; 0 where it says none."""
        parts = self.first.split(b" ", 2)
        return int(parts[1]) if len(parts) > 1 and len(parts[1]) == 3 and parts[1].isdigit() else 0

    def body(self) -> Body | None:
        """What follows of the message, as far as its own fields say; None for nothing."""
        if b"chunked" in self.field(b"transfer-encoding"):
            return Chunked()
        length = self.field(b"content-length")
        if not length.isdigit():
            return None
        # No body has as many bytes as the digits that are kept can say; int() refuses thousands of them.
        return Sized(size) if (size := int(length.lstrip(b"0")[:18] or b"0")) else None


class Messages:
    """Feed it what one side sends. `responses`: it is the server's side, to which `asked` tells the requests' methods.

    `broken`: it is no HTTP/1.1. `tunnel`: it was switched to another protocol, all of which are pieces.
    """

    def __init__(self, *, responses: bool) -> None:
        self._responses = responses
        self._methods: deque[str] = deque()
        self._held = b""
        self._body: Body | None = None
        self.within = False  # a message has begun whose end has not come
        self.broken = False
        self.tunnel = False

    def asked(self, method: str) -> None:
        """A response to a request of this method will come after those asked for before."""
        self._methods.append(method)

    def switched(self) -> None:
        """This side, too, sends something else from now on."""
        self.tunnel = True

    def feed(self, data: bytes) -> Iterator[Part]:
        """The parts in `data`."""
        while data and not self.broken:
            if self.tunnel:
                yield Part(Kind.PIECE, data, data)
                return
            if self._body is not None:
                payload = self._body.feed(data)
                rest = self._body.rest
                yield Part(Kind.PIECE, data[: len(data) - len(rest)], payload)
                self.broken = self._body.broken
                data = rest
                if self._body.complete:
                    yield self._ended()
                continue
            self._held += data
            end = self._held.find(b"\r\n\r\n") + 4
            if end < 4:
                self.broken = len(self._held) > _HEAD_LIMIT_BYTES
                return
            head, data, self._held = self._held[:end], self._held[end:], b""
            yield from self._begin(head)

    def closed(self) -> Iterator[Part]:
        """The side has ended; a body that ends with its connection is complete."""
        if isinstance(self._body, UntilClose) and not self.tunnel:
            yield self._ended()

    def _begin(self, data: bytes) -> Iterator[Part]:
        head = Head(data)
        ending = head.first if self._responses else head.first[-8:]
        if not ending.startswith(b"HTTP/1."):
            self.broken = True
            return
        self.within = True
        yield Part(Kind.HEAD, data)
        self._body = self._body_of_response(head) if self._responses else head.body()
        if self._body is None and not self.tunnel:
            interim = self._responses and 100 <= head.status < 200
            if not interim:
                yield self._ended()

    def _body_of_response(self, head: Head) -> Body | None:
        if head.status == SWITCHING:
            self.tunnel = True
            return None
        if 100 <= head.status < 200:
            return None
        method = self._methods.popleft() if self._methods else "GET"
        if method == "HEAD" or head.status in _BODILESS:
            return None
        framed = head.field(b"content-length") or b"chunked" in head.field(b"transfer-encoding")
        return head.body() if framed else UntilClose()

    def _ended(self) -> Part:
        self._body, self.within = None, False
        return Part(Kind.END)
