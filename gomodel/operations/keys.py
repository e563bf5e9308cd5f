"""GET /admin/keys: who has asked since the gateway started, what runs and was used of it, and what limits there are.

What runs is asked of the workers there are. What was counted is that of the metrics, so that it outlives a worker and a
release that was replaced.

Decides what operators see of a key: its name and what its entry says, never the key or its digest. Keys of the file
that nobody has presented are counted, not listed: there may be thousands. Knows nothing of the other workers.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from time import time
from typing import Any

from ..access.caller import Caller
from ..access.callers import Callers
from .metrics import Snapshot

_LIMITS = ("in_flight", "requests_per_minute", "tokens_per_minute")

# By name: how many of its requests have ended, and how many were refused by which limit.
Totals = Mapping[str, tuple[int, Mapping[str, int]]]


def totals(snapshots: Iterable[Snapshot]) -> Totals:
    """What was counted of each caller since the start, out of snapshots of the metrics that add up to all of it."""
    requests: defaultdict[str, int] = defaultdict(int)
    refused: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for each in snapshots:
        for (name, _), count in each.get("gomodel_key_requests_total", []):
            requests[name] += count
        for (name, limit), count in each.get("gomodel_key_refused_total", []):
            refused[name][limit] += count
    return {name: (requests[name], refused[name]) for name in {*requests, *refused}}


def counted(callers: Callers | None) -> dict[str, dict[str, Any]]:
    """What this process knows of each caller by its name; plain, so that it can travel between workers."""
    return {each.name: _counted(each) for each in (callers.met if callers is not None else ())}


def _counted(caller: Caller) -> dict[str, Any]:
    limits = caller.limits
    return {
        "running": caller.running,
        # Of the host, whichever worker says it.
        "used": dict(zip(_LIMITS, limits.used(), strict=True)) if limits is not None else {},
        "lent": dict(zip(_LIMITS, limits.lent() or (), strict=False)) if limits is not None else {},
    }


def listed(
    callers: Callers | None, answers: Iterable[dict[str, dict[str, Any]]], ever: Totals | None = None
) -> dict[str, Any]:
    """What runs by the answers of all workers, what was counted `ever`, and what the file says; JSON-serialisable."""
    if callers is None:
        return {"entries": 0, "keys": []}
    ever = {} if ever is None else ever
    found: dict[str, dict[str, Any]] = {}
    for answer in answers:
        for name, said in answer.items():
            known = found.setdefault(name, {"running": 0, "used": {}, "lent": {}})
            known["running"] += said["running"]
            for kind in ("used", "lent"):
                for what, count in said[kind].items():
                    known[kind][what] = max(count, known[kind].get(what, 0))
    for name in ever.keys() - found.keys():  # it has asked none of the workers there are; what it uses is the host's
        caller = callers.named(name)
        found[name] = {"running": 0, "used": {}, "lent": {}} if caller is None else _counted(caller)
    entries = {each.name: each for each in callers.entries()}
    keys = []
    for name in sorted(found):
        entry = entries.get(name)
        requests, refused = ever.get(name, (0, {}))
        limits = {what: limit for what in _LIMITS if (limit := getattr(entry, what, None)) is not None}
        keys.append(
            {
                "name": name,
                "state": "removed" if entry is None else "expired" if entry.expires_at <= time() else "active",
                "running": found[name]["running"],
                "requests": requests,
                "limits": limits,
                "used": {what: found[name]["used"].get(what, 0) for what in limits},
                "lent": {what: min(found[name]["lent"][what], limits[what]) for what in limits if found[name]["lent"]},
                "refused": dict(refused),
                "models": list(entry.models) if entry is not None else [],
                "priority": entry.priority if entry is not None else None,
            }
        )
    return {"entries": len(callers.keys.entries), "keys": keys}
