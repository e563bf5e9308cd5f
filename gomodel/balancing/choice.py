"""Where one request may go: the instances that could take it, the likeliest first, and which of them is let through.

Decides by their breakers alone. Knows nothing of how they were found or of the request.
"""

from time import monotonic

from ..errors import CircuitOpen
from ..upstream.breaker import Admission
from ..upstream.instance import Instance


class Choice:
    """Where a request may go: `instances` in order of preference, and whether the first segment is cut off."""

    __slots__ = ("bound", "instances", "model")

    def __init__(self, instances: list[Instance], model: str, *, bound: bool) -> None:
        self.instances = instances
        self.model = model
        self.bound = bound

    def admitted(self) -> tuple[Instance, Admission]:
        """The first instance that its breaker lets through, and its pass. Raises CircuitOpen."""
        now = monotonic()
        for instance in self.instances:
            admission = instance.breaker.admit(now)
            if admission is not None:
                return instance, admission
        wait_s = min(instance.breaker.retry_after_s(now) for instance in self.instances)
        names = ", ".join(f"'{instance.name}'" for instance in self.instances)
        raise CircuitOpen(
            f"Instance {names} failed repeatedly and is left alone for a moment.",
            code="circuit_open",
            retry_after_s=wait_s,
        )
