"""What was used since the start, by key, model and instance, out of snapshots of the metrics.

Those add up over all workers there were. Decides which metric is which number of `telemetry.usage_table`.
"""

from collections.abc import Iterable, Iterator

from ..telemetry.usage_table import Row
from .metrics import SINCE, Snapshot

_COUNTS = {
    "prompt": ("prompt_tokens",),
    "cached": ("cached_tokens",),
    "completion": ("completion_tokens",),
    "known": ("requests",),
    "unknown": ("requests", "requests_of_unknown_usage"),
}
_SECONDS = {"gomodel_audio_seconds_total": "audio_seconds", "gomodel_generation_seconds_total": "generation_seconds"}


def used(snapshots: Iterable[Snapshot]) -> Iterator[Row]:
    """All that was used, in parts: each has a key, a model, an instance and some numbers."""
    for each in snapshots:
        for family in ("gomodel_tokens_total", "gomodel_usage_requests_total"):
            for (instance, model, key, kind), count in each.get(family, []):
                place = {"key": key, "model": model, "instance": instance}
                yield place | dict.fromkeys(_COUNTS[kind], count)
        for family, name in _SECONDS.items():
            for (instance, model, key), seconds in each.get(family, []):
                yield {"key": key, "model": model, "instance": instance, name: seconds}


def since(snapshots: Iterable[Snapshot]) -> float:
    """When the first worker started, of whatever release; POSIX time."""
    return float(min(at for each in snapshots for _, at in each.get(SINCE, [])))


def running(snapshots: Iterable[Snapshot]) -> int:
    """How many requests run or wait in line, in all workers."""
    families = ("gomodel_requests_in_flight", "gomodel_queue_waiting")
    return sum(int(count) for each in snapshots for family in families for _, count in each.get(family, []))
