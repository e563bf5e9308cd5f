"""vLLM's own counter of the requests that run, read from the text of its /metrics.

Decides how one engine's idleness is told from another's: the series of all engines behind a port add up. Pure.
"""

import re

_LINE = re.compile(r"^vllm:num_requests_running(?:\{[^}]*\})? ([0-9.e+-]+)$", re.M)


def running(text: str) -> float | None:
    """How many run; None where the text has no such series."""
    found = _LINE.findall(text)
    return sum(map(float, found)) if found else None
