"""What each caller uses on this host: requests that run, and those and the tokens of the last minute, over all workers.

Decides where a worker writes and how all of them are read: every worker has a row of its own in one anonymous mapping
made before the fork, in which it alone writes; a place in it belongs to one name and is found by that name's hash. So
counting takes no lock. A decision that must not be made twice at the same time takes one of the kernel's on a byte that
stands for the name (fcntl): it is never waited for, and a worker that is killed has given it back. Knows no limits.
"""

import fcntl
import mmap
import os
import secrets
from collections.abc import Sequence
from functools import partial
from hashlib import blake2b

from .host_lease import Lease

WINDOW_S = 60
# Names that one worker can count for all; of further ones each worker sees its own numbers alone. Pages that nobody
# writes to take no memory.
PLACES = 1 << 14
_MASK = PLACES - 1
# A name is looked for in so many places from its own on.
_PROBES = 32
# A place: whose it is, what runs, the second that the sums are of, the sums over the window, what these were when that
# second began, and both by second; of that second itself only once it is over.
_KEY, RUNNING, _SECOND, REQUESTS, TOKENS, _REQUESTS_BEFORE, _TOKENS_BEFORE, _REQUEST_RING = range(8)
_TOKEN_RING = _REQUEST_RING + WINDOW_S
_PLACE = _TOKEN_RING + WINDOW_S
_ROW = PLACES * _PLACE
_NOTHING_BY_SECOND = memoryview(bytes(2 * WINDOW_S * 8)).cast("q")
_EXCLUSIVE = fcntl.LOCK_EX | fcntl.LOCK_NB
# A lock that is held is free again within microseconds, unless its holder is not running.
_TRIES = 3


class _Other:
    """What is known of a name's place in the row of another worker; of an unknown one another name's place."""

    __slots__ = ("between", "place", "requests", "tokens")

    def __init__(self, place: int) -> None:
        self.place = place
        self.between = 0, 0
        self.requests = self.tokens = 0  # that have gone out of the window between these seconds

    def age(self, cells: Sequence[int], since: int, now: int) -> None:
        """Find out, once for a second, what its sums of `since` hold too much at `now`."""
        gone = [second % WINDOW_S for second in range(since + 1, now + 1)]
        self.requests = sum(cells[self.place + _REQUEST_RING + at] for at in gone)
        self.tokens = sum(cells[self.place + _TOKEN_RING + at] for at in gone)
        self.between = since, now


