"""Fast failures must not attract requests: a server that just failed or refused one is ranked behind the others.

Whoever fails at once always has the fewest requests in flight, and a choice by load alone would send it nearly
everything. Decides for how long such a server ranks last among the candidates of a request; it is never excluded, the
breaker does that. Knows nothing of what a failure is. Times are seconds of any monotonic clock.
"""

# The rank is lost for a second, and for twice as long each time it turns out to be no better.
FIRST_S = 1.0
LAST_S = 30.0


class Demotion:
    """From the first failure on; `until` is 0 while nothing is held against the server."""

    __slots__ = ("_lasts_s", "until")

    def __init__(self) -> None:
        self.until = 0.0
        self._lasts_s = 0.0

    def failed(self, now: float) -> None:
        """A request failed. What fails while it is demoted was sent before, or had no choice: that says nothing new."""
        if now >= self.until:
            self._lasts_s = min(LAST_S, self._lasts_s * 2) or FIRST_S
            self.until = now + self._lasts_s

    def over(self) -> None:
        """A request was answered well."""
        self.until = self._lasts_s = 0.0
