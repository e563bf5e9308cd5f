"""A server that answers as a recording says: the same bytes, with the same gaps between them or shorter ones.

Decides when each piece goes out, and how an answer ends that ended badly. Which one answers is decided in `answers`.
What is asked for by whoever stands before it, and was not recorded, it answers itself: GET /health and GET /v1/models.
"""

import asyncio
import base64
import hashlib
import re
from contextlib import suppress
from http import HTTPStatus

from ..host.kernel import reset_on_close
from .answers import Answers
from .lines import End, Recorded
from .messages import Head, Kind, Messages

_READ_BYTES = 1 << 16
_CONTINUE, _OK, _NOT_FOUND = 100, 200, 404
_ACCEPT = re.compile(rb"(?im)^(sec-websocket-accept[ \t]*:[ \t]*)[^\r\n]*")
_WEBSOCKET = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 1.3


class Replay:
    """Serves connections with `serve`. `speed`: gaps are divided by it; 0 leaves them out."""

    def __init__(self, answers: Answers, speed: float) -> None:
        self._answers = answers
        self._speed = speed
        self.answered = self.absent = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        requests = Messages(responses=False)
        head, payload, ready = Head(b""), bytearray(), list[tuple[Head, bytes]]()
        try:
            with suppress(OSError, RuntimeError):
                while data := await reader.read(_READ_BYTES):
                    for part in requests.feed(data):
                        if part.kind is Kind.HEAD:
                            head, payload = Head(part.data), bytearray()
                            if head.field(b"expect") == b"100-continue":
                                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                        elif part.kind is Kind.PIECE:
                            payload += part.payload
                        else:
                            ready.append((head, bytes(payload)))
                    while ready:
                        if not await self._answer(*ready.pop(0), writer):
                            return
                    if requests.broken:
                        return
        finally:
            writer.close()

    async def _answer(self, head: Head, payload: bytes, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; whether the connection goes on."""
        found = self._answers.find(head.method, head.target, payload)
        if found is None:
            self._own(head, writer)
            return head.field(b"connection") != b"close"
        self.answered += 1
        await self._play(found, head, writer)
        if found.end is End.COMPLETE:
            # An answer that ends with its connection ended it.
            answer = found.answer
            framed = (
                answer.field(b"content-length") or answer.field(b"transfer-encoding") or answer.status in (204, 304)
            )
            closing = b"close" in (answer.field(b"connection"), head.field(b"connection"))
            return bool(framed) and not closing
        if found.end is End.SERVER_RESET:
            reset_on_close(writer.transport)
            writer.transport.abort()
        return False

    async def _play(self, found: Recorded, head: Head, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        interim = found.interim
        for number, (at, data) in enumerate(found.response):
            if number < interim and Head(data).status == _CONTINUE:
                continue  # whoever expects it got it when the head came
            if self._speed:
                due = begun + max(0.0, at - found.asked_at) / self._speed
                if (wait_s := due - loop.time()) > 0:
                    await asyncio.sleep(wait_s)
            writer.write(_accepting(data, head) if number == interim else data)
            await writer.drain()
        if self._speed and found.end is not End.COMPLETE:
            rest_s = begun + max(0.0, found.ended_at - found.asked_at) / self._speed - loop.time()
            await asyncio.sleep(max(0.0, rest_s))

    def _own(self, head: Head, writer: asyncio.StreamWriter) -> None:
        path = head.target.partition("?")[0]
        if head.method == "GET" and path == "/health":
            status, body = _OK, b""
        elif head.method == "GET" and path == "/v1/models":
            status, body = _OK, self._answers.models
        else:
            self.absent += 1
            status, body = _NOT_FOUND, self._answers.absent
        reason = HTTPStatus(status).phrase.encode()
        fields = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        writer.write(b"HTTP/1.1 %d %b\r\n%b" % (status, reason, fields) + (b"" if head.method == "HEAD" else body))


def _accepting(answer: bytes, request: Head) -> bytes:
    """A head of an answer; one that opens a WebSocket answers the key of this client."""
    key = next((value for name, value in request.fields if name.lower() == b"sec-websocket-key"), None)
    if key is None or not answer.startswith(b"HTTP/1.1 101"):
        return answer
    accept = base64.b64encode(hashlib.sha1(key + _WEBSOCKET, usedforsecurity=False).digest())
    return _ACCEPT.sub(lambda match: match[1] + accept, answer, count=1)
