"""Where one request may go: the replicas that could take it, the likeliest first, and which of them is let through.

Decides by their breakers alone. Knows nothing of how they were found or of the request.
"""

from time import monotonic

from ..errors import CircuitOpen
from ..upstream.breaker import Admission
from ..upstream.replica import Replica


class Choice:
    """Where a request may go: `candidates` in order of preference, and whether the first segment is cut off."""

    __slots__ = ("bound", "candidates", "model")

    def __init__(self, candidates: list[Replica], model: str, *, bound: bool) -> None:
        self.candidates = candidates
        self.model = model
        self.bound = bound

    def admitted(self) -> tuple[Replica, Admission]:
        """The first replica that its breaker lets through, and its pass. Raises CircuitOpen."""
        now = monotonic()
        for replica in self.candidates:
            admission = replica.breaker.admit(now)
            if admission is not None:
                return replica, admission
        wait_s = min(replica.breaker.retry_after_s(now) for replica in self.candidates)
        names = ", ".join(dict.fromkeys(f"'{replica.name}'" for replica in self.candidates))
        raise CircuitOpen(
            f"Instance {names} failed repeatedly and is left alone for a moment.",
            code="circuit_open",
            retry_after_s=wait_s,
        )


def ordered(replicas: list[Replica]) -> list[Replica]:
    """The replicas in the order in which a request should try them; a list of the request's own."""
    if len(replicas) == 1:
        return replicas.copy()
    now = monotonic()
    return sorted(replicas, key=lambda each: each.rank(now))
