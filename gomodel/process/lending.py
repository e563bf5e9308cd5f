"""Who reads the accept queue of a place that has no worker to read it: one that died, leaves or has yet to start.

Decides which other worker reads it meanwhile, so that no client waits for a restart, and when a worker that leaves may
stop reading its own. Knows nothing of sockets.
"""

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from .restarts import Place


class Reader(Protocol):
    """A worker as it is seen here."""

    @property
    def place(self) -> Place: ...

    @property
    def heard(self) -> bool: ...

    leaving: bool

    def send(self, *message: object) -> None: ...


Lend = Callable[[Any, int], bool]


class Lending:
    """`settle` whenever a worker has become ready, wants to leave or is gone."""

    def __init__(self, lend: Lend) -> None:
        """`lend` lets a worker read for the place of this index, from 1 on; whether it could be told."""
        self._lend = lend
        self._readers: dict[Place, Reader] = {}  # by place: who reads for it

    def settle(self, places: Iterable[Place], workers: Iterable[Reader]) -> None:
        """Find a reader for each place that has none, and let go who is not needed.

        A worker is told to ("give_back", index), and to ("leave",) when it wanted to and somebody else reads its queue.
        """
        present = list(workers)
        ready = {each.place: each for each in present if each.place.ready and each.heard and not each.leaving}
        for place in places:
            reader = self._readers.get(place)
            if place in ready:
                if reader is not None:
                    del self._readers[place]
                    reader.send("give_back", place.index)
            elif reader not in ready.values():
                if reader is not None and not reader.heard:
                    del self._readers[place]
                self._find(place, list(ready.values()))
        for each in present:
            if each.leaving and each.place in self._readers:
                each.send("leave")

    def _find(self, place: Place, ready: list[Reader]) -> None:
        held = list(self._readers.values())
        for each in sorted(ready, key=held.count):
            if self._lend(each, place.index):
                self._readers[place] = each
                return
