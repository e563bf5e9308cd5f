"""GET /admin/keys: who has asked since the gateway started, what runs and was used of it, and what limits there are.

`requests` are those of the workers there are, so that it falls with one that dies; the metrics keep what it counted.

Decides what operators see of a key: its name and what its entry says, never the key or its digest. Keys of the file
that nobody has presented are counted, not listed: there may be thousands. Knows nothing of the other workers.
"""

from collections.abc import Iterable
from time import time
from typing import Any

from ..access.caller import Caller
from ..access.callers import Callers

_LIMITS = ("in_flight", "requests_per_minute", "tokens_per_minute")


def counted(callers: Callers | None) -> dict[str, dict[str, Any]]:
    """What this process knows of each caller by its name; plain, so that it can travel between workers."""
    return {each.name: _counted(each) for each in (callers.met if callers is not None else ())}


def _counted(caller: Caller) -> dict[str, Any]:
    limits = caller.limits
    return {
        "running": caller.running,
        "requests": sum(caller.ended.values()),
        "refused": dict(limits.refused) if limits is not None else {},
        # Of the host, whichever worker says it.
        "used": dict(zip(_LIMITS, limits.used(), strict=True)) if limits is not None else {},
        "lent": dict(zip(_LIMITS, limits.lent() or (), strict=False)) if limits is not None else {},
    }


def listed(callers: Callers | None, answers: Iterable[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """What all workers have counted, and what the file says now; JSON-serialisable."""
    if callers is None:
        return {"entries": 0, "keys": []}
    found: dict[str, dict[str, Any]] = {}
    for answer in answers:
        for name, said in answer.items():
            known = found.setdefault(name, {"running": 0, "requests": 0, "refused": {}, "used": {}, "lent": {}})
            known["running"] += said["running"]
            known["requests"] += said["requests"]
            for what, count in said["refused"].items():
                known["refused"][what] = known["refused"].get(what, 0) + count
            for kind in ("used", "lent"):
                for what, count in said[kind].items():
                    known[kind][what] = max(count, known[kind].get(what, 0))
    entries = {each.name: each for each in callers.entries()}
    keys = []
    for name in sorted(found):
        entry = entries.get(name)
        limits = {what: limit for what in _LIMITS if (limit := getattr(entry, what, None)) is not None}
        keys.append(
            {
                "name": name,
                "state": "removed" if entry is None else "expired" if entry.expires_at <= time() else "active",
                "running": found[name]["running"],
                "requests": found[name]["requests"],
                "limits": limits,
                "used": {what: found[name]["used"].get(what, 0) for what in limits},
                "lent": {what: min(found[name]["lent"][what], limits[what]) for what in limits if found[name]["lent"]},
                "refused": found[name]["refused"],
                "models": list(entry.models) if entry is not None else [],
                "priority": entry.priority if entry is not None else None,
            }
        )
    return {"entries": len(callers.keys.entries), "keys": keys}
