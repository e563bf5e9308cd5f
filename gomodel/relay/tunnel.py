"""The relay for a connection that becomes a WebSocket: bytes both ways, frames untouched.

Decides when an upgrade is one, and that either side's end is the other's. Masks, extensions, pings and close codes are
between client and vLLM. Knows nothing of which instance was chosen; what a realtime session's first event needs is
in `realtime_event`.
"""

from time import monotonic

from ..downstream.request import Request
from ..errors import ClientError, GatewayError, UpstreamError
from ..http1.head import status_line
from ..http1.hop_by_hop import connection_options
from ..http1.message import ResponseMessage
from ..http1.response_fields import ResponseFields
from ..selector.realtime_event import SessionUpdate
from ..telemetry.record import Phase
from ..upstream.channel import Channel
from ..upstream.replica import Replica
from .outgoing import Outgoing
from .relay import Relay

UPGRADE = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"


def wants_websocket(request: Request) -> bool:
    """Whether the request asks for a WebSocket (RFC 6455 4.1).

    An Upgrade beside a body is ignored, as any may be and one of HTTP/1.0 must be (RFC 9110 7.8): the tunnel begins
    where the head ends, so a body that was announced would be sought in what follows.
    """
    fields = request.fields
    return (
        request.method == "GET"
        and request.message.headers.get("Upgrade", "").lower() == "websocket"
        and b"upgrade" in connection_options(fields.options)
        and not (fields.content_length or fields.chunked or request.http_10)
    )


def require_websocket(request: Request) -> None:
    """Raises ClientError 426 for a plain request to a WebSocket route (RFC 9110 15.5.22)."""
    if not wants_websocket(request):
        raise ClientError(
            "This route is a WebSocket; connect with an upgrade.",
            status=426,
            code="upgrade_required",
            headers={"Upgrade": "websocket", "Connection": "Upgrade"},
        )


class Tunnel(Relay):
    """A relay that becomes a tunnel when the instance agrees to the upgrade; other answers are relayed as they are."""

    __slots__ = ("_open", "_update")

    def __init__(self, request: Request, replica: Replica, update: SessionUpdate | None = None) -> None:
        """`update` rewrites the selector in a realtime session's first event; None leaves every byte alone."""
        super().__init__(request, replica)
        self._open = False
        self._update = update

    def begin(self, channel: Channel, head: bytes, outgoing: Outgoing) -> None:
        """See Exchange.begin; it is over when the WebSocket is."""
        channel.upgradable = True
        super().begin(channel, head, outgoing)

    def on_response(self, message: ResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> None:
        if message.code != 101:
            super().on_response(message, fields, data, complete)
            return
        if message.headers.get("Upgrade", "").lower() != "websocket":
            self.channel.discard()
            text = f"Instance '{self.replica.name}' switched to a protocol that nobody asked for."
            self.on_failure(UpstreamError(text, code="http_upgrade_failed"))
            return
        lines = fields.lines
        if fields.lengths:  # which no 101 may have (RFC 9110 8.6)
            lines = [line for line in lines if line[:15].lower() != b"content-length:"]
        offered = self._request.fields.offered
        if offered and "Sec-WebSocket-Protocol" not in message.headers:
            # vLLM chooses none, which ends a browser's connection; and a browser offers one for the key's sake alone.
            lines = [*lines, b"Sec-WebSocket-Protocol: %b\r\n" % offered[0]]
        record = self._record
        self._open = True
        self._request.started = True
        self._request.keep_alive = False
        self.status = record.status = 101
        record.phase = Phase.DATA
        record.since = record.first_byte = now = monotonic()
        if self.trial is not None:
            self.trial.succeeded(now)
            self.trial = None
        own = b"X-Request-Id: %b%b" % (record.id.encode(), self.replica.provider_lines)
        transport = self._protocol.transport
        if transport is not None:
            transport.write(b"".join([status_line(101, message.reason), *lines, UPGRADE, own, data]))
            record.bytes_out += len(data)
            self._protocol.switch(self)

    def on_data(self, data: bytes, complete: bool) -> None:
        if not self._open:
            super().on_data(data, complete)
            return
        record = self._record
        record.bytes_out += len(data)
        record.since = monotonic()
        transport = self._protocol.transport
        if transport is not None and data:
            transport.write(data)
        if complete:
            self._end(None)  # and with the request the connection, which can carry no other

    def feed_data(self, data: bytes) -> None:
        """The client's bytes. They are no sign of life from one that does not read."""
        record = self._record
        record.bytes_in += len(data)
        if not self._held:
            record.since = monotonic()
        if self._update is not None:
            data = self._update.feed(data)
            if self._update.done:
                self._update = None
        channel = self.channel
        if data and channel.transport is not None:
            channel.transport.write(data)
            if channel.writing_paused:
                self._protocol.pause_reading()

    def on_writable(self) -> None:
        """The instance takes more again."""
        if self._open:
            self._protocol.resume_reading()
        super().on_writable()

    def on_failure(self, error: GatewayError) -> None:
        """See Relay.on_failure; of an open WebSocket the client gets what had arrived, then no close frame."""
        if not self._open:
            super().on_failure(error)
            return
        self._record.blame("upstream", error.code)
        self.failed = error.code
        self.on_data(b"", True)

    def _interrupt(self) -> None:
        if self._open:
            # Without a close frame the client's library reports 1006, an abnormal closure (RFC 6455 7.1.5).
            self._protocol.abort()
        else:
            super()._interrupt()
