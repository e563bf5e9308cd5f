"""The requests that run now, and the one timer that ends those that are silent or run for too long.

Decides when a phase has been silent too long: one timer looks at all running requests, so that no request pays for a
timer of its own and no chunk for re-arming one. Knows nothing of HTTP.
"""

import asyncio
import itertools
import secrets
from collections.abc import Callable
from time import monotonic

from ..errors import TOTAL
from .record import Phase, Record

# A client may give several requests one id. So many that run at a time are taken for one that goes around by way of
# other gateways: each turn takes two connections here, and no field is added to a request that would show the second.
# More than one client honestly has under one id, and few enough for the descriptors and the memory of a worker.
SAME_ID = 512
# Counting them goes through all that run, so not every request with an id of its client's pays for it.
_COUNT_EVERY = 16


class _Limits:
    """Idle limit of each phase, limit of the whole request, and how often to look, in seconds."""

    def __init__(self, limits_s: dict[Phase, float], total_s: float | None) -> None:
        self.idle_s = [limits_s.get(phase, float("inf")) for phase in Phase]
        self.total_s = total_s or float("inf")
        # An eighth of the shortest limit keeps the overshoot under 13 %; a second is often enough for any of them.
        self.tick_s = min(1.0, max(0.01, min([*self.idle_s, self.total_s]) / 8))


class Running:
    """The requests that run now, and the one timer that ends what is overdue."""

    def __init__(self, *, on_lag: Callable[[float], None], on_rest: Callable[[], None] | None = None) -> None:
        """`on_lag` is told, about once a second, how many seconds late the event loop was; `on_rest`, as often, that
        nothing runs."""
        self.records: set[Record] = set()
        # Unique across processes and restarts without asking the kernel for randomness on every request.
        self._mark = f"{secrets.token_hex(6)}-"
        self._numbers = itertools.count(1)
        self._given = 0  # requests that were looked at and have an id of their client's
        self._on_lag, self._on_rest = on_lag, on_rest
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = 0.0
        self._limits = _Limits({}, None)
        self._earlier: dict[Record, _Limits] = {}  # of requests that began before the limits changed

    def new_id(self) -> str:
        """An id for a request that came without one."""
        return f"{self._mark}{next(self._numbers):x}"

    def came_back(self, record: Record) -> bool:
        """Whether a request is one that runs here already and was sent on, by an id that `new_id` gave it."""
        return record.id.startswith(self._mark) and any(
            each.id == record.id and each is not record for each in self.records
        )

    def goes_around(self, record: Record) -> bool:
        """Whether over SAME_ID requests with this one's id run: found out within _COUNT_EVERY more of them."""
        self._given += 1
        return (
            len(self.records) > SAME_ID
            and self._given % _COUNT_EVERY == 0
            and sum(each.id == record.id for each in self.records) > SAME_ID
        )

    def limit(self, limits_s: dict[Phase, float], total_s: float | None) -> None:
        """Limits of the requests that begin from now on: `limits_s` of each phase that has one, `total_s` of all."""
        for record in self.records:
            self._earlier.setdefault(record, self._limits)
        self._limits = _Limits(limits_s, total_s)
        if self._loop is not None:
            self.stop()
            self.start(self._loop)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the timer."""
        self._loop = loop
        self._due = loop.time() + self._limits.tick_s
        self._handle = loop.call_at(self._due, self._tick, loop)

    def stop(self) -> None:
        """Stop the timer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        turn = loop.time()
        self._on_lag(max(0.0, turn - self._due))
        now = monotonic()
        tick_s = self._limits.tick_s
        if self._earlier:
            self._earlier = {record: limits for record, limits in self._earlier.items() if record in self.records}
            tick_s = min(tick_s, *(limits.tick_s for limits in self._earlier.values()), 1.0)
        for record in tuple(self.records):
            limits = self._earlier.get(record, self._limits) if self._earlier else self._limits
            if now - record.started > limits.total_s:
                record.abort(TOTAL)  # the gateway's own limit, which is nobody's failure in any phase
            elif now - record.since > limits.idle_s[record.phase]:
                owner, record.owner = record.owner, None
                if owner is not None:
                    owner.overdue(record.phase)
        if self._on_rest is not None and not self.records:
            self._on_rest()
        self._due = turn + tick_s
        self._handle = loop.call_at(self._due, self._tick, loop)
