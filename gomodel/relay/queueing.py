"""The line before replicas and keys that have a limit: a request has a slot before it is sent, or waits.

Decides which requests need a slot, what a request that gets none is answered, and what is counted of it. Who is next is
decided by `access.fair_queue`. A request waits with its body unread beyond what has been read of it. None of this runs
where nothing has a limit.
"""

import asyncio
from collections.abc import Collection
from time import monotonic

from ..access import host_usage
from ..access.fair_queue import Refused, Replicas
from ..access.slots import Place, Slots
from ..balancing.rendezvous import Placed
from ..errors import GatewayError, Overloaded, RateLimited
from ..routes.route import Kind, Route
from ..telemetry.counters import Telemetry
from ..telemetry.record import Phase
from ..upstream.replica import Replica
from .outgoing import Outgoing
from .pace import Pace

# What was spent is summed no more often, for there may be thousands of keys.
_SUMMED_S = 1.0


class Queueing:
    """Gives requests their slots."""

    def __init__(self, slots: Slots, telemetry: Telemetry, limit_s: float, *, limited: bool) -> None:
        """`limit_s`: how long one waits; `limited`: whether any replica has a limit, or only callers may have one."""
        self._slots = slots
        self.limited = limited
        self._telemetry = telemetry
        self._limit_s = limit_s
        self._pace = Pace()
        self._took: dict[str, tuple[float, float | None]] = {}  # by instance: how long a request took, and as of when

    def at_once(self, outgoing: Outgoing) -> bool:
        """Whether it may be sent now to the first of its candidates: it has a slot there, or needs none."""
        wanted = _wanted(outgoing)
        if wanted is None:
            return True
        key, replicas, weight, most, lent = wanted
        place = self._slots.at_once(key, replicas, weight=weight, most=most, lent=lent)
        if place is None:
            return False
        outgoing.request.record.place = place
        _prefer(outgoing, place)
        return True

    async def enter(self, outgoing: Outgoing, failed: Collection[Replica] = ()) -> None:
        """Return once it may be sent to the first of its candidates that can be reached, for which it has a slot then.

        One that it `failed` to connect to has its turn again only where no other is left (contract 7.6). Raises
        Overloaded or RateLimited for a request that gets no slot.
        """
        record = outgoing.request.record
        while True:
            place = record.place
            if place is not None:
                first = outgoing.choice.candidates[0]
                if place.replica == first.key and _open(first, outgoing, monotonic()):
                    return
                place.leave()
                record.place = None
            wanted = _wanted(outgoing, failed)
            if wanted is None:
                return
            key, replicas, weight, most, lent = wanted
            record.place = place = self._slots.come(key, replicas, weight=weight, most=most, lent=lent)
            if place.waiting:
                await self._wait(outgoing, place)
            if place.refused is not None:
                self._count(outgoing, "refused")
                raise self._refusal(outgoing, place.refused)
            _prefer(outgoing, place)

    async def _wait(self, outgoing: Outgoing, place: Place) -> None:
        record = outgoing.request.record
        began = monotonic()
        record.instance = outgoing.choice.candidates[0].name
        record.enter(Phase.QUEUE, began, None)
        self._pace.comes(began)
        outcome = "left"
        try:
            async with asyncio.timeout(self._limit_s):
                await place.turn()
            outcome = "served" if place.refused is None else "refused"
        except TimeoutError:
            outcome = "timeout"
            raise Overloaded(
                f"The request has waited for {self._limit_s:g}s (QUEUE_TIMEOUT); all slots are taken.",
                code="queue_timeout",
                retry_after_s=self._expected_s(outgoing),
            ) from None
        finally:
            now = monotonic()
            self._pace.goes(now, served=outcome == "served")
            record.queued_s += now - began
            if outcome == "served":
                self._telemetry.queue_waits[record.instance].observe(now - began)
            if outcome != "refused":
                self._count(outgoing, outcome)
            if outcome != "served":
                place.leave()

    def _refusal(self, outgoing: Outgoing, why: Refused) -> GatewayError:
        wait_s = self._expected_s(outgoing)
        outgoing.request.record.instance = outgoing.choice.candidates[0].name
        if why is Refused.SHARE:
            return RateLimited("This key has its share of the line, which is full.", retry_after_s=wait_s)
        return Overloaded("The line is full (QUEUE_LIMIT).", code="queue_full", retry_after_s=wait_s)

    def _count(self, outgoing: Outgoing, outcome: str) -> None:
        self._telemetry.queue_ends[outgoing.choice.candidates[0].name, outcome] += 1

    def _expected_s(self, outgoing: Outgoing) -> float:
        """How long those that wait here will take to have their turn."""
        gap_s = None if self._pace.seen else self._gap_s(outgoing)
        return self._pace.expected_s(monotonic(), self._limit_s, gap_s)

    def _gap_s(self, outgoing: Outgoing) -> float | None:
        """How often this worker has a slot while all are taken, by what requests took; None before one has ended."""
        caller, candidates = outgoing.request.caller, outgoing.choice.candidates
        name, now = candidates[0].name, monotonic()
        asked_at, took_s = self._took.get(name, (-_SUMMED_S, None))
        if now - asked_at >= _SUMMED_S:
            took_s = self._telemetry.took_s(name)
            self._took[name] = now, took_s
        limits = [each.config.max_in_flight for each in candidates]
        slots = [sum(each for each in limits if each is not None)] if None not in limits else []
        if caller is not None and caller.waits_beyond is not None:
            slots.append(caller.waits_beyond)
        return took_s * host_usage.shared.workers / min(slots) if took_s is not None and slots else None


