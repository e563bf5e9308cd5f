"""A vLLM-shaped upstream that costs little enough to measure proxies with: `python -m bench.upstream` prints its port.

Answers POST */chat/completions with one JSON body or, for `"stream": true`, with paced SSE events that carry their
own send time; GET */models and /health. Bodies of any size are consumed, Content-Length or chunked, and the number of
body bytes that arrived is reported as `usage.prompt_tokens`, so that a client can tell whether any were lost. It
trusts its callers in everything else: a request it cannot parse closes the connection.
"""

import asyncio
import json
import re
import socket
import sys
import time
from email.utils import formatdate
from typing import cast

import uvloop

from bench import payloads

# Stream settings are looked for in small bodies only, so that scanning never costs more than receiving.
INSPECTED_BYTES = 65536
MODEL_NAMES = ("m/x", "vllm/m/x")
MODELS = json.dumps(
    {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": 1760000000,
                "owned_by": "vllm",
                "root": name,
                "parent": None,
                "max_model_len": 131072,
            }
            for name in MODEL_NAMES
        ],
    }
).encode()
SSE_FIELDS = b"content-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.I)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked", re.I)
_STREAM = re.compile(rb'"stream": ?true')
_EVENTS = re.compile(rb'"max_tokens": ?(\d+)')
_GAP = re.compile(rb'"user": ?"gap-ms=([0-9.]+)"')


class Clock:
    """What uvicorn puts first into every head; the date makes heads differ from second to second."""

    def __init__(self) -> None:
        self._second = 0
        self._lines = b""

    def lines(self) -> bytes:
        now = int(time.time())
        if now != self._second:
            self._second = now
            self._lines = b"date: %b\r\nserver: uvicorn\r\n" % formatdate(now, usegmt=True).encode()
        return self._lines


CLOCK = Clock()


def _head(fields: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %b\r\n%b%b\r\n" % (status, CLOCK.lines(), fields)


def _json(body: bytes, status: bytes = b"200 OK") -> bytes:
    return _head(b"content-length: %d\r\ncontent-type: application/json\r\n" % len(body), status) + body


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Body:
    """Consumes one request body; keeps the first `INSPECTED_BYTES` of it and counts the rest."""

    __slots__ = ("chunked", "left", "received", "start", "waiting")

    def __init__(self, length: int | None) -> None:
        self.chunked = length is None
        self.left = length or 0
        self.received = 0
        self.start = b""
        self.waiting = b""

    def _take(self, data: bytes) -> None:
        if self.received < INSPECTED_BYTES:
            self.start += data[: INSPECTED_BYTES - self.received]
        self.received += len(data)

    def feed(self, data: bytes) -> bytes | None:
        """Returns what follows the body once it is complete, None while it is not. Raises ValueError on bad framing."""
        if not self.chunked:
            self._take(data[: self.left])
            rest, self.left = data[self.left :], self.left - min(self.left, len(data))
            return None if self.left else rest
        data = self.waiting + data
        at = 0
        while True:
            if self.left:
                piece = data[at : at + self.left]
                self._take(piece)
                at += len(piece)
                self.left -= len(piece)
                if self.left:
                    self.waiting = b""
                    return None
            # A chunk's data ends with CRLF; the very first size line has none before it.
            skip = 2 if self.received else 0
            eol = data.find(b"\r\n", at + skip)
            if eol < 0:
                self.waiting = data[at:]
                return None
            size = int(data[at + skip : eol], 16)
            if size == 0:
                if len(data) < eol + 4:
                    self.waiting = data[at:]
                    return None
                return data[eol + 4 :]
            self.left = size
            at = eol + 2


class Upstream(asyncio.Protocol):
    """One connection; requests are answered in the order in which they arrive."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.buffer = b""
        self.head = b""
        self.body: Body | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer:
            self.timer.cancel()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def data_received(self, data: bytes) -> None:
        try:
            while data or self.buffer:
                if self.body is None:
                    self.buffer += data
                    end = self.buffer.find(b"\r\n\r\n")
                    if end < 0:
                        return
                    self.head, data, self.buffer = self.buffer[: end + 2], self.buffer[end + 4 :], b""
                    length = _LENGTH.search(self.head)
                    known = int(length[1]) if length else 0
                    self.body = Body(None if _CHUNKED.search(self.head) else known)
                rest = self.body.feed(data)
                if rest is None:
                    return
                body, self.body, data = self.body, None, rest
                self.answer(body)
        except ValueError:
            self.transport.abort()

    def answer(self, body: Body) -> None:
        target = self.head.split(b" ", 2)[1]
        if target.endswith(b"/chat/completions"):
            if body.received <= INSPECTED_BYTES and _STREAM.search(body.start):
                events, gap = _EVENTS.search(body.start), _GAP.search(body.start)
                self.stream(int(events[1]) if events else 100, float(gap[1]) / 1000 if gap else 0.0)
            else:
                self.transport.write(_json(payloads.ANSWER % (body.received, body.received + 9)))
        elif target.endswith(b"/models"):
            self.transport.write(_json(MODELS))
        elif target == b"/health":
            self.transport.write(_json(b""))
        else:
            self.transport.write(_json(b'{"detail":"Not Found"}', b"404 Not Found"))

    def stream(self, events: int, gap_s: float) -> None:
        self.transport.write(_head(SSE_FIELDS))
        self.tick(0, events, gap_s, self.loop.time())

    def tick(self, index: int, events: int, gap_s: float, due: float) -> None:
        # Timers are set on absolute times: a late tick does not slow the stream down, so the offered load is fixed.
        if self.paused:
            self.timer = self.loop.call_later(max(gap_s, 0.001), self.tick, index, events, gap_s, due)
            return
        if index == events:
            self.transport.write(_chunk(payloads.DONE) + b"0\r\n\r\n")
            return
        self.transport.write(_chunk(payloads.EVENT % (index, time.time_ns())))
        due += gap_s
        self.timer = self.loop.call_at(due, self.tick, index + 1, events, gap_s, due)


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=4096)
    listener: socket.socket = server.sockets[0]
    sys.stdout.write(f"{listener.getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
