"""What follows an attempt to serve a request: an answer, another attempt, or a failure. Retry rules as a pure table.

Decides what may be tried again and where (contract section 7). Knows nothing of connections, of the breaker or of how
an outcome is recognised; `forward` makes the attempts, `refusals` reads what an answer means.

Safe to repeat is what certainly did no work: a connect that failed, and elsewhere one that took too long; an answer
that says so, as of a server that is busy, shuts down, has unloaded the model or refuses the gateway's key; and, on
routes that may be repeated, a reused connection that died before any response byte, if all that was sent of the body
is held. Nothing else is tried again: not after a response byte, not on any other timeout, not on any other 4xx or 5xx.
"""

import enum


class Outcome(enum.Enum):
    """How one attempt ended."""

    ANSWERED = enum.auto()  # a response went to the client, whole or broken off
    STALE = enum.auto()  # a reused connection died before any response byte
    NOT_CONNECTED = enum.auto()  # no connection came about, nothing was sent
    UNREACHED = enum.auto()  # likewise, after all the time that a connect may take
    DRAINING = enum.auto()  # the server shuts down and takes nothing new
    BUSY = enum.auto()  # its queue is full, its engine is paused or scaling
    UNLOADED = enum.auto()  # it does not have the model
    KEY_REFUSED = enum.auto()  # 401: it refuses the gateway's key, or wants one
    FORBIDDEN = enum.auto()  # 403: it, or a proxy before it, does not let the gateway in
    FAILED = enum.auto()  # anything else that left the client without an answer


# Answers that say that no work was done; they are held back until it is clear that nobody else takes the request.
REFUSALS = frozenset({Outcome.DRAINING, Outcome.BUSY, Outcome.UNLOADED, Outcome.KEY_REFUSED, Outcome.FORBIDDEN})


class Step(enum.Enum):
    """What to do next."""

    GIVE = enum.auto()  # the client gets what this attempt brought: the refusal as it came, or the failure
    GIVE_EARLIER = enum.auto()  # the client gets the answer of an earlier attempt, which says more than this failure
    FRESH = enum.auto()  # the same server again, on a new connection
    NEXT = enum.auto()  # another candidate at once; never this one again
    LATER = enum.auto()  # after a pause: another candidate first, this one when it is the only one


def next_step(outcome: Outcome, *, left: int, others: bool, held: bool, moved: bool, earlier: bool) -> Step:
    """What follows any `outcome` but ANSWERED, after which there is nothing to decide.

    `left`: attempts left, at most RETRY_MAX_RETRIES; `others`: there are other candidates; `held`: all of the body is
    here and can be sent again; `moved`: it was sent on once because a server did not have the model, and one wrong
    list is as much as a request looks past; `earlier`: another attempt was answered with a refusal.
    """
    if outcome in REFUSALS:
        may_move = left > 0 and others and held and not (moved and outcome is Outcome.UNLOADED)
        return Step.NEXT if may_move else Step.GIVE
    if outcome is Outcome.STALE and left > 0 and held:
        return Step.FRESH
    if outcome is Outcome.UNREACHED and left > 0 and others:
        return Step.NEXT
    if outcome is Outcome.NOT_CONNECTED and left > 0:
        return Step.LATER
    if outcome in (Outcome.NOT_CONNECTED, Outcome.UNREACHED) and earlier:
        return Step.GIVE_EARLIER
    return Step.GIVE
