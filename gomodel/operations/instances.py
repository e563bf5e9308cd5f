"""GET /admin/instances: every replica by its address, and what this process knows of it.

Decides what operators see of a replica; clients see the instance's name only. Knows nothing of the other workers, whose
probes find the same.
"""

from collections.abc import Iterable
from time import monotonic
from typing import Any

from ..balancing.instance import Instance
from ..upstream.replica import Replica
from .readiness import last_failure, standing


def listed(instances: Iterable[Instance], *, asking: bool) -> list[dict[str, Any]]:
    """Instances and their replicas, in order; `asking` as in `readiness.report`. JSON-serialisable."""
    now = monotonic()
    return [
        {
            "name": instance.name,
            "replicas": [_entry(replica, now, asking=asking) for replica in instance.replicas],
        }
        for instance in instances
    ]


def _entry(replica: Replica, now: float, *, asking: bool) -> dict[str, Any]:
    _, state, since = standing(replica, now, asking=asking)
    failed_at, error = last_failure(replica)
    return {
        "replica": replica.address,
        "state": state,
        "for_s": round(now - since, 1),
        "differs": list(replica.differs),
        "kept_back": replica.kept_back,
        "last_error": error or None,
        "last_error_age_s": round(now - failed_at, 1) if error else None,
        "in_flight": replica.in_flight,
        "models": len(replica.models),
    }
