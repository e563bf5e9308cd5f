"""Proxies that do one thing wrong each, before any HTTP/1.1 server on loopback.

`Path` itself is a good one: it reads a request, asks the server on a connection of its own and passes the answer on.
The others spoil what they are named for. Knows nothing of who looks for them.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, NamedTuple

from gomodel.http1.framing import Chunked

from .listening import listening

Fields = list[tuple[bytes, bytes]]


class Message(NamedTuple):
    first: bytes
    fields: Fields

    def field(self, name: bytes) -> bytes:
        return next((value for key, value in self.fields if key.lower() == name), b"")

    def without(self, *names: bytes) -> Fields:
        return [(key, value) for key, value in self.fields if key.lower() not in names]


class Path:
    """A proxy that changes nothing but framing; those below override what they spoil."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.leaves = True  # with its client
        self.silence_s: float | None = None  # how long an answer may take to begin

    def request_body(self, body: bytes) -> bytes:
        return body

    def refusal(self, head: Message, body: bytes) -> bytes | None:
        """A status and body of its own, in place of the server's."""
        return None

    def response_head(self, head: Message) -> Message:
        return head

    async def response_body(self, head: Message, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            yield piece

    def tail(self) -> bytes:
        """Bytes behind a complete answer."""
        return b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client's."""
        try:
            with suppress(OSError, EOFError):
                while await self._exchange(reader, writer):
                    pass
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await _head(reader)
        body = b"".join([piece async for piece in _body(reader, head)])
        if (own := self.refusal(head, body)) is not None:
            writer.write(own)
            await writer.drain()
            return False
        body = self.request_body(body)
        there, out = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            length = [(b"Content-Length", b"%d" % len(body))] if body or head.first.startswith(b"POST") else []
            out.write(
                _bytes(Message(head.first, head.without(b"content-length", b"transfer-encoding") + length)) + body
            )
            if head.field(b"upgrade"):
                return await self._tunnel(reader, writer, there, out)
            answering = asyncio.create_task(self._answer(there, writer))
            # A client that pipelines is none of ours: what comes now is that it left.
            leaving = asyncio.create_task(reader.read(1))
            await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done() and self.leaves:
                answering.cancel()
            kept = bool((await asyncio.gather(answering, return_exceptions=True))[0] is True)
            gone = leaving.done()
            leaving.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
            return kept and not gone
        finally:
            out.transport.abort()

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        try:
            async with asyncio.timeout(self.silence_s):
                head = await _head(there)
        except TimeoutError:
            writer.write(_own(b"504 Gateway Timeout"))
            return False
        spoiled = self.response_head(head)
        chunked = b"chunked" in head.field(b"transfer-encoding").lower()
        if not chunked:
            body = b"".join([piece async for piece in self.response_body(head, _body(there, head))])
            fields = [*spoiled.without(b"content-length"), (b"Content-Length", b"%d" % len(body))]
            writer.write(_bytes(Message(spoiled.first, fields)) + body + self.tail())
        else:
            writer.write(_bytes(spoiled))
            async for piece in self.response_body(head, _body(there, head)):
                if not writer.is_closing():
                    writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if not writer.is_closing():
                writer.write(b"0\r\n\r\n" + self.tail())
        await writer.drain()
        return True

    async def _tunnel(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        out: asyncio.StreamWriter,
    ) -> bool:
        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while data := await source.read(1 << 16):
                    sink.write(data)

        pumps = [asyncio.create_task(pump(reader, out)), asyncio.create_task(pump(there, writer))]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for each in pumps:
            each.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)
        return False


async def _head(reader: asyncio.StreamReader) -> Message:
    data = await reader.readuntil(b"\r\n\r\n")
    first, *lines = data[:-4].split(b"\r\n")
    pairs = [line.partition(b":") for line in lines]
    return Message(first, [(name, value.strip()) for name, _, value in pairs])


async def _body(reader: asyncio.StreamReader, head: Message) -> AsyncIterator[bytes]:
    if b"chunked" in head.field(b"transfer-encoding").lower():
        chunked = Chunked()
        while not chunked.complete:
            data = await reader.read(1 << 16)
            if not data:
                raise EOFError
            if piece := chunked.feed(data):
                yield piece
    elif length := int(head.field(b"content-length") or 0):
        yield await reader.readexactly(length)


