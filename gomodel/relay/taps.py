"""Taps: connections as a summed request sees them, which look at the bytes that pass and change none.

Decides where a body is looked at: what comes in as the framing of its connection gives it, what goes out as it is
handed to the other connection's transport, whose framing is read anew. So nothing of the relay is asked.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from ..downstream.request import Connection
from ..http1.framing import Body, Chunked, Sized, UntilClose, whole_chunk
from ..upstream.channel import Channel, Flow, Sink
from .sums import Framed, Sum


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


class ClientTap:
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


class ChannelTap:
    """The instance's connection, for one exchange: sums what is sent over it and what it brings."""

    def __init__(self, channel: Channel, out: Framed, sent: Sum, answer: Sum, client: ClientTap) -> None:
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

    def flow_to(self, flow: Flow) -> None:
        self._channel.flow_to(_FlowTap(flow, self._answer))


class _FlowTap:
    """Whoever takes whole chunks, and the sum of what is in them."""

    def __init__(self, flow: Flow, answer: Sum) -> None:
        self._flow = flow
        self._answer = answer

    def takes(self, data: bytes) -> bool:
        if start := whole_chunk(data):
            self._answer.feed(memoryview(data)[start:-2])
        return self._flow.takes(data)


class _SinkTap:
    """Whoever takes the response, and the sum of what is brought to it."""

    def __init__(self, sink: Sink, answer: Sum, client: ClientTap) -> None:
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

    def on_failure(self, error: Any) -> None:
        self.sink.on_failure(error)

    def on_writable(self) -> None:
        self.sink.on_writable()

    def _sum(self, data: bytes, complete: bool) -> None:
        self._answer.feed(data)
        self._answer.complete = complete
