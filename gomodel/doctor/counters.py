"""vLLM's own counters, read from the text of its /metrics: how many requests run, how many tokens it has made.

Decides how one engine's idleness is told from another's: the series of all engines behind a port add up. Pure.
"""

import re
from typing import NamedTuple

_LINE = re.compile(r"^vllm:(num_requests_running|generation_tokens_total)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.M)


class Counters(NamedTuple):
    running: float
    generated: float


def read(text: str) -> Counters | None:
    """None where the text has no such series."""
    sums: dict[str, float] = {}
    for name, value in _LINE.findall(text):
        sums[name] = sums.get(name, 0.0) + float(value)
    if "num_requests_running" not in sums:
        return None
    return Counters(sums["num_requests_running"], sums.get("generation_tokens_total", 0.0))
