"""Moves one response to the client: head, every chunk as it comes, backpressure, and the end.

Decides when the response is over, for whom what is late, and what is kept from the client because somebody else may do
better. The head is made by `response_head`, framing by `http1.writers`, a broken end by `break_off`, the rest of an
upload goes its own way in `upload`. Knows nothing of keys, routes or which instance was chosen. Everything here runs
inside the upstream connection's callbacks, in the loop turn in which the bytes arrived; the request's task sleeps until
the response is over.
"""

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Sequence
from time import monotonic

from aiohttp.http import RawResponseMessage

from ..downstream.request import Request
from ..downstream.spool import Source
from ..errors import ConnectError, GatewayError, InternalError, OldHttp, StaleConnection, UpstreamTimeout
from ..http1.response_fields import ResponseFields
from ..http1.writers import Chunked, UntilClose, Writer, WrongLength
from ..telemetry.counters import SECONDS
from ..telemetry.record import Phase
from ..upstream.breaker import Admission
from ..upstream.channel import Channel
from ..upstream.instance import Instance
from .attempts import Outcome
from .break_off import break_off
from .refusals import STATUSES
from .response_head import begin_response
from .upload import UploadTask
from .withheld import Withheld, withheld

# The statuses that count as failures of the instance; a plain 500 may be the request's own fault (contract section 7).
INSTANCE_FAILURES = frozenset({502, 503, 504})

_logger = logging.getLogger("gomodel")


class Relay:
    """One response on its way; a `Sink` to the upstream, a feeder to the client."""

    __slots__ = (
        "_answered_early",
        "_as_framed",
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
        "_writer",
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
        self._upload: UploadTask | None = None
        self._writer: Writer | None = None  # from the head on
        self._as_framed = False  # a chunk goes to the client as it came
        self._event_stream = False
        self._frame = b""  # the last chunk, when it went out as it came
        self._last = b""  # else the last bytes of payload
        self._held = False
        self._withheld: Withheld | None = None
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
            self._upload = UploadTask(self, channel, body, self._record, chunked=self._request.fields.chunked)
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
            if self._upload is not None:
                await self._upload.stop()

    def finish(self) -> None:
        """Let go of both connections once it is over; one that still brings a response is closed."""
        self._protocol.feeder = None
        self._record.owner = None
        if self.channel.sink is self:
            self.channel.discard()

    def on_instances_turn(self) -> None:
        """The request waits for the instance now; for a client that does not read it goes on waiting."""
        if not self._held:
            self._record.enter(Phase.DATA if self.status else Phase.HEAD, monotonic(), self)

    def on_upload_failure(self, error: GatewayError) -> None:
        """The upload cannot be finished, and so the request cannot."""
        self._end(error)

    def on_response(self, message: RawResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> None:
        """The head, with whatever of the body came in the same read: one write."""
        request, record, protocol = self._request, self._record, self._protocol
        status = message.code
        if status in STATUSES and self.refusal is None:
            answer = withheld(message, fields, data, complete)
            if answer is not None:
                self._withhold(answer, complete)
                return
        now = monotonic()
        if self._upload is not None and not (self.channel.sent or self.refusal):
            self._answered_early = True
        if self._answered_early or protocol.last:
            request.keep_alive = False
        try:
            parts, writer = begin_response(
                request, self.instance, self.channel.transport, message, fields, data, complete
            )
        except OldHttp as exc:
            self.channel.discard()
            self._end(exc)
            return
        except WrongLength:
            self._miscounted()
            return
        self._writer = writer
        if data:
            record.bytes_out += len(data)
            record.first_byte = now
            self._last = data[-4:]
        if writer is not None:
            self._as_framed = isinstance(writer, Chunked) and bool(data)
        if fields.event_stream:
            record.streamed = True
            self._event_stream = isinstance(writer, Chunked | UntilClose) and not fields.encoded
        self.status = record.status = status
        if self.trial is not None and status not in INSTANCE_FAILURES:
            # It answers again, which is all there was to find out; the answer itself may take minutes.
            self.trial.succeeded(now)
            self.trial = None
        request.started = True
        record.phase = Phase.DATA  # its owner stays: an upload that stalls now is still the client's
        record.since = now
        transport = protocol.transport
        if transport is not None:
            transport.write(b"".join(parts))
        if complete:
            self._end(None)

    def on_chunk(self, frame: bytes, start: int) -> None:
        """One chunk as the instance framed it, which is how the client is to have it: nothing is copied or called."""
        if not self._as_framed:
            self.on_data(frame[start:-2], False)
            return
        record = self._record
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
        writer = self._writer
        if writer is None:
            self._read_on(data, complete)
            return
        try:
            written = writer.write(data, complete)
        except WrongLength:
            self._miscounted()
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
                self._as_framed = isinstance(writer, Chunked)
            record.since = now
            record.bytes_out += len(data)
            # Enough to see an event boundary at the end, even when it arrived byte by byte.
            self._last = data[-4:] if len(data) > 3 else self._sent_last()[-3:] + data
            self._frame = b""
        transport = self._protocol.transport
        if transport is not None:
            transport.write(written)
        if complete:
            self._end(None)

    def _sent_last(self) -> bytes:
        """The last bytes of payload that went out."""
        return self._frame[-6:-2] if self._frame else self._last

    def _withhold(self, answer: Withheld, complete: bool) -> None:
        """Keep an answer from the client: until all of it is there, or because it is a refusal."""
        self._withheld = answer
        self.refusal = answer.refusal
        if answer.refusal is None:
            self._record.enter(Phase.DATA, monotonic(), self)
            return
        self._answered_early = self._upload is not None and not self.channel.sent
        if not complete:
            self.channel.discard()  # nobody is given this answer
        self._end(None)

    def _read_on(self, data: bytes, complete: bool) -> None:
        """More of the answer that is withheld."""
        assert self._withheld is not None
        message, fields, before, _ = self._withheld
        self._withheld = None
        self.on_response(message, fields, before + data, complete)

    def deliver(self) -> None:
        """Give the client the refusal as it came, after all; not a 401, whose body nobody waited for."""
        assert self._withheld is not None
        message, fields, data, _ = self._withheld
        self._record.instance = self.instance.name
        self.on_response(message, fields, data, True)

    def on_failure(self, error: GatewayError) -> None:
        """The exchange failed: connection lost, or an answer that is not to be believed."""
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

    def _miscounted(self) -> None:
        """The body has another length than its head declared; what was too much has not been sent."""
        _logger.error("The answer to request %s does not have the length of its head", self._record.id)
        self.channel.discard()
        self._end(InternalError())

    def _interrupt(self) -> None:
        """After the head there is one honest answer left: say so where an event may stand, then break off."""
        tail = self._sent_last() if self._event_stream else None
        break_off(self._request, self.instance.name, self._writer, tail)

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
