"""What interactive requests get of each instance: how fast their first bytes came, and who waits for one too long.

Asked for by the batcher once a second while lines of batches run, so that these keep out of the way. Streams alone
count: what comes whole says nothing of when it was begun. Decides what "too long" is.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from ..balancing.instances import Providers
from ..telemetry.counters import Telemetry
from ..telemetry.record import Phase

PRESSURE = "pressure"
_TOO_LONG_S = 1.0


class Pressure(NamedTuple):
    """`first_bytes` and their sum since the start; `waiting` now; `replicas` that share the load."""

    first_bytes: int
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
        counts = sum(sum(each.counts) for each in streamed)
        found[name] = Pressure(counts, sum(each.sum for each in streamed), waiting[name], len(instance.replicas))
    return found


def merged(parts: Iterable[dict[str, Pressure]]) -> dict[str, Pressure]:
    """That of all workers."""
    found: dict[str, Pressure] = {}
    for part in parts:
        for name, one in part.items():
            other = found.get(name, Pressure(0, 0.0, 0, 1))
            found[name] = Pressure(
                one.first_bytes + other.first_bytes,
                one.sum_s + other.sum_s,
                one.waiting + other.waiting,
                max(one.replicas, other.replicas),
            )
    return found