class Account:
    """The numbers of one name: this process says what happens, what is read is the host's. Times are whole seconds.

    Where no other process counts, and `until` the second that was looked at last is over, RUNNING, REQUESTS and TOKENS
    in `cells` are all there is to see and to count, without a call; `until` is 0 where others count.
    """

    __slots__ = ("_at", "_byte", "_fd", "_key", "_others", "_usage", "cells", "margin", "until")

    def __init__(self, usage: "HostUsage", key: int, at: int, cells: list[int] | None = None) -> None:
        """`cells` are its own where no other worker looks at them, `at` is 0 then."""
        self._usage = usage
        self.cells: memoryview[int] | list[int] = usage.cells if cells is None else cells
        self.until = 0
        self._fd = usage.fd
        self._key = key
        self._byte = key & ((1 << 62) - 1)
        self._at = at
        self._others = [_Other(usage.start(row)) for row in range(usage.workers) if row != usage.row]
        # What is seen without the lock may lack one request of each other worker, and so may what those have seen.
        self.margin = 2 * (usage.workers - 1)

    def look(self, now: int) -> tuple[int, int, int]:
        """The requests that run, and those that began and the tokens spent during the last WINDOW_S."""
        cells, at = self.cells, self._at
        if cells[at + _SECOND] != now:
            self._advance(now)
        running, requests, tokens = cells[at + RUNNING], cells[at + REQUESTS], cells[at + TOKENS]
        for other in self._others:
            place = other.place
            if cells[place] != self._key:
                place = other.place = self._usage.find(place, self._key)
                if cells[place] != self._key:
                    continue
            running += cells[place + RUNNING]
            since = cells[place + _SECOND]
            if now - since < WINDOW_S:
                requests += cells[place + REQUESTS]
                tokens += cells[place + TOKENS]
                if since < now:  # its sums hold what has gone out of the window meanwhile
                    if other.between != (since, now):
                        other.age(cells, since, now)
                    requests -= other.requests
                    tokens -= other.tokens
        return running, requests, tokens

    def enter(self) -> None:
        """One more request begins in the second that was looked at last."""
        cells, at = self.cells, self._at
        cells[at + RUNNING] += 1
        cells[at + REQUESTS] += 1

    @property
    def second(self) -> int:
        """Which was looked at last."""
        return self.cells[self._at + _SECOND]

    def leave(self) -> None:
        """One of this process's is over."""
        self.cells[self._at + RUNNING] -= 1

    def take_back(self, then: int, now: int) -> None:
        """One that began at `then` does not count after all."""
        cells, at = self.cells, self._at
        self._advance(now)
        second = cells[at + _SECOND]
        if second - then < WINDOW_S:
            cells[at + REQUESTS] -= 1
            if then != second:
                cells[at + _REQUESTS_BEFORE] -= 1
                cells[at + _REQUEST_RING + then % WINDOW_S] -= 1

    def spend(self, now: int, tokens: int) -> None:
        """So many tokens were spent."""
        cells, at = self.cells, self._at
        if cells[at + _SECOND] != now:
            self._advance(now)
        cells[at + TOKENS] += tokens

    def frees_at(self, now: int, *, requests: int | None = None, tokens: int | None = None) -> int:
        """In how many seconds fewer than so many requests, or tokens, will be those of a minute, if no more come."""
        most, total = (requests, REQUESTS) if requests is not None else (tokens, TOKENS)
        assert most is not None
        _, began, spent = self.look(now)
        left = began if requests is not None else spent
        places = [self._at, *(each.place for each in self._others if self.cells[each.place] == self._key)]
        for second in range(now - WINDOW_S + 1, now + 1):
            left -= sum(self._by_second(place, total, second) for place in places)
            if left < most:
                return second + WINDOW_S - now
        return WINDOW_S

    def _by_second(self, place: int, total: int, second: int) -> int:
        """Of the requests, or tokens, those of one second."""
        cells, requests = self.cells, total == REQUESTS
        since = cells[place + _SECOND]
        if second == since:
            return cells[place + total] - cells[place + (_REQUESTS_BEFORE if requests else _TOKENS_BEFORE)]
        ring = _REQUEST_RING if requests else _TOKEN_RING
        return cells[place + ring + second % WINDOW_S] if since - WINDOW_S < second < since else 0

    def _advance(self, now: int) -> None:
        """Make the sums those of `now`; what happened before they were last looked at counts as of then."""
        cells, at = self.cells, self._at
        since = cells[at + _SECOND]
        if now <= since:
            return
        if now - since >= WINDOW_S:
            cells[at + REQUESTS] = cells[at + TOKENS] = 0
            cells[at + _REQUEST_RING : at + _PLACE] = _NOTHING_BY_SECOND
        else:
            requests, tokens = at + _REQUEST_RING + since % WINDOW_S, at + _TOKEN_RING + since % WINDOW_S
            cells[requests] = cells[at + REQUESTS] - cells[at + _REQUESTS_BEFORE]
            cells[tokens] = cells[at + TOKENS] - cells[at + _TOKENS_BEFORE]
            for second in range(since + 1, now + 1):
                requests, tokens = at + _REQUEST_RING + second % WINDOW_S, at + _TOKEN_RING + second % WINDOW_S
                cells[at + REQUESTS] -= cells[requests]
                cells[at + TOKENS] -= cells[tokens]
                cells[requests] = cells[tokens] = 0
        cells[at + _REQUESTS_BEFORE], cells[at + _TOKENS_BEFORE] = cells[at + REQUESTS], cells[at + TOKENS]
        cells[at + _SECOND] = now
        if not self._others:
            self.until = now + 1

    def lock(self) -> bool:
        """Keep other workers from deciding about this name until `unlock`; False while one of them does."""
        for _ in range(_TRIES):
            try:
                fcntl.lockf(self._fd, _EXCLUSIVE, 1, self._byte)
            except OSError:
                continue
            return True
        return False

    def unlock(self) -> None:
        """Let others decide."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._byte)


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest(), signed=True) or 1


class HostUsage:
    """The mapping; `share` makes one for several workers."""

    def __init__(self, workers: int = 1) -> None:
        self.cells = memoryview(mmap.mmap(-1, (workers + 1) * _ROW * 8)).cast("q")
        # Which places of a row are somebody's: to read those that are nobody's would give them memory.
        self.taken = mmap.mmap(-1, workers * PLACES)
        self.id = secrets.token_hex(8)  # of this gateway among several
        self.workers = workers
        # What a process alone counts, by name: a list is read in less than half of the time.
        self._own: dict[int, list[int]] = {}
        self.row = 0
        self.fd = os.memfd_create("gomodel-limits") if workers > 1 else -1

    def start(self, row: int) -> int:
        """Where a row begins."""
        return row * _ROW

    def account(self, name: str) -> Account:
        """The account of a name."""
        key = _hash(name)
        if self.workers == 1:
            return Account(self, key, 0, self._own.setdefault(key, [0] * _PLACE))
        start, cells = self.start(self.row), self.cells
        for probe in range(_PROBES):
            at = start + ((key + probe) & _MASK) * _PLACE
            if cells[at] in (0, key):
                cells[at] = key
                self.taken[at // _PLACE] = 1
                return Account(self, key, at)
        return HostUsage().account(name)

    def lease(self, name: str) -> Lease:
        """The lease of a name."""
        key = _hash(name)
        return Lease(self.cells, key, partial(self.find, self.start(self.workers), key))

    def find(self, place: int, key: int) -> int:
        """Where the row that `place` is in has this name; where it has not, a place in it of no or another name."""
        start, cells = place - place % _ROW, self.cells
        for probe in range(_PROBES):
            place = start + ((key + probe) & _MASK) * _PLACE
            if cells[place] in (0, key):
                break
        return place

    def take(self, row: int) -> None:
        """In a new worker, before it counts anything: write to this row, in which its predecessor's minute goes on."""
        self.row = row

    def clear(self, row: int) -> None:
        """In the supervisor: the worker of this row is gone, and with it what ran there."""
        place = row * PLACES - 1
        while (place := self.taken.find(b"\1", place + 1, (row + 1) * PLACES)) >= 0:
            self.cells[place * _PLACE + RUNNING] = 0


# Of this process and those it was forked with.
shared = HostUsage()


def share(workers: int) -> HostUsage:
    """Before the fork: count for so many workers from now on."""
    global shared  # noqa: PLW0603 - there is one host
    shared = HostUsage(workers)
    return shared
