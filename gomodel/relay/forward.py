"""One client request to its candidate instances: breaker, connection, relay, and what follows a failed attempt.

Makes the attempts and counts what is in flight. What an attempt says of its server is in `verdicts`, what may be tried
again is decided by `attempts`. What may not be repeated never gets a reused connection, so the keep-alive race
cannot hit it.

What an instance refuses goes to another candidate if all that was sent of the body is here, in memory or in a file. A
large body that streams through is not kept, so the refusal of such an upload is the client's answer.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import partial
from time import monotonic
from typing import Any, NamedTuple

from ..balancing import keys_in_flight
from ..balancing.rendezvous import Placed
from ..config.settings import Retry
from ..downstream.request import Request
from ..errors import (
    ConnectError,
    GatewayError,
    Overloaded,
    RateLimited,
    RequestCameBack,
    StaleConnection,
    UpstreamError,
    UpstreamTimeout,
)
from ..http1.head import request_head, written_head
from ..telemetry.counters import Telemetry
from ..telemetry.record import Phase
from ..upstream.breaker import Admission
from ..upstream.channel import Channel
from ..upstream.line import OPENED
from ..upstream.replica import Replica
from .attempts import REFUSALS, Outcome, Step, next_step
from .outgoing import Outgoing
from .own_fields import choose_rank, with_own_fields
from .queueing import Queueing
from .relay import Relay
from .verdicts import answered, refused, unreachable


class Attempt(NamedTuple):
    """One attempt that is over."""

    replica: Replica
    outcome: Outcome
    relay: Relay
    error: GatewayError | None = None  # what the client reads when nothing better comes


class _Waiting:
    """A request that waits for a connection without a task."""

    __slots__ = ("_forwarder", "_outgoing", "_relay", "on_no_channel")

    def __init__(self, forwarder: "Forwarder", outgoing: Outgoing, relay: Relay) -> None:
        self._forwarder = forwarder
        self._outgoing = outgoing
        self._relay = relay
        self.on_no_channel = relay.on_no_channel

    @property
    def gone(self) -> bool:
        return self._relay.over

    def opened(self, code: str) -> None:
        """See Seeker."""
        self._forwarder.count_connect(self._relay.replica.name, code)

    def on_channel(self, channel: Channel) -> None:
        """See Seeker."""
        self._forwarder.send(self._outgoing, self._relay, channel)


class Forwarder:
    """Carries requests to instances."""

    def __init__(
        self,
        telemetry: Telemetry,
        retry: Retry,
        on_unloaded: Callable[[Replica], None],
        queueing: Queueing | None = None,
    ) -> None:
        """`on_unloaded` is told of an instance that does not have a model which its list holds; `queueing` gives slots
        where something has a limit."""
        self._telemetry = telemetry
        self._retry = retry
        self._on_unloaded = on_unloaded
        self._queueing = queueing

    def forward(self, outgoing: Outgoing) -> Coroutine[Any, Any, None]:
        """Send the request and relay the answer; it is over when the answer is, whole or aborted.

        Raises GatewayError when no response head went out.
        """
        return self.go_on(outgoing)

    async def go_on(self, outgoing: Outgoing) -> None:
        """As `forward`, of what `begin` has looked at."""
        request, choice = outgoing.request, outgoing.choice
        self._refuse_own(request)
        if not choice.candidates:
            await self._find(outgoing)
        left = self._retry.max_retries
        fresh = not outgoing.replayable
        last: Attempt | None = None
        answer: Attempt | None = None  # the last refusal, for the case that nobody else can be reached
        failed: list[Replica] = []  # a request counts once for an instance's breaker, however often it is tried there
        moved = False
        while True:
            begun, outgoing.begun = outgoing.begun, None
            try:
                if self._queueing is not None and begun is None:
                    await self._queueing.enter(outgoing, failed)
                replica, admission = choice.admitted() if begun is None else (begun.replica, begun.admission)
            except (Overloaded, RateLimited):
                if last is None:
                    request.record.instance = choice.candidates[0].name
                    raise
                # This request has seen more than that the breaker is open, which it may have opened itself, or that
                # no other replica has room.
                self._give(request, answer or last)
                return
            if last is not None:
                if request.record.affinity and replica is not last.replica:
                    request.record.affinity = Placed.MOVED
                request.record.retries += 1
                self._telemetry.retries[last.replica.name] += 1
            relay = begun or self._relay(outgoing, replica, admission)
            last = await self._attempt(outgoing, relay, failed, fresh=fresh, begun=begun is not None)
            outcome = last.outcome
            if outcome is Outcome.ANSWERED:
                return
            others = len(choice.candidates) > 1
            step = next_step(
                outcome, left=left, others=others, held=outgoing.whole, moved=moved, earlier=answer is not None
            )
            if outcome in REFUSALS:
                answer = last
            if step is Step.NEXT:
                moved = moved or outcome is Outcome.UNLOADED
                choice.candidates.remove(replica)
                outgoing.rewind()
            elif step is Step.LATER:
                choice.candidates.append(choice.candidates.pop(choice.candidates.index(replica)))
                await self._back_off(request, self._retry.max_retries - left)
            elif step is Step.FRESH:
                fresh = True
            else:
                self._give(request, answer if step is Step.GIVE_EARLIER and answer is not None else last)
                return
            left -= 1

    @staticmethod
    async def _find(outgoing: Outgoing) -> None:
        """Raises ConnectError where no server is known for the request, and none comes in a moment."""
        record, instance = outgoing.request.record, outgoing.choice.instance
        record.instance = "" if instance is None else instance.name
        try:
            await outgoing.choice.find()
        except ConnectError as exc:
            record.blame("upstream", exc.code)
            raise

    @staticmethod
    def _give(request: Request, attempt: Attempt) -> None:
        """The client gets what an attempt brought. Raises its error when that was no answer."""
        error = attempt.error
        if error is None:
            attempt.relay.deliver()
            return
        request.record.instance, request.record.replica = attempt.replica.name, attempt.replica.shown_address
        if isinstance(error, UpstreamError):
            request.record.blame("upstream", error.code)
        raise error

    def begin(self, outgoing: Outgoing) -> bool:
        """Make the first attempt where that needs no waiting but for a connection: the breaker is closed.

        False where it does, with nothing done; raises as `forward`. When the answer is over `end` takes account of it,
        or `forward` goes on.
        """
        request, queueing = outgoing.request, self._queueing
        if request.fields.request_id is not None:
            self._refuse_own(request)
        if queueing is not None and (queueing.limited or request.fields.caller.alters) and not self._enter(outgoing):
            return False
        candidates = outgoing.choice.candidates
        if not candidates:
            return False
        replica = candidates[0]
        if replica.barred or not (outgoing.replayable and replica.breaker.closed):
            return False
        pool = replica.pool
        channel = pool.take()
        if channel is None and pool.leads_back:
            return False
        outgoing.begun = relay = self._relay(outgoing, replica, replica.breaker.ordinary)
        if channel is None:
            waiting = _Waiting(self, outgoing, relay)
            relay.await_channel(partial(pool.leave, waiting))
            pool.seek(waiting)
            return True
        if outgoing.request.digest is not None:
            channel = outgoing.request.digest.on(channel)
        relay.begin(channel, self._head(outgoing, replica), outgoing)
        return True

    def _enter(self, outgoing: Outgoing) -> bool:
        """Whether it may be sent now, where something has a limit or its caller's entry says more than who it is."""
        return self._queueing is None or self._queueing.at_once(outgoing)

    def end(self, outgoing: Outgoing) -> bool:
        """Take account of the attempt that `begin` made and that is over; False where it was not simply answered."""
        relay: Relay | None = outgoing.begun
        if relay is None or relay.error is not None or relay.refusal is not None or relay.failed:
            return False
        relay.finish()
        answered(outgoing, relay)
        replica, conversation = relay.replica, outgoing.choice.conversation
        if replica.ranks is None:
            replica.requests.leave()  # as `_leave`, without a call more
            if conversation:
                keys_in_flight.shared.leave(conversation)
        else:
            self._leave(outgoing, replica)
        return True

    @staticmethod
    def _leave(outgoing: Outgoing, replica: Replica) -> None:
        """An attempt counts no longer."""
        replica.requests.leave()
        if replica.ranks is not None and outgoing.rank >= 0:
            replica.ranks.counts[outgoing.rank] -= 1
            outgoing.rank = -1
        if outgoing.choice.conversation:
            keys_in_flight.shared.leave(outgoing.choice.conversation)

    def _refuse_own(self, request: Request) -> None:
        """Raises RequestCameBack for one that runs here already, and was sent to an instance that leads back here."""
        if request.fields.request_id is None:
            return
        running = self._telemetry.running
        if running.came_back(request.record):
            raise RequestCameBack
        if running.goes_around(request.record):
            raise RequestCameBack(
                "Too many requests with this X-Request-Id run at the same time, as when gateways lead to each other."
                " Give each request an id of its own, or none."
            )

    @staticmethod
    def _relay(outgoing: Outgoing, replica: Replica, admission: Admission) -> Relay:
        """For an attempt, which begins to count here."""
        request = outgoing.request
        relay: Relay = (outgoing.relay or Relay)(request, replica)
        relay.admission = admission
        relay.failures = replica.health.failures
        record = request.record
        record.instance, record.replica, record.tried = replica.name, replica.shown_address, True
        replica.requests.enter()
        if replica.ranks is not None:
            choose_rank(outgoing, replica)
            replica.ranks.counts[outgoing.rank] += 1
        if outgoing.choice.conversation:
            keys_in_flight.shared.enter(outgoing.choice.conversation)
        return relay

    async def _attempt(
        self, outgoing: Outgoing, relay: Relay, failed: list[Replica], *, fresh: bool, begun: bool
    ) -> Attempt:
        """Try one instance; whatever happens the breaker has its verdict and the count is given back."""
        replica, admission = relay.replica, relay.admission
        try:
            with admission:
                if not begun:
                    try:
                        channel = None if fresh else replica.pool.take()
                        if channel is None:
                            channel = await self._connect(outgoing.request, replica, fresh=fresh)
                    except (ConnectError, UpstreamTimeout) as exc:
                        return self._not_connected(relay, exc, failed)
                    if admission.trial:
                        relay.trial = admission
                    self.send(outgoing, relay, channel)
                error = await relay.ended()
                if isinstance(error, ConnectError) or (isinstance(error, UpstreamTimeout) and relay.unsent):
                    return self._not_connected(relay, error, failed)
                if error is not None and relay.unsent:
                    raise error
                if error is None and relay.refusal is None:
                    answered(outgoing, relay)
                    return Attempt(replica, Outcome.ANSWERED, relay)
                if error is None:
                    error = refused(outgoing, relay, self._on_unloaded)
                    assert relay.refusal is not None
                    return Attempt(replica, relay.refusal, relay, error)
                if isinstance(error, StaleConnection):  # closing an idle connection is no failure
                    return Attempt(replica, Outcome.STALE, relay, error)
                # One that closes on an upload that is still coming may refuse it so: over TLS its answer is lost with
                # the reset. One client's uploads must not shut it for all.
                if isinstance(error, UpstreamError) and (relay.channel.sent or error.code != "connection_terminated"):
                    now = monotonic()
                    admission.failed(now, error.code)
                    replica.demotion.failed(now)
                return Attempt(replica, Outcome.FAILED, relay, error)
        finally:
            self._leave(outgoing, replica)

    @staticmethod
    def _head(outgoing: Outgoing, replica: Replica) -> bytes:
        request, own = outgoing.request, replica.own_fields
        if outgoing.added:
            own += outgoing.added
        request_id = request.record.id.encode()
        written = written_head(request.fields, own, outgoing.removed_bytes)
        if written is not None:
            head = b"%b%b\r\n\r\n" % (written, request_id)
        else:
            path = (replica.base_path if request.route.below_base else replica.root_path) + outgoing.tail
            head = request_head(request.method, path, request.fields, own, request_id, outgoing.removed_bytes)
        return head if replica.plain else with_own_fields(head, outgoing, replica)

    async def _connect(self, request: Request, replica: Replica, *, fresh: bool) -> Channel:
        request.record.enter(Phase.CONNECT, monotonic(), None)
        opened = partial(self.count_connect, replica.name)
        if not fresh:
            return await replica.pool.obtain(opened)
        try:
            channel = await replica.pool.connect()
        except (UpstreamError, Overloaded) as exc:
            opened(exc.code)
            raise
        opened(OPENED)
        return channel

    def count_connect(self, instance: str, code: str) -> None:
        """What became of a connect for a request."""
        self._telemetry.connects[instance, code] += 1

    @staticmethod
    def _not_connected(relay: Relay, error: UpstreamError, failed: list[Replica]) -> Attempt:
        """The attempt for which there was no connection."""
        unreachable(relay.replica, relay.admission, error, failed)
        outcome = Outcome.NOT_CONNECTED if isinstance(error, ConnectError) else Outcome.UNREACHED
        return Attempt(relay.replica, outcome, relay, error)

    @staticmethod
    def send(outgoing: Outgoing, relay: Relay, channel: Channel) -> None:
        """Send a request by a connection that was waited for."""
        if outgoing.request.digest is not None:
            channel = outgoing.request.digest.on(channel)
        relay.begin(channel, Forwarder._head(outgoing, relay.replica), outgoing)

    async def _back_off(self, request: Request, attempt: int) -> None:
        retry = self._retry
        request.record.enter(Phase.QUEUE, monotonic(), None)
        delay_s = min(retry.max_backoff_s, retry.initial_backoff_s * retry.backoff_factor**attempt)
        await asyncio.sleep(delay_s * (1 + retry.jitter_factor * random.uniform(-1, 1)))