def _bytes(message: Message) -> bytes:
    return b"\r\n".join([message.first, *(b"%b: %b" % pair for pair in message.fields), b"", b""])


def _edited(body: bytes, edit: Callable[[Any], None]) -> bytes:
    try:
        value = json.loads(body)
    except ValueError:
        return body
    edit(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class SetsTemperature(Path):
    """A field of the request gets another value."""

    def request_body(self, body: bytes) -> bytes:
        return _edited(body, lambda value: value.update(temperature=0.7))


class CapsTokens(Path):
    """A field of the request is held to a limit."""

    def request_body(self, body: bytes) -> bytes:
        return re.sub(rb'"max_tokens":\d+', b'"max_tokens":1', body)


class AddsSystemPrompt(Path):
    """The conversation gets a message more."""

    def request_body(self, body: bytes) -> bytes:
        def add(value: Any) -> None:
            if isinstance(value.get("messages"), list):
                value["messages"].insert(0, {"role": "system", "content": "Be brief."})

        return _edited(body, add)


class DropsUnknownFields(Path):
    """Fields that OpenAI does not know do not pass."""

    def request_body(self, body: bytes) -> bytes:
        return _edited(body, lambda value: [value.pop(name, None) for name in ("ignore_eos", "gomodel_doctor")])


class DropsLastEvent(Path):
    """A stream ends before its [DONE]."""

    async def response_body(self, head: Message, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            if kept := piece.replace(b"data: [DONE]\n\n", b""):
                yield kept


class DropsEvents(Path):
    """Every third event of a stream is lost."""

    async def response_body(self, head: Message, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        if b"event-stream" not in head.field(b"content-type"):
            async for piece in body:
                yield piece
            return
        events = b"".join([piece async for piece in body]).split(b"\n\n")[:-1]
        last = len(events) - 4
        for number, event in enumerate(events):
            if number % 3 != 1 or number > last:
                yield event + b"\n\n"


class NeverCancels(Path):
    """It reads an answer to its end, whoever left."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.leaves = False


class Buffers(Path):
    """An answer is passed on when all of it is there."""

    async def response_body(self, head: Message, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        whole = b"".join([piece async for piece in body])
        if whole:
            yield whole


class DropsHeaders(Path):
    """Only a few header fields of responses pass."""

    def response_head(self, head: Message) -> Message:
        return Message(head.first, [pair for pair in head.fields if pair[0].lower() != b"x-engine"])


class RewritesErrors(Path):
    """Refusals become the proxy's own."""

    async def response_body(self, head: Message, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            yield b'{"error":{"message":"Bad request"}}' if b" 200 " not in head.first + b" " else piece


class HidesErrors(Path):
    """Every refusal is a failure of the proxy's."""

    def response_head(self, head: Message) -> Message:
        return head if b" 4" not in head.first else Message(b"HTTP/1.1 500 Internal Server Error", head.fields)


def _own(status: bytes) -> bytes:
    return b"HTTP/1.1 %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status


class LimitsBodies(Path):
    """Nothing above a mebibyte passes."""

    def refusal(self, head: Message, body: bytes) -> bytes | None:
        return _own(b"413 Content Too Large") if len(body) > 1 << 20 else None


class WantsLength(Path):
    """Bodies in chunks do not pass."""

    def refusal(self, head: Message, body: bytes) -> bytes | None:
        return _own(b"411 Length Required") if head.field(b"transfer-encoding") else None


class RefusesUpgrades(Path):
    """WebSockets do not pass."""

    def refusal(self, head: Message, body: bytes) -> bytes | None:
        return _own(b"400 Bad Request") if head.field(b"upgrade") else None


class SaysTooMuch(Path):
    """Bytes follow an answer that is complete."""

    def tail(self) -> bytes:
        return b"\r\n"


class Reserialises(Path):
    """Answers are parsed and written anew, with blanks."""

    async def response_body(self, head: Message, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for piece in body:
            with suppress(ValueError):
                yield json.dumps(json.loads(piece)).encode()
                continue
            yield piece


class CutsSilence(Path):
    """An answer that does not begin in time is given up."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.silence_s = 1.0


def serving(path: Path) -> AbstractAsyncContextManager[int]:
    """The proxy, listening; its port."""
    return listening(path.serve)
