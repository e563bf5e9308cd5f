"""A histogram of durations, in the buckets that Prometheus is given. Decides which these are."""

from bisect import bisect_left

# One ladder for every duration, from one token at full speed to a long generation.
SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
    600.0,
)


class Histogram:
    """Counts per bucket of SECONDS, the last one for everything above, and the sum in seconds."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        self.sum = 0.0

    def observe(self, value_s: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(SECONDS, value_s)] += 1
        self.sum += value_s

    def add(self, other: "Histogram") -> None:
        """Count all that another one counted."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
