"""The counters of workers that are gone, or too busy to answer, so that a sum over workers never goes back.

A counter that falls is taken for one that started anew (Prometheus, rate()), and the whole rest of the sum for new
requests. Decides what is remembered of whom. Knows nothing of how workers talk to each other.
"""

import secrets
from collections.abc import Iterable
from time import monotonic
from typing import Any

# Workers that crash one after the other, each remembered for as long as this process lives.
REMEMBERED = 64

Heard = tuple[float, dict[str, Any]]


class Tally:
    """What one worker last heard of each other worker; times are time.monotonic, one clock for the whole host."""

    def __init__(self, cumulative: Iterable[str]) -> None:
        """`cumulative`: the families that only ever grow; nothing else of a worker survives it."""
        self.worker = secrets.token_hex(8)
        self._cumulative = frozenset(cumulative)
        self._heard: dict[str, Heard] = {}

    def hear(self, worker: str, numbers: dict[str, Any]) -> None:
        """Remember the numbers of `worker`."""
        kept = {name: samples for name, samples in numbers.items() if name in self._cumulative}
        self._heard.pop(worker, None)
        self._heard[worker] = monotonic(), kept
        if len(self._heard) > REMEMBERED:
            del self._heard[next(iter(self._heard))]

    def departed(self, present: list[str]) -> dict[str, Heard]:
        """What is remembered of workers that are not among `present`. JSON-serialisable."""
        return {worker: heard for worker, heard in self._heard.items() if worker not in present}

    def last_words(self, present: list[str], others: Iterable[dict[str, Heard]]) -> list[dict[str, Any]]:
        """The numbers of everybody who is not `present`, the latest that this worker or one of `others` heard."""
        latest = self.departed(present)
        for each in others:
            for worker, (heard_at, numbers) in each.items():
                if worker not in latest or heard_at > latest[worker][0]:
                    latest[worker] = heard_at, numbers
        return [numbers for _, numbers in latest.values()]
