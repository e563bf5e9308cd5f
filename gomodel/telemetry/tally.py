"""The last numbers of each worker, so that a sum over workers never falls when one of them dies or does not answer.

A counter that falls is taken for one that started anew (Prometheus, rate()), and the whole rest of the sum for new
requests. Decides what of a worker outlives it. Knows nothing of processes, sockets or families of metrics.
"""

from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any

Numbers = dict[str, Any]


class Tally:
    """What was last heard of each worker, and the sum of those that are gone, which takes no room for each."""

    def __init__(self, lasting: Callable[[Iterable[Numbers]], Numbers]) -> None:
        """`lasting` makes one snapshot of several, of nothing but what only ever grows."""
        self._lasting = lasting
        self._known: dict[Hashable, Numbers] = {}
        self._gone: Numbers = {}

    def hear(self, worker: Hashable, numbers: Numbers) -> None:
        """`worker` has counted this much."""
        self._known[worker] = numbers

    def depart(self, worker: Hashable) -> None:
        """`worker` counts no more; what it last said stays in the sum."""
        numbers = self._known.pop(worker, None)
        if numbers is not None:
            self._gone = self._lasting([self._gone, numbers])

    def everything(self, answered: Collection[Hashable]) -> list[Numbers]:
        """Snapshots that add up to all that was ever counted; gauges only of workers that have `answered` just now."""
        present = [numbers for worker, numbers in self._known.items() if worker in answered]
        silent = [numbers for worker, numbers in self._known.items() if worker not in answered]
        return [*present, self._lasting([self._gone, *silent])]
