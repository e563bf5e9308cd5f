"""A request on its way through the chain, and an answer that gomodel makes itself.

Decides how such an answer is written, and what may be asked of the connection that a request came over.
"""

import asyncio
from collections.abc import Awaitable, Callable
from email.utils import formatdate
from time import time
from typing import Any, Protocol

from ..errors import BadRequest
from ..http1.head import status_line
from ..http1.message import RequestMessage
from ..http1.request_fields import RequestFields
from ..telemetry.record import Record
from .upload import Upload


class Pausing(Protocol):
    """Whoever feeds the client and must stop when it does not read."""

    def hold(self) -> None: ...
    def release(self) -> None: ...


class Switched(Protocol):
    """Whoever takes the client's bytes once the protocol is no longer HTTP."""

    def feed_data(self, data: bytes) -> None: ...


class Connection(Protocol):
    """What may be asked of the connection, all of it explained there: `connection` to `at_once`."""

    feeder: Pausing | None

    @property
    def task(self) -> "asyncio.Task[None] | None": ...
    @property
    def client(self) -> str: ...
    @property
    def transport(self) -> asyncio.Transport | None: ...
    @property
    def last(self) -> bool: ...
    @property
    def left_at(self) -> float: ...
    @property
    def resettable(self) -> bool: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def progressed(self) -> bool: ...
    def switch(self, to: Switched) -> None: ...
    def answered(self, request: "Request") -> None: ...
    def to_task(self) -> None: ...
    def truncate(self, *, close_delimited: bool) -> None: ...
    def abort(self) -> None: ...


class Reply:
    """An answer gomodel makes itself; `headers` besides Content-Length, Date and Connection."""

    __slots__ = ("body", "close", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        content_type: str = "application/json",
        close: bool = False,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = {"Content-Type": content_type, **(headers or {})} if body else dict(headers or {})
        self.close = close

    def encode(self, *, head_only: bool, keep_alive: bool) -> bytes:
        """Head and body for one write."""
        lines = [status_line(self.status)]
        headers = self.headers
        if not keep_alive:
            options = headers.get("Connection")
            headers = {**headers, "Connection": f"{options}, close" if options else "close"}
        for name, value in headers.items():
            lines.append(f"{name}: {value}\r\n".encode("latin-1"))
        if self.status != 204:  # RFC 9110 8.6
            lines.append(b"Content-Length: %d\r\n" % len(self.body))
        lines.append(date_line())
        lines.append(b"\r\n")
        if not head_only:
            lines.append(self.body)
        return b"".join(lines)


class Arrived:
    """A body that came whole with its head; what `RequestBody` asks of aiohttp's reader."""

    __slots__ = ("data", "fields")

    def __init__(self, data: bytes, fields: RequestFields | None) -> None:
        """`fields` are those of the head it came with, when that is known."""
        self.data = data
        self.fields = fields

    def is_eof(self) -> bool:
        return True

    def at_eof(self) -> bool:
        return not self.data

    def take(self) -> list[bytes]:
        return [data] if (data := self.read_nowait()) else []

    def read_nowait(self) -> bytes:
        data, self.data = self.data, b""
        return data

    async def wait(self) -> None:
        """Nothing more comes."""

    def set_exception(self, exc: BaseException) -> None:
        """Nobody waits for it."""


class Request:
    """One request on its way through the chain."""

    __slots__ = (
        "added",
        "app",
        "cors",
        "digest",
        "error",
        "fields",
        "http_10",
        "keep_alive",
        "known",
        "message",
        "method",
        "outgoing",
        "payload",
        "protocol",
        "reading",
        "record",
        "recorded",
        "refusal",
        "route",
        "started",
        "target",
    )

    def __init__(self, protocol: Connection, message: RequestMessage, payload: Upload | Arrived) -> None:
        self.protocol = protocol
        self.message = message
        self.payload = payload
        self.method: str = message.method
        self.target: str = message.path
        # The fields, when they were looked at and found good with an equal head before.
        self.known = known = payload.fields
        if known is None:
            self.http_10 = message.version < _HTTP_11
            self.keep_alive = not (message.should_close or self.http_10 or message.method == "CONNECT")
        else:  # of a head that was remembered (`known_head`)
            self.http_10 = False
            self.keep_alive = True
        self.error: BadRequest | None = None  # the message could not be parsed
        self.cors = b""  # lines for the answer; an instance's own are dropped where there are some
        self.added = b""  # what the gateway says of the caller's limits; an instance's own is dropped likewise
        self.started = False  # a response head has been written
        # Filled in by the chain.
        self.app: Any = None  # that began it
        self.outgoing: Any = None  # what was sent of it before any task served it
        self.reading: Any = None  # of its body, which waits for more of it
        self.recorded = False
        self.refusal: Exception | None = None  # what `App.begin` came upon
        self.digest: Any = None  # of its bodies (`relay.digest`), where they are summed
        self.record: Record
        self.fields: RequestFields
        self.route: Any

    @property
    def caller(self) -> Any:
        """Whose key it has (`access.caller`), once the checks are passed; None where callers are not told apart."""
        return self.fields.caller


Handler = Callable[[Request], Awaitable[Reply | None]]
Begin = Callable[[Request], bool]  # whether an answer is under way
_HTTP_11 = (1, 1)


_date: tuple[int, bytes] = (0, b"")


def date_line() -> bytes:
    """The Date field (RFC 9110 6.6.1), made once a second."""
    global _date  # noqa: PLW0603 - one cached line for the process
    now = int(time())
    if _date[0] != now:
        _date = (now, b"Date: " + formatdate(now, usegmt=True).encode() + b"\r\n")
    return _date[1]
