"""The replicas that may take the same requests, and what of a conversation is the same for each of its requests.

Decides what is remembered of a conversation: its number and its servers in rank, so that one that goes on costs no hash
and no ranking again. Knows nothing of requests, nor of whom a conversation is served by in the end (`choice`).
"""

from collections.abc import Sequence
from time import monotonic

from ..upstream.replica import Replica
from .rendezvous import key, ranked

# So many conversations, with names up to this size; those of a longer name are found out each time.
_REMEMBERED, _NAME_BYTES = 4096, 256

# What names a conversation: the client's words, or how it opens, a checksum and a size.
Named = bytes | tuple[int, int]
# Its number, and the places of its servers and these themselves, its home first.
Ranked = tuple[int, tuple[int, ...], list[Replica]]


class Candidates:
    """Some replicas, in the order in which they were written."""

    __slots__ = ("_counted", "_known", "_seeds", "replicas")

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.replicas = list(replicas)
        self._seeds = tuple([each.seed for each in replicas])
        # What each look at their loads asks, one step nearer.
        self._counted = [(each, each.health, each.breaker, each.demotion, each.requests) for each in replicas]
        self._known: dict[tuple[str, str, Named], Ranked] = {}

    def ranked(self, model: str, caller: str, named: Named) -> Ranked:
        """What is known of a conversation; its list is not to be changed."""
        return self._known.get((model, caller, named)) or self._rank(model, caller, named)

    def _rank(self, model: str, caller: str, named: Named) -> Ranked:
        said = named if isinstance(named, bytes) else b"%x %x" % named
        number = key(model, caller, said)
        places = ranked(number, self._seeds)
        found = number, places, [self.replicas[each] for each in places]
        if len(model) + len(said) <= _NAME_BYTES:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[model, caller, named] = found
        return found

    def loads(self) -> list[int | None]:
        """What each has in flight for the whole host; None for one that takes nothing, or just failed."""
        return [
            # As `Replica.unblemished` and `Counter.total`, without a call: nearly always, and for each replica.
            counter.cells[counter.at]
            if health.settled
            and breaker.closed
            and counter.alone
            and not (replica.barred or replica.kept_back or demotion.until)
            else _load(replica)
            for replica, health, breaker, demotion, counter in self._counted
        ]


def _load(replica: Replica) -> int | None:
    if replica.unblemished:
        return replica.requests.total
    now = monotonic()
    return None if replica.standing(now) or not replica.breaker.candidate(now) else replica.requests.total
