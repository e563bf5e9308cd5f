"""Samples, their medians, and the rule by which a ratio is refused.

Pure arithmetic. Knows nothing of how a sample was taken.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

YARDSTICK = "nginx"
# The upstream asked without any proxy.
DIRECT = "direct"


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure of one run. `errors` and `reason` say why it must not be compared."""

    suite: str
    case: str
    metric: str
    unit: str
    peer: str
    round: int
    value: float
    errors: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Summary:
    median: float
    low: float
    high: float
    rounds: int

    @property
    def spread(self) -> float:
        """(max - min) / median: how much the machine, or the subject, wandered between the rounds."""
        return (self.high - self.low) / self.median if self.median else 0.0


@dataclass(frozen=True, slots=True)
class Refused:
    """Why there is no figure to compare."""

    reason: str


# None: not measured at all.
Outcome = Summary | Refused | None


def percentile(ordered: Sequence[float], fraction: float) -> float:
    """Nearest-rank percentile of ascending values; 0 for none."""
    return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)] if ordered else 0.0


def summarise(values: Iterable[float]) -> Summary:
    """Median, minimum and maximum. Raises ValueError without a value."""
    known = list(values)
    if not known:
        raise ValueError("nothing to summarise")
    return Summary(median(known), min(known), max(known), len(known))


@dataclass(slots=True)
class Results:
    """All samples of a run, and the peers that could not take part with the reason."""

    samples: list[Sample] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def select(self, suite: str, case: str, metric: str, peer: str) -> list[Sample]:
        wanted = (suite, case, metric, peer)
        return [sample for sample in self.samples if (sample.suite, sample.case, sample.metric, sample.peer) == wanted]

    def summary(self, suite: str, case: str, metric: str, peer: str) -> Outcome:
        """The rounds of one cell; Refused when any of them saw an error, None when it was not measured."""
        found = self.select(suite, case, metric, peer)
        if not found:
            return None
        if fault := self.skipped.get(peer) or _fault(found):
            return Refused(fault)
        return summarise(sample.value for sample in found)

    def ratio(
        self, suite: str, case: str, metric: str, peer: str, yardstick: str = "nginx"
    ) -> Summary | Refused | None:
        """The peer's figure over the yardstick's of the same round, summarised.

        Refused when either saw an error in any round: work that was not done is cheap.
        """
        mine, theirs = self.select(suite, case, metric, peer), self.select(suite, case, metric, yardstick)
        if not mine or not theirs:
            return None
        for name, found in ((peer, mine), (yardstick, theirs)):
            if fault := self.skipped.get(name) or _fault(found):
                return Refused(f"{name}: {fault}")
        base = {sample.round: sample.value for sample in theirs}
        pairs = [sample.value / base[sample.round] for sample in mine if base.get(sample.round)]
        return summarise(pairs) if pairs else Refused(f"{yardstick}: too little CPU to compare")

    def cases(self, suite: str) -> list[str]:
        """Case names of a suite in the order in which they were first measured."""
        return list(dict.fromkeys(sample.case for sample in self.samples if sample.suite == suite))

    def peers(self) -> list[str]:
        """Names in the order in which they were first measured, the bare upstream before all proxies."""
        return sorted(dict.fromkeys(sample.peer for sample in self.samples), key=lambda name: name != DIRECT)


def _fault(samples: Sequence[Sample]) -> str:
    errors = sum(sample.errors for sample in samples)
    reasons = "; ".join(dict.fromkeys(sample.reason for sample in samples if sample.reason))
    if errors:
        return f"{errors} error{'s' if errors > 1 else ''}" + (f" ({reasons})" if reasons else "")
    return reasons
