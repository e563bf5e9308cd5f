"""How fast the line before busy replicas moves: the Retry-After of its refusals, from the gaps between the last turns.

Before the first turn it goes by what else is known of how often a slot is given back.

Counts time only while somebody waits: an idle minute says nothing of how long a slot is held. Pure: is told the time.
"""

from collections import deque

# Of the last ones that had their turn.
_SEEN = 32
_LONGEST_S = 600.0


class Pace:
    """The waiting requests of this process, and how long each of the last ones kept the others from their turn."""

    __slots__ = ("_gaps", "_since", "waiting")

    def __init__(self) -> None:
        self.waiting = 0
        self._gaps: deque[float] = deque(maxlen=_SEEN)
        self._since = 0.0  # the last turn, or when somebody began to wait after it

    def comes(self, now: float) -> None:
        """One more waits."""
        if not self.waiting:
            self._since = now
        self.waiting += 1

    def goes(self, now: float, *, served: bool) -> None:
        """One waits no more: it had its turn if `served`, else it left."""
        self.waiting -= 1
        if served:
            self._gaps.append(now - self._since)
            self._since = now

    @property
    def seen(self) -> bool:
        """Whether anybody has had a turn."""
        return bool(self._gaps)

    def expected_s(self, now: float, unknown_s: float, gap_s: float | None = None) -> float:
        """How long one more would wait behind all that do, at most 600.

        While nobody has had a turn it is told by `gap_s`, the time from one slot that is given back to the next, and is
        `unknown_s` where not even that is known.
        """
        gaps = self._gaps
        if gaps:
            gap = sum(gaps) / len(gaps)
        elif gap_s is None:
            return min(unknown_s, _LONGEST_S)
        else:
            gap = gap_s
        open_gap = now - self._since if self.waiting else 0.0
        if open_gap > gap:  # the line has become slower
            gap += (open_gap - gap) / (len(gaps) + 1)
        return min(gap * (self.waiting + 1), _LONGEST_S)
