"""What is known of one request while it runs, and the table of those that run now.

Decides nothing but when a phase has been silent too long: one timer looks at all running requests, so that no
request pays for a timer of its own and no chunk for re-arming one. Knows nothing of HTTP.
"""

import asyncio
import enum
from collections.abc import Callable
from time import monotonic
from typing import Protocol


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
        self.aborted = False  # cancelled on purpose, by `abort`

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
            self.aborted = True
            self.task.cancel()


# Why a request was aborted that HTTP_TIMEOUT ended in a phase which nobody owns.
TOTAL = "total_timeout"


class Running:
    """The requests that run now, and the one timer that ends what is overdue."""

    def __init__(self, *, on_lag: Callable[[float], None]) -> None:
        """`on_lag` is told, about once a second, how many seconds late the event loop was."""
        self.records: set[Record] = set()
        self._on_lag = on_lag
        self._handle: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.limit({}, None)

    def limit(self, limits_s: dict[Phase, float], total_s: float | None) -> None:
        """`limits_s`: idle limit of each phase that has one; `total_s`: limit of the whole request, or None."""
        self._limits = [limits_s.get(phase, float("inf")) for phase in Phase]
        self._total = total_s or float("inf")
        shortest = min([*self._limits, self._total])
        # An eighth of the shortest limit keeps the overshoot under 13 %; a second is often enough for any of them.
        self._tick_s = min(1.0, max(0.01, shortest / 8))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the timer."""
        self._due = loop.time() + self._tick_s
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
        limits, total = self._limits, self._total
        for record in tuple(self.records):
            late = now - record.started > total
            if late or now - record.since > limits[record.phase]:
                owner, record.owner = record.owner, None
                if late and (owner is None or record.phase is Phase.WRITE):
                    record.abort(TOTAL)
                elif owner is not None:
                    owner.overdue(record.phase)
        self._due = turn + self._tick_s
        self._handle = loop.call_at(self._due, self._tick, loop)
