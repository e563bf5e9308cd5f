"""One client request to its candidate instances: breaker, connection, relay, and what follows a failed attempt.

Makes the attempts and keeps account of them: in-flight counts, the breaker's verdicts, health, demotion. What may be
tried again is decided by `attempts`. What may not be repeated never gets a reused connection, so the keep-alive race
cannot hit it.

What an instance refuses goes to another candidate if all of the body is here, in memory or in a file. A body that
streams through is not kept, so the refusal of an upload that came in several pieces is the client's answer.
"""

import asyncio
import random
from collections.abc import Callable
from time import monotonic
from typing import NamedTuple

from ..balancing.instances import Providers
from ..config.settings import Retry
from ..downstream.request import Request
from ..errors import (
    CircuitOpen,
    ConnectError,
    GatewayError,
    KeyRefused,
    Overloaded,
    RequestCameBack,
    StaleConnection,
    UpstreamError,
    UpstreamTimeout,
)
from ..http1.head import request_head
from ..routes.route import Kind
from ..telemetry.counters import Telemetry
from ..telemetry.record import Phase
from ..upstream.breaker import Admission
from ..upstream.channel import Channel
from ..upstream.health import DRAINING
from ..upstream.instance import Instance
from .attempts import REFUSALS, Outcome, Step, next_step
from .outgoing import Outgoing
from .relay import INSTANCE_FAILURES, Relay

_FORBIDDEN = 403
# Beside 5xx: what an instance, or a proxy before it that has lost its route to it, answers at once to everything.
_REFUSED = frozenset({_FORBIDDEN, 404, 429})


class Attempt(NamedTuple):
    """One attempt that is over."""

    instance: Instance
    outcome: Outcome
    relay: Relay
    error: GatewayError | None = None  # what the client reads when nothing better comes


