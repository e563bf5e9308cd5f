"""GET /health/ready: whether this gateway can take a request, and what it knows of each instance.

Ready is when at least one replica is up and accepts the gateway's key, its breaker lets requests through and this
gateway is not draining. An instance is in the state of its replica that is nearest to taking a request. At the start
nothing is known of a replica, and it counts once its first probe, sent at once, was answered; with no probes at all,
what is not known to be down is taken to be up. Answers about instances only:
/health itself never depends on them.
"""

import json
from collections.abc import Collection
from hashlib import blake2b
from time import monotonic

from ..balancing.instance import Instance
from ..upstream.health import State
from ..upstream.replica import Replica

_FAR = {State.UNKNOWN: 3, State.DRAINING: 4, State.DOWN: 5}

# Where a name was never answered.
_NOBODY = 6, "no_replica", 0.0


def report(instances: Collection[Instance], *, asking: bool, draining: bool) -> tuple[bool, bytes]:
    """Whether this gateway is ready, and the body that says why.

    The route is open, so the body holds names and numbers only: models and replicas are counted, not told.
    """
    now = monotonic()
    ready = False
    states = {}
    for instance in instances:
        standings = [standing(each, now, asking=asking) for each in instance.replicas]
        rank, state, since = min(standings, default=_NOBODY)
        ready = ready or not rank
        failed_at, error = max((last_failure(each) for each in instance.replicas), default=(0.0, ""))
        states[instance.name] = {
            "state": state,
            "for_s": round(now - since, 1) if since else None,
            "last_error": error or None,
            "last_error_age_s": round(now - failed_at, 1) if error else None,
            "in_flight": instance.in_flight,
            "models": len(instance.models),
            "replicas": len(instance.replicas),
            "replicas_ready": sum(not rank for rank, _, _ in standings),
        }
    ready = ready and not draining
    status = "ready" if ready else "draining" if draining else "unavailable"
    return ready, json.dumps({"status": status, "table": _table(instances), "instances": states}).encode()


def _table(instances: Collection[Instance]) -> str:
    """What is the same for all gateways that know the same servers, and so choose the same ones (contract 4.7)."""
    servers = sorted(f"{each.name} {replica.identity}" for each in instances for replica in each.replicas)
    return blake2b("\n".join(servers).encode(errors="surrogatepass"), digest_size=4).hexdigest()


def standing(replica: Replica, now: float, *, asking: bool) -> tuple[int, str, float]:
    """How far it is from taking a request, 0 when it can; its state in a word, and since when."""
    health, breaker = replica.health, replica.breaker
    if health.state is State.UP or (health.state is State.UNKNOWN and not asking):
        if health.key_refused:
            return 2, "refuses_the_key", health.key_refused_at
        if replica.barred:
            return 2, replica.barred, replica.barred_at
        if not breaker.candidate(now):
            return 1, "circuit_open", breaker.opened_at
        return 0, health.state.value, health.since
    return _FAR[health.state], health.state.value, health.since


def last_failure(replica: Replica) -> tuple[float, str]:
    """When a probe or a request failed there last, and how."""
    health, breaker = replica.health, replica.breaker
    if health.other_scheme:
        return health.failed_at, health.code
    return max((health.failed_at, health.code), (breaker.failed_at, breaker.cause))
