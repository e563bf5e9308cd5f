"""How many lines run at once on one model's servers, so that nobody else waits for them.

Decides by additive increase and multiplicative decrease: one more each second while others get their first byte as fast
as they would without, a quarter fewer when they do not, half when a server says that it is busy or somebody waits. Near
where others were late the last time it grows slowly. Pure: times are handed in.
"""

from bisect import bisect_left
from collections import deque
from typing import NamedTuple

from ..telemetry.histogram import SECONDS

# Lines may halve what runs once in this time: many of them are told busy at once.
_HALVE_S = 1.0
# A mean this much later than without is as fast: it varies by as much anyway.
_AS_FAST, _AS_FAST_S = 1.25, 0.01
# One first byte is late that takes this many times the usual mean.
_LATE, _LATE_S = 4.0, 0.01
# So many seconds are looked at together, and a share of late ones this much above the usual one is too much.
_SECONDS, _TOO_MANY = 10, 0.01
# How fast it was without is forgotten by this share a second: loads change.
_FORGET = 0.002
# Growth from three quarters of where it was too much takes this long for each line.
_SLOWLY_S = 10.0


class Pressure(NamedTuple):
    """What others got in the last second: first bytes of streams by SECONDS and their sum; who waits too long now."""

    counts: tuple[int, ...] = ()
    sum_s: float = 0.0
    waiting: int = 0


class Pace:
    """The limit of one model. Begins at 1, so that what others get is known before much runs."""

    def __init__(self, ceiling: int) -> None:
        self.ceiling = ceiling
        self.limit = 1
        self._halved_at = float("-inf")
        self._grown_at = float("-inf")
        self._usual_s: float | None = None  # a first byte with few lines about
        self._usual_late = 0.0  # the share of late ones with one line about
        self._seconds: deque[tuple[int, int]] = deque(maxlen=_SECONDS)  # first bytes, and how many of them were late
        self._knee: int | None = None  # where it was too much

    def busy(self, now: float) -> None:
        """A server took no line."""
        if now - self._halved_at >= _HALVE_S:
            self._halved_at = now
            self._fall(self.limit // 2)

    def second(self, pressure: Pressure, now: float, *, used: bool) -> None:
        """A second has passed. `used`: the limit was what kept further lines back."""
        if pressure.waiting:
            self.busy(now)
        elif self._hurts(pressure):
            self._fall(self.limit - max(1, self.limit // 4))
        elif used and now - self._halved_at >= _HALVE_S:
            self._grow(now)
        self.limit = min(self.limit, self.ceiling)

    def _hurts(self, pressure: Pressure) -> bool:
        """Whether others get their first byte later than without lines."""
        count = sum(pressure.counts)
        if not count:
            return False
        mean_s, usual_s = pressure.sum_s / count, self._usual_s
        if usual_s is None or mean_s < usual_s:
            self._usual_s = usual_s = mean_s
            slow = False
        else:
            self._usual_s = usual_s + (mean_s - usual_s) * _FORGET
            slow = mean_s > usual_s * _AS_FAST + _AS_FAST_S
        bound = bisect_left(SECONDS, max(usual_s * _LATE, _LATE_S))
        self._seconds.append((count, sum(pressure.counts[bound + 1 :])))
        counted, late = (sum(each) for each in zip(*self._seconds, strict=True))
        if self.limit == 1:
            self._usual_late += (late / counted - self._usual_late) * 0.1
            return slow
        return slow or late - counted * self._usual_late >= max(1.0, counted * _TOO_MANY)

    def _fall(self, limit: int) -> None:
        self._knee = self.limit
        self.limit = max(1, limit)
        self._seconds.clear()

    def _grow(self, now: float) -> None:
        if self._knee is not None and self.limit >= self._knee * 3 // 4 and now - self._grown_at < _SLOWLY_S:
            return
        self._grown_at = now
        self.limit += 1
        if self._knee is not None and self.limit > self._knee:
            self._knee = None
