"""GET /admin/requests: what runs now. DELETE /admin/requests/{id}: end it.

Decides what operators see of a running request and which requests an id means. Knows nothing of how a request is
ended, which is `Record.abort`, nor of the other workers.
"""

from collections.abc import Iterable
from typing import Any

from ..telemetry.access_line import path_of, shown
from ..telemetry.record import PHASE_WORDS, Record

ABORTED = "aborted_by_operator"


def listed(records: Iterable[Record], now: float, asked_by: Record | None = None) -> list[dict[str, Any]]:
    """The running requests, without the one that asks, oldest first; `now` is time.monotonic. JSON-serialisable."""
    running = sorted((each for each in records if each is not asked_by), key=lambda each: each.started)
    return [_entry(record, now) for record in running]


def merged(lists: Iterable[list[dict[str, Any]]], order: Iterable[int] = ()) -> list[dict[str, Any]]:
    """The lists of all workers as one, oldest first; `order` are the names of the places in line, the first one first.

    The name of a place becomes its number: the first in line is 1.
    """
    numbers = {name: number for number, name in enumerate(order, 1)}
    entries = [{**entry, "place": numbers.get(entry["place"])} for each in lists for entry in each]
    return sorted(entries, key=lambda entry: -float(entry["age_s"]))


def abort(records: Iterable[Record], request_id: str, asked_by: Record | None = None) -> int:
    """End every request with this id now; how many there were.

    A client may send one id with many requests, and all of them are meant; never the request that asks, which may
    carry it too.
    """
    found = [each for each in records if each.id == request_id and each is not asked_by and not each.aborted]
    for record in found:
        record.abort(ABORTED)
    return len(found)


def _entry(record: Record, now: float) -> dict[str, Any]:
    first_byte, place = record.first_byte, record.place
    return {
        "id": record.id,
        "instance": record.instance or None,
        "replica": record.replica or None,
        "model": shown(record.model) or None,
        "route": record.route,
        "path": path_of(record) or None,
        "method": record.method,
        "client": record.client,
        "key": record.caller.name if record.caller is not None else None,
        "phase": PHASE_WORDS[record.phase],
        "phase_s": round(now - record.since, 3),
        "place": place.name if place is not None and place.waiting else None,
        "queued_s": round(record.queued_s + (now - record.since if place is not None and place.waiting else 0), 3),
        "age_s": round(now - record.started, 3),
        "time_to_first_byte_s": round(first_byte - record.started, 3) if first_byte else None,
        "bytes_in": record.bytes_in,
        "bytes_out": record.bytes_out,
        "retries": record.retries,
    }
