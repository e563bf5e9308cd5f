"""What an attempt says of the server that it went to: to its breaker, its health, its rank among others, its list.

Decides which answers and failures count, and against whom: a request that can only fail must push nobody aside. Knows
nothing of what is tried next (`attempts`).
"""

from collections.abc import Callable
from time import monotonic

from ..errors import GatewayError, KeyRefused, UpstreamError
from ..routes.route import Kind
from ..upstream.breaker import Admission
from ..upstream.health import DRAINING
from ..upstream.replica import Replica
from .attempts import Outcome
from .outgoing import Outgoing
from .relay import INSTANCE_FAILURES, Relay

_CLIENT_ERROR, _FORBIDDEN = 400, 403
# Beside 5xx: what an instance, or a proxy before it that has lost its route to it, answers at once to everything.
_REFUSED = frozenset({_FORBIDDEN, 404, 429})


def unreachable(replica: Replica, admission: Admission, error: UpstreamError, failed: list[Replica]) -> None:
    """No connection came about, for a reason that the instance has to answer for."""
    now = monotonic()
    if admission.trial or replica not in failed:
        failed.append(replica)
        admission.failed(now, error.code)
    replica.demotion.failed(now)
    replica.failed(error.code)


def answered(outgoing: Outgoing, relay: Relay) -> None:
    """What an answer that went to the client says of the instance."""
    replica, admission, status, request = relay.replica, relay.admission, relay.status, outgoing.request
    replica.answers += 1
    if relay.failed or status in INSTANCE_FAILURES:
        now = monotonic()
        admission.failed(now, relay.failed or f"status {status}")
        replica.demotion.failed(now)
        return
    if admission.trial or replica.breaker.doubted:
        admission.succeeded(monotonic())
    if request.route.spends and request.method == "POST":
        request.record.usage = relay.usage()
    if status < _CLIENT_ERROR:
        if replica.demotion.until:
            replica.demotion.over()
    elif status >= 500 or status in _REFUSED:
        known = request.route.kind is not Kind.UNKNOWN  # else it may not exist
        if known and _says_of_it(outgoing, replica):
            replica.demotion.failed(monotonic())
    health = replica.health
    if not health.settled:
        if health.key_refused and request.route.below_base and status != _FORBIDDEN:
            health.accept_key()
        if status < _CLIENT_ERROR:  # a server whose engine is dead goes on to refuse
            health.ok(relay.failures)


def refused(outgoing: Outgoing, relay: Relay, on_unloaded: Callable[[Replica], None]) -> GatewayError | None:
    """The server is there and took no work: no failure for the breaker, and no success but for a trial.

    `on_unloaded` is told of one that lacks a model of its list. Returns what the client reads in place of the refusal.
    """
    replica, admission = relay.replica, relay.admission
    outcome, now = relay.refusal, monotonic()
    assert outcome is not None
    health, says = replica.health, _says_of_it(outgoing, replica)
    error: GatewayError | None = None
    if outcome is Outcome.KEY_REFUSED:
        error = KeyRefused(replica.name, configured=replica.config.api_key is not None)
        if outgoing.request.route.below_base:  # vLLM asks for a key there alone; beside it other rules may hold
            health.refuse_key()
    elif outcome is Outcome.UNLOADED and says:
        on_unloaded(replica)
    if says or outcome is Outcome.BUSY:
        replica.demotion.failed(now)
    if outcome is Outcome.DRAINING:
        health.failed(DRAINING)
    elif admission.trial:
        admission.succeeded(now)
    return error


def _says_of_it(outgoing: Outgoing, replica: Replica) -> bool:
    """Whether a refusal says something of the replica, which others might do better.

    Not where its caller chose the instance and that is one server, and not of a model that it does not list: it might
    be pushed aside by requests that can only fail.
    """
    choice = outgoing.choice
    return not choice.bound or (replica.several and choice.model in replica.listed)
