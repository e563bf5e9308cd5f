"""What interactive requests get of each instance: how fast their first bytes came, and who waits for one too long.

Asked for by the batcher once a second while lines of batches run, so that these keep out of the way. Streams alone
count: what comes whole says nothing of when it was begun. Decides what "too long" is.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..balancing.instances import Providers
from ..telemetry.counters import Telemetry
from ..telemetry.histogram import SECONDS
from ..telemetry.record import Phase

PRESSURE = "pressure"
_TOO_LONG_S = 1.0
_NONE = (0,) * (len(SECONDS) + 1)


class Pressure(NamedTuple):
    """First bytes by SECONDS and their sum since the start; who is `waiting` now; `replicas` that share the load."""

    counts: tuple[int, ...]
    sum_s: float
    waiting: int
    replicas: int


def pressure(telemetry: Telemetry, providers: Providers, now: float) -> dict[str, Pressure]:
    """By instance, of this process; `now` is time.monotonic."""
    waiting: defaultdict[str, int] = defaultdict(int)
    for record in telemetry.running.records:
        waits = record.phase is Phase.QUEUE or (record.streamed and not record.first_byte)
        if waits and not record.batch and now - record.started > _TOO_LONG_S:
            waiting[record.instance] += 1
    found = {}
    for name, instance in providers.instances.items():
        streamed = [each.first_byte_streamed for key, each in telemetry.latency.items() if key[0] == name]
        counts = _added(each.counts for each in streamed)
        found[name] = Pressure(counts, sum(each.sum for each in streamed), waiting[name], len(instance.replicas))
    return found


def _added(counts: Iterable[Sequence[int]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(_NONE, *counts, strict=True)))


def merged(parts: Iterable[dict[str, Pressure]]) -> dict[str, Pressure]:
    """That of all workers."""
    found: dict[str, Pressure] = {}
    for part in parts:
        for name, one in part.items():
            other = found.get(name, Pressure(_NONE, 0.0, 0, 1))
            found[name] = Pressure(
                _added((one.counts, other.counts)),
                one.sum_s + other.sum_s,
                one.waiting + other.waiting,
                max(one.replicas, other.replicas),
            )
    return found
