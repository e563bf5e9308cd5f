"""GET /admin/engines: what every vLLM says of its own queue and cache, in its metrics.

Asked when somebody asks, for all who ask within a few seconds, and of no more servers at once than a few. Decides which
of vLLM's numbers are shown. Changes nothing of what is known of a replica.
"""

import asyncio
import re
from collections.abc import Iterable
from math import isfinite
from time import monotonic
from typing import Any

from ..upstream.own_metrics import metrics_of
from ..upstream.replica import Replica

_FRESH_S = 5.0
_AT_ONCE = 16
_GAUGES = {
    "running": re.compile(rb"^vllm:num_requests_running(?:\{[^}\n]*\})? (\S+)", re.MULTILINE),
    "waiting": re.compile(rb"^vllm:num_requests_waiting(?:\{[^}\n]*\})? (\S+)", re.MULTILINE),
}
# The second as vLLM called it before 0.10.
_CACHE = re.compile(rb"^vllm:(?:kv|gpu)_cache_usage_perc(?:\{[^}\n]*\})? (\S+)", re.MULTILINE)


class Engines:
    """`await listed(replicas)`."""

    def __init__(self) -> None:
        self._asked_at = float("-inf")
        self._answers: asyncio.Task[list[dict[str, Any]]] | None = None

    async def listed(self, replicas: Iterable[Replica]) -> list[dict[str, Any]]:
        """An entry for each replica; its numbers are None where it does not say them. JSON-serialisable."""
        if self._answers is None or monotonic() - self._asked_at > _FRESH_S:
            self._asked_at = monotonic()
            self._answers = asyncio.create_task(_ask_all(tuple(replicas)))
        return await asyncio.shield(self._answers)

    async def close(self) -> None:
        """Ask no more."""
        if self._answers is not None:
            self._answers.cancel()
            await asyncio.wait({self._answers})


async def _ask_all(replicas: tuple[Replica, ...]) -> list[dict[str, Any]]:
    places = asyncio.Semaphore(_AT_ONCE)

    async def one(replica: Replica) -> dict[str, Any]:
        async with places:
            numbers = await asyncio.to_thread(said, await metrics_of(replica) or b"")
        return {"instance": replica.name, "replica": replica.address, **numbers}

    return list(await asyncio.gather(*map(one, replicas)))


def said(text: bytes) -> dict[str, float | None]:
    """What metrics say of the queue and the cache: requests of all engines together, the fullest cache, 0 to 1."""
    found: dict[str, float | None] = {}
    for name, pattern in _GAUGES.items():
        numbers = _numbers(pattern, text)
        found[name] = sum(numbers) if numbers else None
    found["cache_usage"] = max(_numbers(_CACHE, text), default=None)
    return found


def _numbers(pattern: re.Pattern[bytes], text: bytes) -> list[float]:
    found = []
    for number in pattern.findall(text):
        try:
            found.append(float(number))
        except ValueError:
            return []
    return list(filter(isfinite, found))
