"""Which replicas an operator has taken out of rotation: they get no requests until he puts them back.

Decides what draining and resuming an instance, or one replica of it, leave out. What is said holds for the whole
gateway until it ends: it outlives reloads, workers tell each other (`operations`), one that starts later has it from
the supervisor, whose copy it is forked with, and a release that takes over from the one before. Knows nothing of
requests.
"""

from collections.abc import Collection, Iterable

# In place of an address: all of an instance, also those that come later.
ALL = "*"


class Rotation:
    """By instance, the addresses that are out."""

    def __init__(self) -> None:
        self._out: dict[str, frozenset[str]] = {}

    def is_out(self, instance: str, address: str) -> bool:
        """Whether this replica is out."""
        out = self._out.get(instance)
        return out is not None and (ALL in out or address in out)

    def names(self, instance: str, address: str) -> bool:
        """Whether this address is out by itself, and not with all of the instance."""
        return address in self._out.get(instance, ())

    def put(self, instance: str, out: Iterable[str]) -> None:
        """These are out from now on, and no others of the instance."""
        self._out[instance] = frozenset(out)
        if not self._out[instance]:
            del self._out[instance]

    def drained(self, instance: str, address: str | None) -> frozenset[str]:
        """What is out once this replica is too, or all of the instance."""
        out = self._out.get(instance, frozenset())
        return frozenset({ALL}) if address is None or ALL in out else out | {address}

    def resumed(self, instance: str, address: str | None, known: Collection[str]) -> frozenset[str]:
        """What is out once this replica is no more, or none of the instance; `known` are all there are."""
        out = self._out.get(instance, frozenset())
        if address is None:
            return frozenset()
        return (frozenset(known) if ALL in out else out) - {address}

    def all(self) -> dict[str, list[str]]:
        """By instance, what is out."""
        return {instance: sorted(out) for instance, out in self._out.items()}

    def clear(self) -> None:
        """Nothing is out."""
        self._out.clear()


# Of this process, and of those that are forked from it later.
shared = Rotation()
