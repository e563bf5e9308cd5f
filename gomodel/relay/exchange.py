"""The life of one exchange: a request on an instance's connection, from its first byte to the end of the answer.

Decides when it is over, who is told, what a phase that takes too long ends, and that an instance is not read from
while the client does not read. Both connections are let go of whatever happens. Knows nothing of what the answer says.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import Any

from ..downstream.request import Request
from ..errors import ConnectError, GatewayError, StaleConnection, UpstreamTimeout
from ..http1.message import ResponseMessage
from ..http1.response_fields import ResponseFields
from ..telemetry.record import HEAD, Phase
from ..upstream.breaker import Admission
from ..upstream.channel import Channel
from ..upstream.replica import Replica
from .outgoing import Outgoing
from .upload import UploadFlow


class _NoChannel:
    """In the place of a connection that is still waited for; who waits is in nobody's way once it is let go of."""

    __slots__ = ("_leave", "sink")

    def __init__(self, sink: "Exchange", leave: Callable[[], None]) -> None:
        self.sink: Exchange | None = sink
        self._leave: Callable[[], None] | None = leave

    def discard(self) -> None:
        if self._leave is not None:
            self._leave()
        self.sink = self._leave = None  # each knows the other


class Exchange(ABC):
    """One request and its response; a `Sink` to the upstream, a feeder to the client."""

    __slots__ = (
        "_answered_early",
        "_done",
        "_held",
        "_over",
        "_protocol",
        "_record",
        "_request",
        "_sent",
        "_upload",
        "admission",
        "channel",
        "error",
        "failed",
        "failures",
        "replica",
        "status",
    )

    def __init__(self, request: Request, replica: Replica) -> None:
        self._request = request
        self._protocol = request.protocol
        self._record = request.record
        self.replica = replica
        self._done: asyncio.Future[None] | None = None  # of the task that waits for the end, if one does
        self._over = False
        self.error: GatewayError | None = None  # why it is over when no head went out
        self.channel: Channel
        self.admission: Admission
        self.failures = 0  # of the instance's health when the attempt began
        self._sent: list[bytes]  # what is kept of the body to be sent again
        self._upload: UploadFlow | None = None
        self._answered_early = False  # before the upload ended; the rest of it will not be read
        self._held = False
        self.status = 0  # of the response, once its head went out
        self.failed = ""  # how the instance broke off after the head

    @abstractmethod
    def on_response(self, message: ResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> None: ...
    @abstractmethod
    def on_data(self, data: bytes, complete: bool) -> None: ...
    @abstractmethod
    def _interrupt(self) -> None:
        """End a response that cannot be finished, so that the client cannot take it for a whole one."""

    def begin(self, channel: Channel, head: bytes, outgoing: Outgoing) -> None:
        """Send `head` and what is here of the body; the rest of it and the response move by themselves from here on.

        Where no task waits for its end the client's connection is told of it.
        """
        self.channel = channel
        self._sent = outgoing.parts
        self._record.enter(HEAD, monotonic(), self)
        self._protocol.feeder = self
        rest = outgoing.rest
        channel.begin(self, (head, *outgoing.parts), rest is None, self._request.method == "HEAD")
        if rest is not None and not self._over:
            outgoing.flows()
            self._upload = UploadFlow(self, channel, outgoing, rest, self._record)
            self._upload.start()

    def await_channel(self, leave: Callable[[], None]) -> None:
        """A connection is waited for, without a task; `leave` ends that."""
        no_channel: Any = _NoChannel(self, leave)
        self.channel = no_channel
        self._record.enter(Phase.CONNECT, monotonic(), None)

    def on_no_channel(self, error: GatewayError) -> None:
        """There is none; nothing was sent."""
        self._end(error)

    @property
    def unsent(self) -> bool:
        """Whether it is over before there was a connection."""
        return isinstance(self.channel, _NoChannel)

    @property
    def over(self) -> bool:
        """Whether it has ended, or nobody waits for its end any more."""
        return self._is_over()

    async def ended(self) -> GatewayError | None:
        """Wait for the end of the response. Returns the failure if no head went out.

        Returns None as well when the answer is a `refusal`, of which the client has seen nothing yet. A cancelled wait,
        which is how a client's leaving arrives, closes the upstream connection at once.
        """
        try:
            if not self._over:
                if self._done is None:
                    self._done = asyncio.get_running_loop().create_future()
                await self._done
            return self.error
        except asyncio.CancelledError:
            if self._record.aborted and self.status and self._done is not None and self._done.cancelled():
                self._interrupt()
            raise
        finally:
            self.finish()

    def finish(self) -> None:
        """Let go of both connections once it is over; one that still brings a response is closed."""
        self._protocol.feeder = None
        self._record.owner = None
        if self._upload is not None:
            self._upload.stop()
            self._upload = None  # each knows the other
        if self.channel.sink is self:
            self.channel.discard()
            if self._protocol.left_at:
                self._record.cancel_s = monotonic() - self._protocol.left_at

    def on_instances_turn(self) -> None:
        """The request waits for the instance now; for a client that does not read it goes on waiting."""
        if not self._held:
            self._record.enter(Phase.DATA if self.status else Phase.HEAD, monotonic(), self)

    def on_upload_failure(self, error: GatewayError) -> None:
        """The upload cannot be finished, and so the request cannot."""
        self._end(error)

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
        """The instance reads: the upload may go on."""
        if self._upload is not None:
            self._upload.go_on()

    def _is_over(self) -> bool:
        return self._over or (self._done is not None and self._done.done())

    def _end(self, error: GatewayError | None) -> None:
        done = self._done
        if self._over or (done is not None and done.done()):
            return
        self._over = True
        broken_off = error is not None and self.status
        if not broken_off:
            self.error = error
        # Before the connection is closed, whose loss cancels the task: it has yet to say whose failure this was.
        if done is not None:
            done.set_result(None)
        else:
            self._protocol.answered(self._request)
        if broken_off:
            self._interrupt()

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
        name = self.replica.name
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
