"""Moves one response to the client: head, every chunk as it comes, backpressure, and an honest end.

Decides how the response is framed for the client and what a failure looks like before and after the head went out.
Knows nothing of keys, routes or which instance was chosen. Everything here runs inside the upstream connection's
callbacks, in the loop turn in which the bytes arrived; the request's task sleeps until the response is over.
"""

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Sequence
from time import monotonic

from aiohttp.http import RawResponseMessage

from ..dialects import at_event_boundary, interruption_event
from ..downstream.request import Request, date_line
from ..downstream.spool import Source
from ..errors import (
    BadRequest,
    BodyTooLarge,
    ClientError,
    ConnectError,
    GatewayError,
    InternalError,
    OldHttp,
    StaleConnection,
    UpstreamTimeout,
)
from ..http1.head import status_line
from ..http1.locations import Site, localised
from ..http1.response_fields import ResponseFields
from ..telemetry.counters import SECONDS
from ..telemetry.record import Phase
from ..upstream.breaker import Admission
from ..upstream.channel import Channel
from ..upstream.instance import Instance
from . import refusals
from .attempts import Outcome

# The statuses that count as failures of the instance; a plain 500 may be the request's own fault (contract section 7).
INSTANCE_FAILURES = frozenset({502, 503, 504})
_UNAUTHORIZED = 401

_logger = logging.getLogger("gomodel")


