"""Moves one response to the client: head, every chunk as it comes, an honest end.

Decides what of an answer is kept from the client because another instance may do better, and what is known of the end
of a stream when it breaks off. The head is made by `response_head`, framing by `http1.writers`, a broken end by
`break_off`; when it is over and who waits for it is in `exchange`. Everything here runs inside the callbacks of the
upstream connection, in the loop turn in which the bytes arrived; the request's task sleeps until the response is over.
"""

import logging
from bisect import bisect_left
from time import monotonic

from ..downstream.request import Request
from ..errors import InternalError, OldHttp
from ..http1.message import ResponseMessage
from ..http1.response_fields import ResponseFields
from ..http1.writers import Chunked, UntilClose, Writer, WrongLength
from ..telemetry.histogram import SECONDS
from ..telemetry.record import DATA, ENGINE
from ..telemetry.usage import FIRST_BYTES, Usage, usage_of
from ..upstream.breaker import Admission
from ..upstream.replica import Replica
from .attempts import Outcome
from .break_off import break_off
from .event_flow import EventFlow
from .exchange import Exchange
from .refusals import STATUSES
from .response_head import begin_response
from .withheld import Withheld, withheld

# The statuses that count as failures of the instance; a plain 500 may be the request's own fault (contract section 7).
INSTANCE_FAILURES = frozenset({502, 503, 504})
# Of the end of an answer at least the first is remembered, and little more than twice the second at most.
_PIECE_BYTES = 2048
_END_BYTES = 16384
_OK = 200

_logger = logging.getLogger("gomodel")


