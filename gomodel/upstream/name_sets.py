"""Names of which every address is a server: what addresses each has, by its last good answer however old.

Decides what an answer changes: the set is what the name has now (level-triggered), and an answer that is empty or an
error, or none at all, leaves it as it was. Knows nothing of when it is asked, or of what becomes of the servers
(`balancing.discovery`).
"""

import asyncio
import ipaddress
import logging
from time import monotonic

from .resolver import Address, LookUps

_logger = logging.getLogger("gomodel")

# An answer that takes longer is in doubt; it counts whenever it comes.
PATIENCE_S = 5.0


class NameSet:
    """The addresses of one name, as numbers in their order."""

    def __init__(self, host: str, look_ups: LookUps) -> None:
        self.host = host
        self.addresses: tuple[str, ...] = ()
        self.answered_at: float | None = None  # by time.monotonic, with at least one address
        self._since = monotonic()
        self._look_ups = look_ups
        self._failing = False

    async def ask(self) -> None:
        """Look the name up; returns when that has ended, however long it takes."""
        look_up = self._look_ups.ask(self.host)
        ended, _ = await asyncio.wait({look_up}, timeout=PATIENCE_S)
        if not ended:
            self._doubt("does not answer")
            await asyncio.wait({look_up})
        if look_up.exception() is not None:
            self._doubt("gives no answer")
        elif not look_up.result():
            self._doubt("names no address")
        else:
            self._learn(look_up.result())

    def age_s(self, now: float) -> float:
        """Since it was answered with addresses, or since it is known while it never was."""
        return now - (self._since if self.answered_at is None else self.answered_at)

    def _learn(self, found: tuple[Address, ...]) -> None:
        self.answered_at = monotonic()
        self.addresses = tuple(sorted({number for _, number in found}, key=_order))
        if self._failing:
            self._failing = False
            _logger.info("The name %s can be looked up again", self.host)

    def _doubt(self, why: str) -> None:
        """Once per outage: it is asked again and again."""
        if not self._failing:
            self._failing = True
            kept = len(self.addresses)
            _logger.warning("The name server %s for %s: its %d servers stay in use", why, self.host, kept)


class NameSets:
    """The sets of one process; they outlive a reload."""

    def __init__(self, look_ups: LookUps) -> None:
        self._look_ups = look_ups
        self._sets: dict[str, NameSet] = {}

    def of(self, host: str) -> NameSet:
        """The set of a name; the same one each time."""
        return self._sets.setdefault(host, NameSet(host, self._look_ups))


def _order(number: str) -> tuple[int, bytes, str]:
    address = ipaddress.ip_address(number)
    return address.version, address.packed, number
