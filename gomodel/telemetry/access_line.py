"""The access line: what one log line says of a request that ended, and at which level.

Decides who has to act on it. No key (but its name), query string or body reaches a line. How a line looks is decided
in `logs`.
"""

import logging
from time import monotonic, time

from ..routes.targets import shown_path
from . import failures
from .record import PHASE_WORDS, Record

access = logging.getLogger("gomodel.access")

# A model's name may be as long as a request body, and a path as a request line.
_SHOWN_CHARS = 200

# What only the operator of the gateway can mend: a bug in it, and descriptors or disk that it lacks.
_OURS = frozenset({"internal_error", "connection_limit", "spool_full"})
# Said of every newcomer in a crowd: one line in this time says it, and how many were not written since the last.
CROWD = "connection_limit"
_CROWD_S = 1.0
# A client that speaks another version of HTTP is no failure of the server's, whatever the number says.
_VERSION_NOT_SUPPORTED = 505
# A WebSocket: nobody knows whom it waits for.
_SWITCHING = 101

_LINES = {
    level: vars(
        logging.makeLogRecord(
            {"name": access.name, "levelno": level, "levelname": logging.getLevelName(level), "fields": None}
        )
    )
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR)
}


class Crowd:
    """Which lines about CROWD are written."""

    def __init__(self) -> None:
        self._said_at = float("-inf")
        self._suppressed = 0

    def next(self, now: float) -> int | None:
        """How many lines the next one stands for besides itself; None when it is not to be written."""
        if now - self._said_at < _CROWD_S:
            self._suppressed += 1
            return None
        self._said_at = now
        suppressed, self._suppressed = self._suppressed, 0
        return suppressed


_crowd = Crowd()


def write(record: Record, seconds: float, *, polled: bool) -> None:
    """The line of a request that took `seconds`, where anybody wants it; `polled` as `Route.polled`."""
    level, suppressed = logging.INFO, 0
    if record.ended_by or record.status >= 400 or polled:
        level = severity(record, polled=polled)
        if record.reason == CROWD:
            more = _crowd.next(monotonic())
            if more is None:
                return
            suppressed = more
    if level >= logging.WARNING:
        failures.note(fields(record, seconds))
    if access.isEnabledFor(level):
        # What Logger.info does besides, looking for its caller above all, costs as much as relaying a request.
        line = logging.LogRecord.__new__(logging.LogRecord)
        line.__dict__ = values = _LINES[level].copy()
        values["created"] = time()
        values["fields"] = said = fields(record, seconds)
        if suppressed:
            said["suppressed"] = suppressed
        access.handle(line)


def severity(record: Record, *, polled: bool) -> int:
    """The level of a request's access line; contract section 8.

    ERROR for a failure that the gateway's operator has to mend; WARNING for one by an instance or by the gateway; INFO
    for all that went well or was the client's own doing; DEBUG for what monitors and the status page ask for again and
    again (`polled`), not ready included, which is an answer there.
    """
    if record.reason in _OURS:
        return logging.ERROR
    if record.ended_by == "client":
        return logging.INFO
    if polled and (record.status < 400 or (record.status == 503 and not record.reason)):
        return logging.DEBUG
    if record.ended_by or (record.status >= 500 and record.status != _VERSION_NOT_SUPPORTED):
        return logging.WARNING
    return logging.INFO


def fields(record: Record, seconds: float) -> dict[str, object]:
    """What the access line says of a request that took `seconds`; contract section 8."""
    first_byte, model = record.first_byte, record.model
    found: dict[str, object] = {
        "request_id": record.id,
        "client": record.client,
        "method": record.method,
        "route": record.route,
        "instance": record.instance,
        "model": model if len(model) <= _SHOWN_CHARS else shown(model),
        "status": record.status,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        # `int` as below in place of `round`, which takes six times as long.
        "first_byte_ms": int((first_byte - record.started) * 10000 + 0.5) / 10 if first_byte else None,
        "duration_ms": int(seconds * 10000 + 0.5) / 10,
    }
    if record.status != _SWITCHING:
        gateway_s, client_s = record.gateway_s, record.client_s
        found["engine_ms"] = int((seconds - gateway_s - client_s) * 10000 + 0.5) / 10
        found["gateway_ms"] = int(gateway_s * 10000 + 0.5) / 10
        found["client_ms"] = int(client_s * 10000 + 0.5) / 10
    if record.queued_s:
        found["queue_ms"] = int(record.queued_s * 10000 + 0.5) / 10
    if record.caller is not None:
        found["key"] = record.caller.name
    if record.replica:
        found["replica"] = record.replica
    if path := path_of(record):
        found["path"] = path
    if record.ended_by:
        found["ended_by"] = record.ended_by
        found["phase"] = PHASE_WORDS[record.phase]
    if record.reason:
        found["reason"] = record.reason
    if record.affinity:
        found["affinity"] = record.affinity
    if record.digest:
        found["digest"] = record.digest
    if record.batch:
        found["batch"] = record.batch
    if record.retries:
        found["retries"] = record.retries
    if record.trace:
        found["traceparent"] = shown(record.trace)
    return found


def path_of(record: Record) -> str:
    """The path that the client asked for, where the route's template does not say it; `shown_path` bounds it."""
    route = record.route
    return shown_path(record.target, _SHOWN_CHARS) if route.endswith("*") or route == "unknown" else ""


def shown(text: str) -> str:
    """What a client sent, at a length that a log line or a listing can bear."""
    return text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