_Wanted = tuple[str, Replicas, float, int | None, bool]


def _wanted(outgoing: Outgoing, failed: Collection[Replica] = ()) -> _Wanted | None:
    """Key, replicas that can be reached and their limits, weight and limit of the key, and whether that limit is lent.

    None for what needs no slot. Raises Overloaded where nobody can say how much of the limit there is.
    """
    request = outgoing.request
    caller, candidates = request.caller, outgoing.choice.candidates
    key, weight, most = "", 1.0, None
    if caller is not None:
        key, weight, most = caller.name, caller.entry.weight, caller.waits_beyond
    if most is None and all(each.config.max_in_flight is None for each in candidates):
        return None
    if not _works(request.route, request.method):
        return None
    now = monotonic()
    reached = [each for each in candidates if _open(each, outgoing, now)]
    # The one that failed has its slots free just because nothing can be sent to it.
    offered = [each for each in reached if not (each.kept_back or each in failed)]
    replicas = tuple((each.key, each.config.max_in_flight) for each in offered or reached)
    if not replicas:
        return None
    lent = most is not None and caller is not None and caller.leases is not None and caller.limits is not None
    if lent:
        caller.leases.approach(caller.limits)
    return key, replicas, weight, most, lent


def _open(replica: Replica, outgoing: Outgoing, now: float) -> bool:
    """Whether a request would be let through to it, as `Choice.admitted` decides."""
    return replica.breaker.candidate(now) and (not replica.barred or outgoing.choice.forced)


def _works(route: Route, method: str) -> bool:
    """Whether an engine works for such a request; what only asks a server something does not wait."""
    kind = route.kind
    if kind is Kind.INFERENCE:
        return route.metered
    if kind is Kind.PASSTHROUGH:
        return route.replayable and method == "POST"
    return kind is Kind.REALTIME or (kind is Kind.UNKNOWN and method == "POST")


def _prefer(outgoing: Outgoing, place: Place) -> None:
    """Let the replica that has the slot be the first."""
    candidates, record = outgoing.choice.candidates, outgoing.request.record
    if candidates[0].key != place.replica:
        candidates.sort(key=lambda each: each.key != place.replica)
        if record.affinity == Placed.HOME:
            record.affinity = Placed.SPILLED
