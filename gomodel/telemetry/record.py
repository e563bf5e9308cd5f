"""What is known of one request while it runs: where it stands since when, whom it waited for, who ended it and why.

Decides whom a request waits for in which phase (contract section 11), and says whose fault an early end was by the
first word on it. Knows nothing of HTTP.
"""

import asyncio
import enum
from typing import Protocol

from .usage import Usage


class Phase(enum.IntEnum):
    """Where a request stands; each phase has its own idle limit (contract section 1)."""

    REQUEST = 0  # reading the request body
    QUEUE = 1  # choosing an instance, waiting to retry
    CONNECT = 2  # opening a connection; bounded by the connect timeout itself
    HEAD = 3  # waiting for the response head
    DATA = 4  # between two pieces of the response body
    WRITE = 5  # the client does not read
    DONE = 6


# By names of their own: to look a member up in its class takes CPython 3.11 ten times as long.
REQUEST, HEAD, DATA = Phase.REQUEST, Phase.HEAD, Phase.DATA
PHASE_WORDS = tuple(phase.name.lower() for phase in Phase)  # by phase, for logs, metrics and listings


# Whom a request waits for. What is left of its time is the engine's, so that no event of an answer is timed for it.
GATEWAY, ENGINE, CLIENT = "gateway", "engine", "client"
_WAITS_FOR = (  # by phase
    CLIENT,  # REQUEST
    GATEWAY,  # QUEUE: the line is the gateway's, and so is the pause before another attempt
    ENGINE,  # CONNECT: its host has to accept
    ENGINE,  # HEAD
    ENGINE,  # DATA
    CLIENT,  # WRITE
    GATEWAY,  # DONE
)


class Watched(Protocol):
    """Whoever owns the current phase and can end it."""

    def overdue(self, phase: Phase) -> None: ...


class Asking(Protocol):
    """Whoever asks, where callers are told apart."""

    running: int

    @property
    def name(self) -> str: ...
    def leave(self, record: "Record", now: float) -> None: ...


class Place(Protocol):
    """A place in the line, then a slot (`access.slots`)."""

    name: int
    replica: str | None
    waiting: bool

    def leave(self) -> None: ...


class Progress:
    """What each piece of an answer changes; first in a record, so that it lies in one line of the caches."""

    __slots__ = ("bytes_out", "events", "since")


class Record(Progress):
    """One request: what the access line, the metrics and the list of running requests say of it."""

    __slots__ = (
        "aborted",
        "affinity",
        "batch",
        "bytes_in",
        "caller",
        "cancel_s",
        "client",
        "client_s",
        "digest",
        "ended_by",
        "first_byte",
        "gateway_s",
        "id",
        "instance",
        "method",
        "model",
        "named_by",
        "owner",
        "phase",
        "place",
        "queued_s",
        "reason",
        "replica",
        "retries",
        "route",
        "started",
        "status",
        "streamed",
        "target",
        "task",
        "trace",
        "tried",
        "usage",
        "waits_for",
        "waits_since",
    )

    def __init__(
        self,
        method: str,
        client: str,
        now: float,
        id: str = "",
        route: str = "unknown",
        target: str = "",
        task: "asyncio.Task[None] | None" = None,
    ) -> None:
        """`client` is the peer's address; `now`, and every time here, is time.monotonic in seconds
        (uvloop's own clock stands still within a turn and counts whole milliseconds).

        `route` is its template. `target` is as the client sent it, query included: never to be shown as it is. `task`
        serves it; cancelling it ends the request in any phase.
        """
        self.id = id
        self.method = method
        self.client = client
        self.caller: Asking | None = None
        self.started = self.since = self.waits_since = now
        self.waits_for = GATEWAY  # until it asks for more of the request's body
        self.gateway_s = 0.0  # that it has waited for the gateway, and for the client, when it does no more
        self.client_s = 0.0
        self.first_byte = 0.0
        self.phase = REQUEST
        self.owner: Watched | None = None
        self.route = route
        self.target = target
        self.instance = ""
        self.replica = ""  # its address, where the instance has several
        self.model = ""
        self.named_by = ""  # what named its conversation: "header", "body" ...; only where servers were chosen from
        self.affinity = ""  # where it was served, seen from its conversation's home
        self.status = 0
        self.digest = ""  # sums of its bodies as they came, where they were summed
        self.batch = ""  # whose line it is
        self.streamed = False  # the answer is a stream of events
        self.bytes_in = 0
        self.bytes_out = 0
        self.events = 0  # of a streamed answer, so far
        self.tried = False  # an attempt was made at an instance
        self.retries = 0
        self.usage: Usage | None = None  # what the answer said it took
        self.place: Place | None = None  # in the line before the replicas, or in one of their slots
        self.queued_s = 0.0  # that it has waited in the line, when it does no more
        self.ended_by = ""  # "client", "upstream" or "gomodel" when it did not end by itself
        self.reason = ""
        self.cancel_s: float | None = None  # from the client's leaving to the close of the instance's connection
        self.trace = ""
        self.task = task
        self.aborted = ""  # why it was cancelled on purpose, by `abort`

    def enter(self, phase: Phase, now: float, owner: Watched | None) -> None:
        """Start a phase; `owner` is told when it is overdue."""
        self.phase = phase
        self.since = now
        self.owner = owner
        # As `wait_for`, without a call.
        if self.waits_for is GATEWAY:
            self.gateway_s += now - self.waits_since
        elif self.waits_for is CLIENT:
            self.client_s += now - self.waits_since
        self.waits_for = _WAITS_FOR[phase]
        self.waits_since = now

    def wait_for(self, whom: str, now: float) -> None:
        """From now on it waits for GATEWAY, ENGINE or CLIENT."""
        before = self.waits_for
        if before is GATEWAY:
            self.gateway_s += now - self.waits_since
        elif before is CLIENT:
            self.client_s += now - self.waits_since
        self.waits_for = whom
        self.waits_since = now

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
