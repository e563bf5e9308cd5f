"""What a caller may use of its limits on this host for a few seconds, where several gateways share them.

Decides how a lease is written, so that every worker reads the same and one of them asks for the next; and how the
line (`fair_queue`) reads what a key may have, and says what it took. Knows nothing of who lends (`leases`), nor of the
rest of the mapping it stands in (`host_usage`).
"""

from collections.abc import Callable
from time import monotonic

# A place, in the row behind those of the workers, where any of them writes: whose it is, what is lent, the millisecond
# until which that holds, when it was last asked for, when it was last too small, how many gateways shared it, and when.
_KEY, _IN_FLIGHT, _REQUESTS, _TOKENS, _UNTIL, _ASKED, _SHORT, _GATEWAYS, _DIVIDED = range(9)
# What holds of the requests at once in place of a lease, and until when; those that have a slot, and that wait for one.
_INSTEAD, _INSTEAD_UNTIL, _RUNNING, _WAITING = range(9, 13)
_NOTHING = memoryview(bytes(13 * 8)).cast("q")


class Lease:
    """What a name may use of its limits on this host for a few seconds; all workers see the same. Times are ms."""

    __slots__ = ("_at", "_cells", "_find", "_key")

    def __init__(self, cells: memoryview, key: int, find: Callable[[], int]) -> None:
        """`find` says where in `cells` the place of this name is, or a free one."""
        self._cells = cells
        self._key = key
        self._find = find
        self._at = find()

    def _place(self) -> int:
        """Where it stands; another worker may have taken a free place at the same moment."""
        if self._cells[self._at] != self._key:
            self._at = self._find()
            if self._cells[self._at]:  # another name's, for want of room
                self._cells[self._at : self._at + len(_NOTHING)] = _NOTHING
            self._cells[self._at] = self._key
        return self._at

    def get(self, now: int) -> tuple[int, int, int] | None:
        """Requests at once, requests and tokens a minute; None when there is none that holds."""
        cells, at = self._cells, self._place()
        if cells[at + _UNTIL] <= now:
            return None
        return cells[at + _IN_FLIGHT], cells[at + _REQUESTS], cells[at + _TOKENS]

    def put(self, granted: tuple[int, int, int], since: int, until: int, gateways: int) -> None:
        """It was asked for at `since` and holds until then."""
        cells, at = self._cells, self._place()
        cells[at + _UNTIL] = 0
        cells[at + _IN_FLIGHT], cells[at + _REQUESTS], cells[at + _TOKENS] = granted
        cells[at + _GATEWAYS] = gateways
        cells[at + _DIVIDED] = since
        cells[at + _UNTIL] = until

    def put_instead(self, in_flight: int, until: int) -> None:
        """Nothing is lent, and so many requests at once may go until then all the same."""
        cells, at = self._cells, self._place()
        cells[at + _INSTEAD_UNTIL] = 0
        cells[at + _INSTEAD] = in_flight
        cells[at + _INSTEAD_UNTIL] = until

    def most(self) -> int:
        """How many requests may have a slot at this moment; none where nobody has said."""
        cells, at, now = self._cells, self._place(), monotonic() * 1000
        if cells[at + _UNTIL] > now:
            return cells[at + _IN_FLIGHT]
        return cells[at + _INSTEAD] if cells[at + _INSTEAD_UNTIL] > now else 0

    def take(self, running: int, waiting: int) -> None:
        """So many requests have a slot now, and so many wait for one."""
        cells, at = self._cells, self._place()
        cells[at + _RUNNING] = running
        cells[at + _WAITING] = waiting

    @property
    def running(self) -> int:
        """How many requests have a slot."""
        return self._cells[self._place() + _RUNNING]

    @property
    def waiting(self) -> int:
        """How many wait for one."""
        return self._cells[self._place() + _WAITING]

    def claim(self, now: int, after: int) -> bool:
        """Whether it is this worker's to ask for it, since nobody has done so for `after`."""
        at = self._place()
        if now - self._cells[at + _ASKED] < after:
            return False
        self._cells[at + _ASKED] = now
        return True

    def fell_short(self, now: int) -> None:
        """Somebody was refused who would not have been with the whole limit."""
        self._cells[self._place() + _SHORT] = now

    @property
    def short_at(self) -> int:
        """When it last fell short."""
        return self._cells[self._place() + _SHORT]

    @property
    def divided_at(self) -> int:
        """When the present one was asked for."""
        return self._cells[self._place() + _DIVIDED]

    @property
    def gateways(self) -> int:
        """How many gateways there were when it was granted; 1 while that is not known."""
        return max(1, self._cells[self._place() + _GATEWAYS])
