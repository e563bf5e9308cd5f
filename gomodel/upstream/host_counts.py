"""Requests in flight per server, counted for the whole host: worker processes share the numbers through memory.

Decides where a worker writes its counts and how all of them are read. Every worker has a row of its own in one
anonymous mapping made before the fork; it alone writes there, so there is no lock and nothing to wait for, and a
request costs two additions. A row says which server each of its places counts, so that workers need not agree on
anything. Knows nothing of requests or of who reads the sums.
"""

import mmap
from hashlib import blake2b

# Servers that one process can count for all; of further ones each process sees its own requests alone.
PLACES = 1024
_ROW = 2 * (PLACES + 1)  # a place is a key and a count; the first holds how many are in use, and a count nobody reads


class Counter:
    """The requests in flight at one server: this process says when they come and go, `total` is the host's.

    That is what `cells` have `at` its place where this process is `alone`.
    """

    __slots__ = ("_hints", "_key", "_released", "_table", "alone", "at", "cells")

    def __init__(self, table: "HostCounts", key: int, at: int, hints: list[int]) -> None:
        self._table = table
        self._key = key
        self.cells = table.cells
        self.at = at
        self._hints = hints
        self.alone = len(hints) == 1
        self._released = False

    def enter(self) -> None:
        """One more."""
        self.cells[self.at] += 1

    def leave(self) -> None:
        """One less."""
        self.cells[self.at] -= 1

    @property
    def own(self) -> int:
        """In this process alone."""
        return self.cells[self.at]

    @property
    def total(self) -> int:
        """In all processes of this host."""
        if self.alone:
            return self.cells[self.at]
        cells, key, total = self.cells, self._key, 0
        for row, place in enumerate(self._hints):
            at = row * _ROW + 2 * place
            if cells[at] == key or (at := self._look(row)):
                total += cells[at + 1]
        return total

    def _look(self, row: int) -> int:
        """Where the row of another worker has this server, 0 if it does not: another order, or it is not there yet."""
        start = row * _ROW
        for place in range(1, self.cells[start] + 1):
            if self.cells[start + 2 * place] == self._key:
                self._hints[row] = place
                return start + 2 * place
        return 0

    def release(self) -> None:
        """The server is no longer this process's, and what may still run there is not counted; once is enough."""
        if not self._released:
            self._released, self.alone = True, False
            if self._table.release(self._key):
                self.at = self._table.row * _ROW + 1


class HostCounts:
    """The mapping; `share` makes one for several workers."""

    def __init__(self, workers: int = 1) -> None:
        self.cells: memoryview[int] | list[int]
        if workers == 1:
            self.cells = [0] * _ROW  # shared with nobody, and read in less than half of the time
        else:
            self.cells = memoryview(mmap.mmap(-1, workers * _ROW * 8)).cast("q")
        self.row = 0
        self._workers = workers
        self._places: dict[int, tuple[int, int]] = {}  # by key: place, how many counters have it

    def counter(self, name: str) -> Counter:
        """The counter of a server; `name` is the same in all workers and different for different servers."""
        key = int.from_bytes(blake2b(name.encode(errors="surrogatepass"), digest_size=8).digest(), signed=True) or 1
        start = self.row * _ROW
        place, users = self._places.get(key, (0, 0))
        if not place:
            taken = {place for place, _ in self._places.values()}
            place = next((each for each in range(1, PLACES + 1) if each not in taken), 0)
            if not place:
                return HostCounts().counter(name)
            self.cells[start + 2 * place + 1] = 0
            self.cells[start + 2 * place] = key
            self.cells[start] = max(self.cells[start], place)
        self._places[key] = place, users + 1
        return Counter(self, key, start + 2 * place + 1, [place] * self._workers)

    def release(self, key: int) -> bool:
        """One counter less for a server; whether it was the last, whose place is free now."""
        place, users = self._places.pop(key)
        if users > 1:
            self._places[key] = place, users - 1
            return False
        self.cells[self.row * _ROW + 2 * place] = 0
        return True

    def take(self, row: int) -> None:
        """In a new worker, before it counts anything: write to this row."""
        self.row = row
        self._places = {}

    def clear(self, row: int) -> None:
        """In the supervisor: the worker of this row is gone, and with it what it had in flight."""
        for at in range(row * _ROW, (row + 1) * _ROW):
            self.cells[at] = 0


# Of this process and those it was forked with.
shared = HostCounts()


def share(workers: int) -> HostCounts:
    """Before the fork: count for so many workers from now on."""
    global shared  # noqa: PLW0603 - there is one host
    shared = HostCounts(workers)
    return shared