class Relay:
    """One response on its way; a `Sink` to the upstream, a feeder to the client."""

    __slots__ = (
        "_answered_early",
        "_chunked",
        "_close_delimited",
        "_done",
        "_event_stream",
        "_frame",
        "_held",
        "_last",
        "_loop",
        "_over",
        "_protocol",
        "_record",
        "_request",
        "_upload",
        "_withheld",
        "admission",
        "channel",
        "error",
        "failed",
        "failures",
        "instance",
        "refusal",
        "status",
        "trial",
    )

    def __init__(self, request: Request, instance: Instance) -> None:
        self._request = request
        self._protocol = request.protocol
        self._record = request.record
        self.instance = instance
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] | None = None  # of the task that waits for the end, if one does
        self._over = False
        self.error: GatewayError | None = None  # why it is over when no head went out
        self.channel: Channel
        self.admission: Admission
        self.failures = 0  # of the instance's health when the attempt began
        self._upload: asyncio.Task[None] | None = None
        self._chunked = False
        self._close_delimited = False
        self._event_stream = False
        self._frame = b""  # the last chunk, when it went out as it came
        self._last = b""  # else the last bytes of payload
        self._held = False
        self._withheld: tuple[RawResponseMessage, ResponseFields, bytes] | None = None
        self._answered_early = False  # before the upload ended; the rest of it will not be read
        self.status = 0
        self.failed = ""  # how the instance broke off after the head
        self.refusal: Outcome | None = None  # the answer says that no work was done; `deliver` gives it to the client
        self.trial: Admission | None = None  # the breaker let this one through to see whether the instance is back

    async def run(
        self, channel: Channel, head: bytes, parts: list[bytes | bytearray], body: Source | None
    ) -> GatewayError | None:
        """Send `head` and `parts`, then what `body` still brings; move the response and wait for its end like `ended`.

        Of a body that still comes `parts` is emptied: it cannot be sent again, and what was sent is not to be kept.
        """
        self._done = self._loop.create_future()
        self.begin(channel, (head, *parts), sent=body is None)
        if body is not None and not self._over:
            parts.clear()
            self._upload = self._loop.create_task(self._send(body))
            self._upload.add_done_callback(self._sent)
        return await self.ended()

    def begin(self, channel: Channel, parts: Sequence[bytes | bytearray], *, sent: bool = True) -> None:
        """Send `parts`, which are all of the request where it is `sent`; the response moves by itself from here on.

        Where no task waits for its end the client's connection is told of it.
        """
        self.channel = channel
        self._record.enter(Phase.HEAD, monotonic(), self)
        self._protocol.feeder = self
        channel.begin(self, parts, sent=sent, head_only=self._request.method == "HEAD")

    async def ended(self) -> GatewayError | None:
        """Wait for the end of the response. Returns the failure if no head went out.

        Returns None as well when the answer is a `refusal`, of which the client has seen nothing yet. A cancelled wait,
        which is how a client's leaving arrives, closes the upstream connection at once.
        """
        try:
            if not self._over:
                if self._done is None:
                    self._done = self._loop.create_future()
                await self._done
            return self.error
        except asyncio.CancelledError:
            if self._record.aborted and self.status and self._done is not None and self._done.cancelled():
                self._interrupt()
            raise
        finally:
            self.finish()
            if self._upload is not None and not self._upload.done():
                # A wait, even for what is done, is a turn in which the client's connection may be lost and cancel this.
                self._upload.cancel()
                await asyncio.wait((self._upload,))

    def finish(self) -> None:
        """Let go of both connections once it is over; one that still brings a response is closed."""
        self._protocol.feeder = None
        self._record.owner = None
        if self.channel.sink is self:
            self.channel.discard()

    async def _send(self, body: Source) -> None:
        """The rest of the upload, at the pace of whoever is slower."""
        channel, record = self.channel, self._record
        chunked = self._request.fields.chunked
        try:
            while piece := await body.read():
                if channel.transport is None or channel.sink is not self:
                    return
                channel.transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
                if channel.writing_paused:
                    piece = b""  # over TLS another copy waits to be sent
                    self._wait()
                    await channel._drain_helper()
        except ClientError as exc:
            if isinstance(exc, (BadRequest, BodyTooLarge)):
                record.blame("client", exc.code)
            self._end(exc)
            return
        except ConnectionError:
            return  # either side is lost: the channel tells what became of it, or the request is being cancelled
        if chunked and channel.transport is not None:
            channel.transport.write(b"0\r\n\r\n")
        if channel.sink is self:
            channel.sent = True
            self._wait()

    def _wait(self) -> None:
        """The request waits for the instance now; for a client that does not read it goes on waiting."""
        if not self._held:
            self._record.enter(Phase.DATA if self.status else Phase.HEAD, monotonic(), self)

    def _sent(self, upload: "asyncio.Task[None]") -> None:
        if not upload.cancelled() and upload.exception() is not None:
            _logger.error(
                "The upload of request %s failed in the gateway", self._record.id, exc_info=upload.exception()
            )
            self._end(InternalError())

    def on_response(self, message: RawResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> None:
        """The head, with whatever of the body came in the same read: one write."""
        request, record = self._request, self._record
        status = message.code
        if status in refusals.STATUSES and self.refusal is None and self._withhold(message, fields, data, complete):
            return
        now = monotonic()
        bodiless = request.method == "HEAD" or status in (204, 304)
        if request.http_10 and not (bodiless or fields.lengths or complete or self._protocol.resettable):
            self.channel.discard()
            self._end(OldHttp())
            return
        if self._upload is not None and not (self.channel.sent or self.refusal):
            self._answered_early = True
        if self._answered_early:
            request.keep_alive = False
        keep_alive = request.keep_alive and not self._protocol.last
        lines = fields.lines
        if bodiless:
            if status == 204:
                lines = [line for line in lines if line[:15].lower() != b"content-length:"]
        elif not fields.lengths:
            if request.http_10 and complete:
                lines = [*lines, b"Content-Length: %d\r\n" % len(data)]
            elif request.http_10:
                self._close_delimited = True
            else:
                self._chunked = True
        if fields.locating:
            lines = localised(lines, self._site(), status)
        if request.cors:
            lines = [*(line for line in lines if line[:15].lower() != b"access-control-"), request.cors]
        parts = [status_line(status, message.reason), *lines]
        if self._chunked:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        if not fields.dated:
            parts.append(date_line())
        if fields.event_stream:
            record.streamed = True
            self._event_stream = (self._chunked or self._close_delimited) and not fields.encoded
            if not fields.cache:
                parts.append(b"Cache-Control: no-cache\r\n")
            if not fields.accel:
                parts.append(b"X-Accel-Buffering: no\r\n")
        if not keep_alive:
            parts.append(b"Connection: close\r\n")
            request.keep_alive = False
        parts.append(b"X-Request-Id: %b\r\nX-GoModel-Provider: %b\r\n\r\n" % (record.id.encode(), self.instance.label))
        if data:
            if self._chunked:
                parts.append(b"%x\r\n%b\r\n" % (len(data), data))
            else:
                parts.append(data)
            record.bytes_out += len(data)
            self._last = data[-4:]
            record.first_byte = now
        if complete and self._chunked:
            parts.append(b"0\r\n\r\n")
        self.status = record.status = status
        if self.trial is not None and status not in INSTANCE_FAILURES:
            # It answers again, which is all there was to find out; the answer itself may take minutes.
            self.trial.succeeded(now)
            self.trial = None
        request.started = True
        record.phase = Phase.DATA  # its owner stays: an upload that stalls now is still the client's
        record.since = now
        transport = self._protocol.transport
        if transport is not None:
            transport.write(b"".join(parts))
        if complete:
            self._end(None)

    def _site(self) -> Site:
        instance, route, transport = self.instance, self._request.route, self.channel.transport
        url, hosts = instance.url, {instance.url.hostname or ""}
        peer = transport.get_extra_info("peername") if transport is not None else None
        if isinstance(peer, tuple):
            hosts.add(peer[0])
        base, root = instance.base_path, instance.root_path
        target = (base if route.below_base else root) + route.tail
        port = str(url.port or "")
        return Site(url.scheme, hosts, port, base, root, route.below_base, target, route.own_base, route.own_root)

    def on_chunk(self, frame: bytes, start: int) -> None:
        """One chunk as the instance framed it, which is how the client is to have it: nothing is copied or called."""
        record = self._record
        if not (self._chunked and record.first_byte) or self._withheld is not None:
            self.on_data(frame[start:-2], False)
            return
        now = monotonic()
        gap = now - record.since
        gaps = self.instance.gaps
        gaps.counts[bisect_left(SECONDS, gap)] += 1
        gaps.sum += gap
        record.since = now
        record.bytes_out += len(frame) - start - 2
        self._frame = frame
        transport = self._protocol.transport
        if transport is not None:
            transport.write(frame)

    def on_data(self, data: bytes, complete: bool) -> None:
        """One piece of the body, framed and flushed."""
        if self._withheld is not None:
            message, fields, before = self._withheld
            self._withheld = None
            self.on_response(message, fields, before + data, complete)
            return
        if data:
            record = self._record
            now = monotonic()
            if record.first_byte:
                gap = now - record.since
                gaps = self.instance.gaps
                gaps.counts[bisect_left(SECONDS, gap)] += 1
                gaps.sum += gap
            else:
                record.first_byte = now
            record.since = now
            record.bytes_out += len(data)
            # Enough to see an event boundary at the end, even when it arrived byte by byte.
            self._last = data[-4:] if len(data) > 3 else self._sent_last()[-3:] + data
            self._frame = b""
        transport = self._protocol.transport
        if transport is not None:
            if not self._chunked:
                transport.write(data)
            elif not complete:
                transport.write(b"%x\r\n%b\r\n" % (len(data), data))
            elif data:
                transport.write(b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data))
            else:
                transport.write(b"0\r\n\r\n")
        if complete:
            self._end(None)

    def _sent_last(self) -> bytes:
        """The last bytes of payload that went out."""
        return self._frame[-6:-2] if self._frame else self._last

    def _withhold(self, message: RawResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> bool:
        """Whether an error answer is kept from the client: until all of it is there, or because it is a refusal."""
        if not complete and message.code != _UNAUTHORIZED:
            if not fields.lengths or int(fields.lengths[0]) > refusals.LIMIT_BYTES:
                return False
            self._withheld = message, fields, data
            self._record.enter(Phase.DATA, monotonic(), self)
            return True
        self.refusal = refusals.refusal(message.code, data)
        if self.refusal is None:
            return False
        self._answered_early = self._upload is not None and not self.channel.sent
        self._withheld = message, fields, data
        if not complete:
            self.channel.discard()  # nobody is given this answer
        self._end(None)
        return True

    def deliver(self) -> None:
        """Give the client the refusal as it came, after all; not a 401, whose body nobody waited for."""
        assert self._withheld is not None
        message, fields, data = self._withheld
        self._record.instance = self.instance.name
        self.on_response(message, fields, data, True)

    def on_failure(self, error: GatewayError) -> None:
        """The instance failed, or was found out."""
        if self._is_over():
            return
        if not isinstance(error, (StaleConnection, ConnectError)):  # which may yet be made good
            self._record.blame("upstream", error.code)
        if self.status:
            self.failed = error.code
        self._end(error)

    def on_writable(self) -> None:
        """The upload may go on; its task has been woken."""

    def _is_over(self) -> bool:
        return self._over or (self._done is not None and self._done.done())

    def _end(self, error: GatewayError | None) -> None:
        if self._is_over():
            return
        self._over = True
        broken_off = error is not None and self.status
        if not broken_off:
            self.error = error
        # Before the connection is closed, whose loss cancels the task: it has yet to say whose failure this was.
        if self._done is not None:
            self._done.set_result(None)
        else:
            self._protocol.answered(self._request)
        if broken_off:
            self._interrupt()

    def _interrupt(self) -> None:
        """After the head there is one honest answer left: say so where an event may stand, then break off."""
        protocol = self._protocol
        self._request.keep_alive = False
        transport = protocol.transport
        if transport is None:
            return
        if self._event_stream and at_event_boundary(self._sent_last()):
            route = self._request.route
            path = route.tail if route.below_base else ""
            event = interruption_event(path, self.instance.name, self._record.aborted)
            transport.write(b"%x\r\n%b\r\n" % (len(event), event) if self._chunked else event)
        protocol.truncate(close_delimited=self._close_delimited)

    def overdue(self, phase: Phase) -> None:
        """A phase took too long."""
        if phase is Phase.WRITE:
            if self._protocol.progressed():
                self._record.enter(Phase.WRITE, monotonic(), self)  # slow, but it reads
                return
            self._record.blame("client", "write_timeout")
            self._request.keep_alive = False
            self._protocol.abort()
            return
        name = self.instance.name
        self.channel.discard()
        if phase is Phase.HEAD:
            self.on_failure(UpstreamTimeout(f"Instance '{name}' did not answer in time."))
        else:
            self.on_failure(UpstreamTimeout(f"Instance '{name}' stopped sending in the middle of its response."))

    def hold(self) -> None:
        """The client does not read: stop reading the instance's answer."""
        self._held = True
        if self.channel.sink is self:  # with all of it received the connection may be another request's already
            self.channel.hold()
        self._record.enter(Phase.WRITE, monotonic(), self)

    def release(self) -> None:
        """The client reads again."""
        self._held = False
        if self.channel.sink is self:
            self.channel.release()
        if self._record.phase is Phase.WRITE:
            self._record.enter(Phase.DATA, monotonic(), self)
