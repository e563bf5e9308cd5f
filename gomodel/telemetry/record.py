"""What is known of one request while it runs, and the table of those that run now.

Decides nothing but when a phase has been silent too long: one timer looks at all running requests, so that no
request pays for a timer of its own and no chunk for re-arming one. Knows nothing of HTTP.
"""

import asyncio
import enum
import itertools
import secrets
from collections.abc import Callable
from time import monotonic
from typing import Protocol

from ..errors import TOTAL


class Phase(enum.IntEnum):
    """Where a request stands; each phase has its own idle limit (contract section 1)."""

    REQUEST = 0  # reading the request body
    QUEUE = 1  # choosing an instance, waiting to retry
    CONNECT = 2  # opening a connection; bounded by the connect timeout itself
    HEAD = 3  # waiting for the response head
    DATA = 4  # between two pieces of the response body
    WRITE = 5  # the client does not read
    DONE = 6


PHASE_WORDS = tuple(phase.name.lower() for phase in Phase)  # by phase, for logs, metrics and listings


class Watched(Protocol):
    """Whoever owns the current phase and can end it."""

    def overdue(self, phase: Phase) -> None: ...


class Record:
    """One request: what the access line, the metrics and the list of running requests say of it."""

    __slots__ = (
        "aborted",
        "bytes_in",
        "bytes_out",
        "client",
        "ended_by",
        "first_byte",
        "id",
        "instance",
        "method",
        "model",
        "owner",
        "phase",
        "reason",
        "retries",
        "route",
        "since",
        "started",
        "status",
        "streamed",
        "target",
        "task",
        "trace",
    )

    def __init__(self, method: str, client: str, now: float) -> None:
        """`client` is the peer's address; `now`, and every time here, is time.monotonic in seconds
        (uvloop's own clock stands still within a turn and counts whole milliseconds)."""
        self.id = ""
        self.method = method
        self.client = client
        self.started = self.since = now
        self.first_byte = 0.0
        self.phase = Phase.REQUEST
        self.owner: Watched | None = None
        self.route = "unknown"
        self.target = ""  # as the client sent it, query included: never to be shown as it is
        self.instance = ""
        self.model = ""
        self.status = 0
        self.streamed = False  # the answer is a stream of events
        self.bytes_in = 0
        self.bytes_out = 0
        self.retries = 0
        self.ended_by = ""  # "client", "upstream" or "gomodel" when it did not end by itself
        self.reason = ""
        self.trace = ""
        self.task: asyncio.Task[None] | None = None  # that serves it; cancelling it ends it in any phase
        self.aborted = ""  # why it was cancelled on purpose, by `abort`

    def enter(self, phase: Phase, now: float, owner: Watched | None) -> None:
        """Start a phase; `owner` is told when it is overdue."""
        self.phase = phase
        self.since = now
        self.owner = owner

    def blame(self, who: str, reason: str) -> None:
        """Say who ended the request early; the first word stands."""
        if not self.ended_by:
            self.ended_by = who
            self.reason = reason

    def abort(self, reason: str) -> None:
        """End the request now, whatever phase it is in; gomodel takes the blame."""
        self.blame("gomodel", reason)
        if self.task is not None and not self.aborted:
            self.aborted = reason
            self.task.cancel()


class _Limits:
    """Idle limit of each phase, limit of the whole request, and how often to look, in seconds."""

    def __init__(self, limits_s: dict[Phase, float], total_s: float | None) -> None:
        self.idle_s = [limits_s.get(phase, float("inf")) for phase in Phase]
        self.total_s = total_s or float("inf")
        # An eighth of the shortest limit keeps the overshoot under 13 %; a second is often enough for any of them.
        self.tick_s = min(1.0, max(0.01, min([*self.idle_s, self.total_s]) / 8))


class Running:
    """The requests that run now, and the one timer that ends what is overdue."""

    def __init__(self, *, on_lag: Callable[[float], None]) -> None:
        """`on_lag` is told, about once a second, how many seconds late the event loop was."""
        self.records: set[Record] = set()
        # Unique across processes and restarts without asking the kernel for randomness on every request.
        self._mark = f"{secrets.token_hex(6)}-"
        self._numbers = itertools.count(1)
        self._on_lag = on_lag
        self._handle: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._due = 0.0
        self._limits = _Limits({}, None)
        self._earlier: dict[Record, _Limits] = {}  # of requests that began before the limits changed

    def new_id(self) -> str:
        """An id for a request that came without one."""
        return f"{self._mark}{next(self._numbers):x}"

    def came_back(self, record: Record) -> bool:
        """Whether a request is one that runs here already and was sent on, by an id that `new_id` gave it.

        An id of the client's own tells nothing, since a client may send one with many requests.
        """
        return record.id.startswith(self._mark) and any(
            each.id == record.id and each is not record for each in self.records
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
        self._due = turn + tick_s
        self._handle = loop.call_at(self._due, self._tick, loop)
