"""The format of a recording: JSON lines, one for each thing that happened, and exchanges put together from them. Pure.

The first line is `{"gomodel_recording": 1, "started": ..., "to": ...}`. Then, with `exchange` a number and `at` seconds
since the start:

    {"exchange": 1, "at": 0.5, "from": "client", "head": "POST /v1/... HTTP/1.1\\r\\n..."}    credentials are ***
    {"exchange": 1, "at": 0.5, "from": "client", "text": "..."}        bytes of the wire, framing included; where they
    {"exchange": 1, "at": 0.6, "from": "server", "base64": "..."}      are no UTF-8, as base64
    {"exchange": 1, "at": 0.9, "end": "complete"}                      or who ended it: see End

A line that was cut or damaged, or that is of none of these kinds, is passed over.
"""

import base64
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

from .messages import SWITCHING, Head, Kind, Messages

VERSION = 1


class End(Enum):
    """How an exchange ended."""

    COMPLETE = "complete"
    CLIENT_LEFT = "client left"
    SERVER_CLOSED = "server closed"
    SERVER_RESET = "server reset"


class NotARecording(ValueError):
    """The first line says something else."""


def first_line(started: str, to: str) -> dict[str, object]:
    return {"gomodel_recording": VERSION, "started": started, "to": to}


def head_line(exchange: int, at: float, side: str, head: bytes) -> dict[str, object]:
    return {"exchange": exchange, "at": round(at, 6), "from": side, "head": head.decode("latin-1")}


def piece_line(exchange: int, at: float, side: str, data: bytes) -> dict[str, object]:
    line: dict[str, object] = {"exchange": exchange, "at": round(at, 6), "from": side}
    try:
        line["text"] = data.decode()
    except UnicodeDecodeError:
        line["base64"] = base64.b64encode(data).decode()
    return line


def end_line(exchange: int, at: float, end: End) -> dict[str, object]:
    return {"exchange": exchange, "at": round(at, 6), "end": end.value}


@dataclass
class Recorded:
    """An exchange. Times are seconds since the recording began; pieces are bytes of the wire."""

    number: int
    at: float
    head: bytes = b""
    request: list[tuple[float, bytes]] = field(default_factory=list)
    response: list[tuple[float, bytes]] = field(default_factory=list)
    end: End | None = None
    ended_at: float = 0.0

    @property
    def method(self) -> str:
        return Head(self.head).method

    @property
    def target(self) -> str:
        return Head(self.head).target

    @property
    def asked_at(self) -> float:
        """When the last byte of the request came."""
        return self.request[-1][0] if self.request else self.at

    @property
    def interim(self) -> int:
        """How many interim responses come before the answer (RFC 9110 15.2)."""
        statuses = (Head(data).status if data.startswith(b"HTTP/1.") else 0 for _, data in self.response)
        count = next((n for n, status in enumerate(statuses) if not 100 <= status < 200 or status == SWITCHING), 0)
        return min(count, len(self.response) - 1)

    @property
    def answer(self) -> Head:
        """The head of the answer. There is one."""
        return Head(self.response[self.interim][1])

    def payload(self) -> bytes:
        """The body of the request, its framing taken off."""
        messages = Messages(responses=False)
        wire = self.head + b"".join(data for _, data in self.request)
        return b"".join(part.payload for part in messages.feed(wire) if part.kind is Kind.PIECE)

    @property
    def replayable(self) -> bool:
        """Whether there is an answer."""
        return self.end is not None and bool(self.response)


def read(lines: Iterable[str]) -> Iterator[Recorded]:
    """The exchanges of a recording in the order they began, also those without an end. Raises NotARecording."""
    begun: dict[int, Recorded] = {}
    for number, line in enumerate(lines):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if number == 0 and not (isinstance(value, dict) and value.get("gomodel_recording") == VERSION):
            raise NotARecording
        if isinstance(value, dict) and isinstance(value.get("exchange"), int):
            with suppress(ValueError, OverflowError):  # a line that was damaged
                _take(value, begun)
    yield from begun.values()


def _take(value: dict[str, object], begun: dict[int, Recorded]) -> None:
    number, at = value["exchange"], value.get("at")
    if not isinstance(number, int) or not isinstance(at, int | float) or not math.isfinite(at):
        return
    head, end = value.get("head"), value.get("end")
    if isinstance(head, str) and value.get("from") == "client":
        data = head.encode("latin-1")
        if Head(data).target:
            begun[number] = Recorded(number, at, data)
        return
    exchange = begun.get(number)
    if exchange is None:
        return
    if isinstance(end, str):
        exchange.end, exchange.ended_at = End(end), at
    elif isinstance(head, str):
        exchange.response.append((at, head.encode("latin-1")))
    elif (piece := _data(value)) is not None:
        (exchange.request if value.get("from") == "client" else exchange.response).append((at, piece))


def _data(value: dict[str, object]) -> bytes | None:
    text, packed = value.get("text"), value.get("base64")
    if isinstance(text, str):
        return text.encode()
    return base64.b64decode(packed, validate=True) if isinstance(packed, str) else None
