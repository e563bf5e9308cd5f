"""How many lines run at once on one model's servers, so that nobody else waits for them.

Decides by additive increase and multiplicative decrease: one more each second while others get their first byte as fast
as they would without, half when a server says that it is busy or somebody waits. Pure: times are handed in.
"""

from typing import NamedTuple

# Lines may halve what runs once in this time: many of them are told busy at once.
_HALVE_S = 1.0
# A first byte this much later than without is as fast: it varies by as much anyway.
_AS_FAST, _AS_FAST_S = 1.25, 0.01
# How fast it was without is forgotten by this share a second: loads change.
_FORGET = 0.002


class Pressure(NamedTuple):
    """What others got of a server in the last second: first bytes of streams and their sum, and who waits too long."""

    first_bytes: int = 0
    sum_s: float = 0.0
    waiting: int = 0


class Pace:
    """The limit of one model. Begins at 1, so that what others get is known before much runs."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.limit = 1
        self._halved_at = float("-inf")
        self._usual_s: float | None = None  # a first byte with few lines about

    def busy(self, now: float) -> None:
        """A server took no line."""
        if now - self._halved_at >= _HALVE_S:
            self._halved_at = now
            self.limit = max(1, self.limit // 2)

    def second(self, pressure: Pressure, now: float, *, used: bool) -> None:
        """A second has passed. `used`: the limit was what kept further lines back."""
        if pressure.waiting:
            self.busy(now)
            return
        if pressure.first_bytes:
            mean_s = pressure.sum_s / pressure.first_bytes
            usual_s = self._usual_s
            if usual_s is None or mean_s < usual_s:
                self._usual_s = mean_s
            else:
                self._usual_s = usual_s + (mean_s - usual_s) * _FORGET
                if mean_s > usual_s * _AS_FAST + _AS_FAST_S:
                    self.limit = max(1, self.limit - max(1, self.limit // 4))
                    return
        if used and now - self._halved_at >= _HALVE_S:
            self.limit = min(self.ceiling, self.limit + 1)
        self.limit = min(self.limit, self.ceiling)