class Relay(Exchange):
    """An exchange whose response goes to the client as it comes."""

    __slots__ = (
        "_before",
        "_encoded",
        "_event_stream",
        "_first",
        "_flow",
        "_last",
        "_withheld",
        "_writer",
        "refusal",
        "trial",
    )

    def __init__(self, request: Request, replica: Replica) -> None:
        Exchange.__init__(self, request, replica)  # `super()` is dear in CPython 3.11, and this is each request's
        self._writer: Writer | None = None  # from the head on
        self._flow: EventFlow | None = None  # where a chunk that comes alone goes to the client as it came
        self._event_stream = False
        self._encoded = False
        self._first = b""  # the beginning of the payload
        self._before, self._last = b"", b""  # the end of the payload, in two pieces, but for what the flow has
        self._withheld: Withheld | None = None
        self.refusal: Outcome | None = None  # the answer says that no work was done; `deliver` gives it to the client
        self.trial: Admission | None = None  # the breaker let this one through to see whether the instance is back

    def on_response(self, message: ResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> None:
        """The head, with whatever of the body came in the same read: one write."""
        request, record, protocol = self._request, self._record, self._protocol
        status = message.code
        if status in STATUSES and self.refusal is None:
            answer = withheld(message, fields, data, complete)
            if answer is not None:
                self._withhold(answer, complete)
                return
        now = monotonic()
        if self._upload is not None and not self.channel.sent:
            self._answered_early = True
        if self._answered_early or protocol.last:
            request.keep_alive = False
        try:
            written, writer = begin_response(
                request, self.replica, self.channel.transport, message, fields, data, complete
            )
        except OldHttp as exc:
            self.channel.discard()
            self._end(exc)
            return
        except WrongLength:
            self._miscounted()
            return
        if data:
            record.bytes_out += len(data)
            record.first_byte = now
            if len(data) <= FIRST_BYTES:
                self._first = self._last = data
            else:
                self._first, self._last = data[:FIRST_BYTES], data[-_END_BYTES:]
        if writer is not None:
            self._writer = writer
        if fields.event_stream:
            record.streamed = True
            if data and not complete:
                self._flow_on()
            record.events = _events(data)
            self._event_stream = isinstance(writer, Chunked | UntilClose) and not fields.encoded
        self._encoded = fields.encoded
        self.status = record.status = status
        if self.trial is not None and status not in INSTANCE_FAILURES:
            # It answers again, which is all there was to find out; the answer itself may take minutes.
            self.trial.succeeded(now)
            self.trial = None
        request.started = True
        record.phase = DATA  # its owner stays: an upload that stalls now is still the client's
        record.since = now
        if record.waits_for is not ENGINE:  # it answers before the upload has ended
            record.wait_for(ENGINE, now)
        transport = protocol.transport
        if transport is not None:
            transport.write(written)
        if complete:
            self._end(None)
        else:
            self._sent.clear()  # nobody else is asked any more, and a stream may last for hours

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
                gaps = self.replica.gaps
                gaps.counts[bisect_left(SECONDS, gap)] += 1
                gaps.sum += gap
            else:
                record.first_byte = now
            record.since = now
            record.bytes_out += len(data)
            if record.streamed:
                record.events += _events(data)
            if self._flow is None and len(self._first) < FIRST_BYTES:
                self._first += data[: FIRST_BYTES - len(self._first)]
                if record.streamed and not complete:
                    self._flow_on()
            # What arrives byte by byte is remembered as well, and large pieces are not copied for it.
            last = self._end_of_flow()
            if len(data) > _END_BYTES:
                self._before, self._last = b"", data[-_END_BYTES:]
            elif len(last) < _PIECE_BYTES:
                self._last = last + data
            else:
                self._before, self._last = last, data
        transport = self._protocol.transport
        if transport is not None:
            transport.write(written)
        if complete:
            self._end(None)

    def _flow_on(self) -> None:
        """Look no more at chunks that come alone, if a client that gets chunks has the beginning of the stream."""
        if isinstance(self._writer, Chunked) and self._begun():
            self._flow = EventFlow(self._record, self.replica.gaps, self._protocol)
            self.channel.flow_to(self._flow)

    def _begun(self) -> bool:
        """Whether the beginning of a stream is known as far as it says what the request took (Anthropic's first event).

        Only until then the chunks are looked at one by one.
        """
        if not self._request.route.anthropic or len(self._first) >= FIRST_BYTES:
            return True
        at = self._first.find(b"message_start")
        return at >= 0 and (self._first.find(b"\n\n", at) >= 0 or self._first.find(b"\r\n\r\n", at) >= 0)

    def _sent_last(self) -> bytes:
        """The last bytes of payload that went out, as many as show an event boundary."""
        flow = self._flow
        return flow.last[-6:-2] if flow is not None and flow.last else (self._before[-4:] + self._last)[-4:]

    def _end_of_flow(self) -> bytes:
        """The last piece of the payload, with the last chunks of the flow's."""
        flow = self._flow
        if flow is not None and flow.last:
            before, last = flow.taken()
            self._before = b""
            self._last = (before or self._last) + last
        return self._last

    def usage(self) -> Usage | None:
        """What the answer says that it took, once it is over; None where it does not, or cannot be read."""
        if self._encoded or self.status != _OK:
            return None
        last = self._end_of_flow()
        return usage_of(self._first, self._before + last, events=self._record.streamed)

    def _withhold(self, answer: Withheld, complete: bool) -> None:
        """Keep an answer from the client: until all of it is there, or because it is a refusal."""
        self._withheld = answer
        self.refusal = answer.refusal
        if answer.refusal is None:
            self._record.enter(DATA, monotonic(), self)
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
        self._record.instance, self._record.replica = self.replica.name, self.replica.shown_address
        self.on_response(message, fields, data, True)

    def _miscounted(self) -> None:
        """The body has another length than its head declared; what was too much has not been sent."""
        _logger.error("The answer to request %s does not have the length of its head", self._record.id)
        self.channel.discard()
        self._end(InternalError())

    def _interrupt(self) -> None:
        """After the head there is one honest answer left: say so where an event may stand, then break off."""
        tail = self._sent_last() if self._event_stream else None
        break_off(self._request, self.replica.name, self._writer, tail)


def _events(data: bytes) -> int:
    """How many events of a stream end in a piece of it."""
    return data.count(b"\n\n") or data.count(b"\n\r\n")
