"""Digests: sums of a request's bodies (CRC-32) where they come in and where they go out, to find our own corruption.

Decides which requests are summed, where each body is looked at, and when in and out should be equal (contract section
11). What comes in is summed as the framing of its connection gives it; what goes out as it is handed to the other
connection's transport, whose framing is read anew. So nothing of the relay is asked, and a request that is not summed
pays for one look at whether it is.
"""

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from typing import Any, cast
from zlib import crc32

from ..downstream.request import Arrived, Connection, Request
from ..http1.framing import Body, Chunked, Sized, UntilClose
from ..upstream.channel import Channel, Sink

REQUEST, RESPONSE = "request", "response"
# A summed request costs about twice its time, so of this many one is.
EVERY = 101


def sampling(every: int) -> Callable[[Request], None]:
    """What begins a request's digest, for one of `every` requests."""
    turns = itertools.cycle([*itertools.repeat(False, every - 1), True])

    def sample(request: Request) -> None:
        if next(turns) and not request.message.upgrade:  # a WebSocket has no body
            request.digest = Digest(request)

    return sample


class Sum:
    """Of the bytes that were fed to it."""

    __slots__ = ("complete", "crc")

    def __init__(self) -> None:
        self.crc = 0
        self.complete = False

    def feed(self, data: bytes | memoryview) -> None:
        """More of them."""
        self.crc = crc32(data, self.crc)


class Restored(Sum):
    """Of a body that goes out, with what was cut out of it put back in its place."""

    __slots__ = ("_before", "_instead", "_taken")

    def __init__(self, at: int, taken: bytes, instead: bytes) -> None:
        """`taken` stood at offset `at` of what came in, and `instead` goes out there."""
        super().__init__()
        self._before = at
        self._taken = taken
        self._instead = instead

    def feed(self, data: bytes | memoryview) -> None:
        """See Sum."""
        left = memoryview(data)
        if self._before:
            super().feed(left[: self._before])
            left, self._before = left[self._before :], max(0, self._before - len(left))
            if self._before:
                return
        if self._taken:
            super().feed(self._taken)
            self._taken = b""
        if self._instead and left:
            size = min(len(left), len(self._instead))
            if left[:size] != self._instead[:size]:
                super().feed(b"another model")
            left, self._instead = left[size:], self._instead[size:]
        super().feed(left)


class Framed:
    """Feeds the payload of a body to a sum."""

    __slots__ = ("_body", "_sum")

    def __init__(self, body: Body, into: Sum) -> None:
        self._body = body
        self._sum = into

    def feed(self, data: bytes) -> None:
        """Bytes as they go out."""
        self._sum.feed(self._body.feed(data))


class Digest:
    """The sums of one request."""

    __slots__ = ("_answers", "_cut", "_request", "_sent", "arrived", "asked", "client")

    def __init__(self, request: Request) -> None:
        self._request = request
        self.asked = Sum()  # the request body, as it came
        self._cut: tuple[int, bytes, bytes] = (0, b"", b"")
        self._sent: list[Sum] = []  # the same as each attempt sent it
        self._answers: list[Sum] = []  # the response body, as each attempt brought it
        self.client = _ClientTap(request.protocol)
        request.protocol = cast(Connection, self.client)
        payload = request.payload
        if isinstance(payload, Arrived):
            self.asked.feed(payload.data)
        else:
            payload.observe(self.asked.feed)

    def cuts(self, at: int, taken: bytes, instead: bytes) -> None:
        """`taken`, at offset `at` of the request body, is replaced by `instead`."""
        self._cut = at, taken, instead

    def on(self, channel: Channel) -> Channel:
        """The channel for one attempt."""
        sent, answer = Restored(*self._cut), Sum()
        self._sent.append(sent)
        self._answers.append(answer)
        body: Body = Chunked() if self._request.fields.chunked else UntilClose()
        return cast(Channel, _ChannelTap(channel, Framed(body, sent), sent, answer, self.client))

    def compare(self) -> list[str]:
        """The directions in which other bytes went out than came in, once the request is over; sets the record's."""
        request, client, found = self._request, self.client, []
        sent = [each for each in self._sent if each.complete]
        if any(each.crc != self.asked.crc for each in sent) or (sent and not self._cut_right()):
            found.append(REQUEST)
        answers = {each.crc for each in self._answers if each.complete}
        # One that has left, or whose answer was broken off, did not get all of it.
        whole = client.framed is not None and client.transport is not None and not request.record.ended_by
        if whole and answers and client.given.crc not in answers:
            found.append(RESPONSE)
        client.let_go()
        if self._sent:
            request.record.digest = f"{self.asked.crc:08x}/{client.given.crc:08x}"
        return found

    def _cut_right(self) -> bool:
        """Whether what was cut, with nothing in its place, is the name of the instance and the slash behind it."""
        _, taken, instead = self._cut
        if instead or not taken:
            return True
        named = f"{self._request.record.instance}/"
        return taken == named.encode() or (not self._request.fields.form and json.loads(b'"%b"' % taken) == named)