class Forwarder:
    """Carries requests to instances."""

    def __init__(
        self, providers: Providers, telemetry: Telemetry, retry: Retry, on_unloaded: Callable[[Instance], None]
    ) -> None:
        """`on_unloaded` is told of an instance that does not have a model which its list holds."""
        self._providers = providers
        self._telemetry = telemetry
        self._retry = retry
        self._on_unloaded = on_unloaded

    async def forward(self, outgoing: Outgoing) -> None:
        """Send the request and relay the answer; returns when the answer is over, whole or aborted.

        Raises GatewayError when no response head went out.
        """
        request, choice = outgoing.request, outgoing.choice
        self._refuse_own(request)
        left = self._retry.max_retries
        fresh = not outgoing.replayable
        held = outgoing.whole
        last: Attempt | None = None
        answer: Attempt | None = None  # the last refusal, for the case that nobody else can be reached
        failed: list[Instance] = []  # a request counts once for an instance's breaker, however often it is tried there
        moved = False
        while True:
            begun, outgoing.begun = outgoing.begun, None
            try:
                instance, admission = choice.admitted() if begun is None else (begun.instance, begun.admission)
            except CircuitOpen:
                if last is None:
                    request.record.instance = choice.instances[0].name
                    raise
                # This request has seen more than that the breaker is open, which it may have opened itself.
                self._give(request, answer or last)
                return
            if last is not None:
                request.record.retries += 1
                self._telemetry.retries[last.instance.name] += 1
            relay = begun or self._relay(outgoing, instance, admission)
            last = await self._attempt(outgoing, relay, failed, fresh=fresh, begun=begun is not None)
            outcome = last.outcome
            if outcome is Outcome.ANSWERED:
                return
            others = len(choice.instances) > 1
            step = next_step(outcome, left=left, others=others, held=held, moved=moved, earlier=answer is not None)
            if outcome in REFUSALS:
                answer = last
            if step is Step.NEXT:
                moved = moved or outcome is Outcome.UNLOADED
                choice.instances.remove(instance)
                outgoing.rewind()
            elif step is Step.LATER:
                choice.instances.append(choice.instances.pop(choice.instances.index(instance)))
                await self._back_off(request, self._retry.max_retries - left)
            elif step is Step.FRESH:
                fresh = True
            else:
                self._give(request, answer if step is Step.GIVE_EARLIER and answer is not None else last)
                return
            left -= 1

    @staticmethod
    def _give(request: Request, attempt: Attempt) -> None:
        """The client gets what an attempt brought. Raises its error when that was no answer."""
        error = attempt.error
        if error is None:
            attempt.relay.deliver()
            return
        request.record.instance = attempt.instance.name
        if isinstance(error, UpstreamError):
            request.record.blame("upstream", error.code)
        raise error

    def begin(self, outgoing: Outgoing) -> bool:
        """Make the first attempt where that needs no waiting: the breaker is closed and a connection idle.

        False where it does, with nothing done; raises as `forward`. When the answer is over `end` takes account of it,
        or `forward` goes on.
        """
        instance = outgoing.choice.instances[0]
        self._refuse_own(outgoing.request)
        if not (outgoing.replayable and instance.breaker.closed):
            return False
        head = self._head(outgoing, instance)
        channel = instance.pool.take()
        if channel is None:
            return False
        outgoing.begun = relay = self._relay(outgoing, instance, instance.breaker.ordinary)
        relay.begin(channel, (head, *outgoing.parts))
        return True

    def end(self, outgoing: Outgoing) -> bool:
        """Take account of the attempt that `begin` made and that is over; False where it was not simply answered."""
        relay = outgoing.begun
        if relay is None or relay.error is not None or relay.refusal is not None or relay.failed:
            return False
        relay.finish()
        self._judge_answer(outgoing, relay)
        relay.instance.requests.leave()
        return True

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
    def _relay(outgoing: Outgoing, instance: Instance, admission: Admission) -> Relay:
        """For an attempt, which begins to count here."""
        relay = outgoing.relay(outgoing.request, instance)
        relay.admission = admission
        relay.failures = instance.health.failures
        outgoing.request.record.instance = instance.name
        instance.requests.enter()
        return relay

    async def _attempt(
        self, outgoing: Outgoing, relay: Relay, failed: list[Instance], *, fresh: bool, begun: bool
    ) -> Attempt:
        """Try one instance; whatever happens the breaker has its verdict and the count is given back."""
        instance, admission = relay.instance, relay.admission
        try:
            with admission:
                if begun:
                    error = await relay.ended()
                else:
                    try:
                        channel = None if fresh else instance.pool.take()
                        if channel is None:
                            channel = await self._connect(outgoing.request, instance)
                    except (ConnectError, UpstreamTimeout) as exc:
                        outcome = Outcome.NOT_CONNECTED if isinstance(exc, ConnectError) else Outcome.FAILED
                        self._unreachable(instance, admission, exc, failed)
                        return Attempt(instance, outcome, relay, exc)
                    if admission.trial:
                        relay.trial = admission
                    error = await relay.run(channel, self._head(outgoing, instance), outgoing.parts, outgoing.rest)
                if isinstance(error, ConnectError):
                    self._unreachable(instance, admission, error, failed)
                    return Attempt(instance, Outcome.NOT_CONNECTED, relay, error)
                if error is None and relay.refusal is None:
                    self._judge_answer(outgoing, relay)
                    return Attempt(instance, Outcome.ANSWERED, relay)
                if error is None:
                    return self._refused(outgoing, relay)
                if isinstance(error, StaleConnection):  # closing an idle connection is no failure
                    return Attempt(instance, Outcome.STALE, relay, error)
                # One that closes on an upload that is still coming may refuse it so: over TLS its answer is lost with
                # the reset. One client's uploads must not shut it for all.
                if isinstance(error, UpstreamError) and (relay.channel.sent or error.code != "connection_terminated"):
                    now = monotonic()
                    admission.failed(now, error.code)
                    instance.demotion.failed(now)
                return Attempt(instance, Outcome.FAILED, relay, error)
        finally:
            instance.requests.leave()

    @staticmethod
    def _head(outgoing: Outgoing, instance: Instance) -> bytes:
        request, route = outgoing.request, outgoing.request.route
        return request_head(
            request.method,
            (instance.base_path if route.below_base else instance.root_path) + outgoing.tail,
            request.fields,
            instance.own_fields + outgoing.upgrade if outgoing.upgrade else instance.own_fields,
            request.record.id.encode(),
            outgoing.removed_bytes,
        )

    async def _connect(self, request: Request, instance: Instance) -> Channel:
        request.record.enter(Phase.CONNECT, monotonic(), None)
        connects = self._telemetry.connects
        try:
            channel = await instance.pool.connect()
        except (UpstreamError, Overloaded) as exc:
            connects[instance.name, exc.code] += 1
            raise
        connects[instance.name, "ok"] += 1
        return channel

    @staticmethod
    def _unreachable(instance: Instance, admission: Admission, error: UpstreamError, failed: list[Instance]) -> None:
        """No connection came about, for a reason that the instance has to answer for."""
        now = monotonic()
        if admission.trial or instance not in failed:
            failed.append(instance)
            admission.failed(now, error.code)
        instance.demotion.failed(now)
        instance.health.failed(error.code)

    @staticmethod
    def _judge_answer(outgoing: Outgoing, relay: Relay) -> None:
        """What an answer that went to the client says of the instance."""
        instance, admission, status, now = relay.instance, relay.admission, relay.status, monotonic()
        if relay.failed or status in INSTANCE_FAILURES:
            admission.failed(now, relay.failed or f"status {status}")
            instance.demotion.failed(now)
            return
        admission.succeeded(now)
        if status >= 500 or status in _REFUSED:
            # Not for a caller who chose the instance, nor on a route that may not exist: it might be pushed aside by
            # requests that can only fail.
            if not outgoing.choice.bound and outgoing.request.route.kind is not Kind.UNKNOWN:
                instance.demotion.failed(now)
        elif status < 400 and instance.demotion.until:
            instance.demotion.over()
        health = instance.health
        if not health.settled:
            if health.key_refused and outgoing.request.route.below_base and status != _FORBIDDEN:
                health.accept_key()
            health.ok(relay.failures)

    def _refused(self, outgoing: Outgoing, relay: Relay) -> Attempt:
        """The instance is there and took no work: no failure for the breaker, and no success but for a trial."""
        instance, admission = relay.instance, relay.admission
        outcome, now = relay.refusal, monotonic()
        assert outcome is not None
        health, bound = instance.health, outgoing.choice.bound
        error: GatewayError | None = None
        if outcome is Outcome.KEY_REFUSED:
            error = KeyRefused(instance.name, configured=instance.config.api_key is not None)
            if outgoing.request.route.below_base:  # vLLM asks for a key there alone; beside it other rules may hold
                health.refuse_key()
        elif outcome is Outcome.UNLOADED and not bound:
            self._on_unloaded(instance)
        if not bound or outcome is Outcome.BUSY:
            instance.demotion.failed(now)
        if outcome is Outcome.DRAINING:
            health.failed(DRAINING)
        else:
            if admission.trial:
                admission.succeeded(now)
            if not health.settled:
                health.ok(relay.failures)
        return Attempt(instance, outcome, relay, error)

    async def _back_off(self, request: Request, attempt: int) -> None:
        retry = self._retry
        request.record.enter(Phase.QUEUE, monotonic(), None)
        delay_s = min(retry.max_backoff_s, retry.initial_backoff_s * retry.backoff_factor**attempt)
        await asyncio.sleep(delay_s * (1 + retry.jitter_factor * random.uniform(-1, 1)))
