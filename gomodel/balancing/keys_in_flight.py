"""How many requests of one conversation are in flight, counted for the whole host as `upstream.host_counts` does.

A conversation whose requests run beside each other is held to a tighter bound (`rendezvous`), and they may come in by
any worker. Every worker has a row of its own in one anonymous mapping made before the fork, with a place for each of
PLACES remainders of a key: no lock, no memory for a conversation, an addition when a request comes and goes, and a look
at a place of every row. Two conversations that meet in a place look like one that is parallel; with a thousand in
flight that is one in sixty-five, and costs no more than a tighter bound does.
"""

import mmap

PLACES = 1 << 16
_MASK = PLACES - 1


class KeysInFlight:
    """The mapping; `share` makes one for several workers."""

    def __init__(self, workers: int = 1) -> None:
        self._cells = memoryview(mmap.mmap(-1, workers * PLACES * 4)).cast("i")
        self._workers = workers
        self._row = 0

    def enter(self, key: int) -> None:
        """One more of this conversation."""
        self._cells[self._row + (key & _MASK)] += 1

    def leave(self, key: int) -> None:
        """One less."""
        self._cells[self._row + (key & _MASK)] -= 1

    def total(self, key: int) -> int:
        """In all processes of this host."""
        at = key & _MASK
        if self._workers == 1:
            return self._cells[at]
        return sum(self._cells[at::PLACES])

    def take(self, row: int) -> None:
        """In a new worker, before it counts anything: write to this row."""
        self._row = row * PLACES

    def clear(self, row: int) -> None:
        """In the supervisor: the worker of this row is gone, and with it what it had in flight."""
        self._cells[row * PLACES : (row + 1) * PLACES] = memoryview(bytes(PLACES * 4)).cast("i")


# Of this process and those it was forked with.
shared = KeysInFlight()


def share(workers: int) -> KeysInFlight:
    """Before the fork: count for so many workers from now on."""
    global shared  # noqa: PLW0603 - there is one host
    shared = KeysInFlight(workers)
    return shared