class _TransportTap:
    """A transport, whose writes are looked at."""

    __slots__ = ("_look", "_transport")

    def __init__(self, transport: asyncio.Transport, look: Callable[[bytes], None]) -> None:
        self._transport = transport
        self._look = look

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._look(data)
        self._transport.write(data)

    def writelines(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            self._look(piece)
        self._transport.writelines(pieces)


class _ClientTap:
    """The client's connection, and the sum of the body that it is `given`, by the framing of the head before it."""

    def __init__(self, protocol: Connection) -> None:
        self._protocol = protocol
        self._tap: _TransportTap | None = None
        self.given = Sum()
        self.expects = False  # an instance's answer has come
        self.framed: Framed | None = None  # from the head on

    def __getattr__(self, name: str) -> Any:
        return getattr(self._protocol, name)

    @property
    def feeder(self) -> Any:
        return self._protocol.feeder

    @feeder.setter
    def feeder(self, feeder: Any) -> None:
        self._protocol.feeder = feeder

    @property
    def transport(self) -> Any:
        transport = self._protocol.transport
        if transport is None:
            return None
        if self._tap is None:
            self._tap = _TransportTap(transport, self._look)
        return self._tap

    def let_go(self) -> None:
        """Nothing more is looked at; each knows the other."""
        self._tap = None

    def _look(self, data: bytes) -> None:
        if self.framed is not None:
            self.framed.feed(data)
        elif self.expects and not data.startswith(b"HTTP/1.1 1"):
            head, _, rest = data.partition(b"\r\n\r\n")
            self.framed = Framed(_framing(head.lower()), self.given)
            if rest:
                self.framed.feed(rest)


def _framing(head: bytes) -> Body:
    """How the body behind a head is framed; it is in lower case and one of ours."""
    if b"\r\ntransfer-encoding: chunked" in head:
        return Chunked()
    _, found, length = head.partition(b"\r\ncontent-length:")
    size = int(length.partition(b"\r\n")[0]) if found else 0
    return Sized(size) if size else UntilClose()


class _ChannelTap:
    """The instance's connection, for one exchange: sums what is sent over it and what it brings."""

    def __init__(self, channel: Channel, out: Framed, sent: Sum, answer: Sum, client: _ClientTap) -> None:
        self._channel = channel
        self._out = out
        self._sum = sent
        self._answer = answer
        self._client = client
        self._tap: _TransportTap | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._channel, name)

    @property
    def sink(self) -> Sink | None:
        sink = self._channel.sink
        return sink.sink if isinstance(sink, _SinkTap) else sink

    @property
    def sent(self) -> bool:
        return self._channel.sent

    @sent.setter
    def sent(self, sent: bool) -> None:
        self._channel.sent = self._sum.complete = sent

    @property
    def transport(self) -> Any:
        transport = self._channel.transport
        if transport is None:
            return None
        if self._tap is None:
            self._tap = _TransportTap(transport, self._out.feed)
        return self._tap

    def begin(self, sink: Sink, parts: Sequence[bytes], sent: bool, head_only: bool) -> None:
        for part in parts[1:]:  # behind the head
            self._out.feed(part)
        self._sum.complete = sent
        self._channel.begin(_SinkTap(sink, self._answer, self._client), parts, sent, head_only)


class _SinkTap:
    """Whoever takes the response, and the sum of what is brought to it."""

    def __init__(self, sink: Sink, answer: Sum, client: _ClientTap) -> None:
        self.sink = sink
        self._answer = answer
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sink, name)

    def on_response(self, message: Any, fields: Any, data: bytes, complete: bool) -> None:
        self._client.expects = True
        self._sum(data, complete)
        self.sink.on_response(message, fields, data, complete)

    def on_data(self, data: bytes, complete: bool) -> None:
        self._sum(data, complete)
        self.sink.on_data(data, complete)

    def on_chunk(self, frame: bytes, start: int) -> None:
        self._answer.feed(memoryview(frame)[start:-2])
        self.sink.on_chunk(frame, start)

    def on_failure(self, error: Any) -> None:
        self.sink.on_failure(error)

    def on_writable(self) -> None:
        self.sink.on_writable()

    def _sum(self, data: bytes, complete: bool) -> None:
        self._answer.feed(data)
        self._answer.complete = complete
