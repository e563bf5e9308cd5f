"""What a caller may use of its limits on this host for a few seconds, where several gateways share them.

Decides how a lease is written, so that every worker reads the same and one of them asks for the next. Knows nothing of
who lends (`leases`), nor of the rest of the mapping it stands in (`host_usage`).
"""

from collections.abc import Callable

# A place, in the row behind those of the workers, where any of them writes: whose it is, what is lent, the millisecond
# until which that holds, when it was last asked for, when it was last too small, how many gateways shared it, and when.
_KEY, _IN_FLIGHT, _REQUESTS, _TOKENS, _UNTIL, _ASKED, _SHORT, _GATEWAYS, _DIVIDED = range(9)
_NOTHING = memoryview(bytes(9 * 8)).cast("q")


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
