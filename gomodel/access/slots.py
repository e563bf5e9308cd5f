"""The slots of limited replicas as one process sees them: taken at once, waited for, and given back.

Decides how a request waits for what `fair_queue` decides: by this process itself where it is the only one, else by the
supervisor of all workers, so that a limit holds for the host. A slot is given back when its request is over, whatever
ended it; those of a worker that died are given back by the supervisor.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from ..errors import Overloaded
from . import host_usage
from .fair_queue import FairQueue, Refused, Replicas, Ticket

Ask = Callable[..., None]


class Place:
    """One request's place: in the line until it has a slot or is refused, then its slot until `leave`."""

    __slots__ = ("_future", "_slots", "_ticket", "name", "refused", "replica", "waiting")

    def __init__(self, slots: "Slots", name: int, ticket: Ticket) -> None:
        self._slots = slots
        self._ticket = ticket
        self._future: asyncio.Future[None] | None = None
        self.name = name  # no other place on this host has it
        self.replica: str | None = None  # whose slot it is
        self.refused: Refused | None = None
        self.waiting = False

    async def turn(self) -> None:
        """Return once it has a slot or is refused."""
        self._future = asyncio.get_running_loop().create_future()
        await self._future

    def settle(self, replica: str | None, refused: Refused | None) -> None:
        """It has a slot, or is refused."""
        self.waiting = False
        self.replica, self.refused = replica, refused
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    def fail(self, error: Exception) -> None:
        """Nobody decides any more."""
        self.waiting = False
        if self._future is not None and not self._future.done():
            self._future.set_exception(error)

    def leave(self) -> None:
        """Give it back; once is enough."""
        self._slots.leave(self)


class Slots:
    """The places of this process's requests."""

    def __init__(self, limit: int = 0) -> None:
        """`limit`: how many requests may wait on this host."""
        self._queue = FairQueue(limit, host_usage.shared.lease)
        self._ask: Ask | None = None  # the supervisor, where there is one
        self._lost = False
        self._places: dict[int, Place] = {}
        self._names = count(os.getpid() << 32)

    def limit(self, waiting: int) -> None:
        """So many may wait from now on; where there is a supervisor it knows by itself."""
        self._queue.limit = waiting

    def join(self, ask: Ask) -> None:
        """The supervisor decides, which `ask(*message)` reaches."""
        self._ask = ask

    def lost(self) -> None:
        """The supervisor is gone, and with it whoever could give a slot."""
        self._lost = True
        for place in list(self._places.values()):
            if place.waiting:
                place.fail(_gone())

    def at_once(
        self, key: str, replicas: Replicas, *, weight: float, most: int | None, lent: bool = False
    ) -> Place | None:
        """A slot, where this process may give one and one is free; the arguments are those of Ticket."""
        if self._ask is not None:
            return None
        ticket = Ticket(key, replicas, weight=weight, most=most, lent=lent)
        self._tell(self._queue.arrive(ticket, waits=False))
        return None if ticket.replica is None else self._new(ticket)

    def come(self, key: str, replicas: Replicas, *, weight: float, most: int | None, lent: bool = False) -> Place:
        """A place in the line, which may have its slot, or be refused, already. Raises Overloaded."""
        if self._lost:
            raise _gone()
        ticket = Ticket(key, replicas, weight=weight, most=most, lent=lent)
        if self._ask is None:
            changed = self._queue.arrive(ticket)
            place = self._new(ticket)
            self._tell(changed)
            return place
        place = self._new(ticket)
        self._ask("slot", place.name, key, replicas, weight, most, lent)
        return place

    def leave(self, place: Place) -> None:
        """See Place."""
        if self._places.pop(place.name, None) is None:
            return
        place.waiting = False
        if self._ask is None:
            self._tell(self._queue.leave(place._ticket))
        elif not self._lost:
            # A connection that is aborted is closed in the next turn of the loop, and another worker may be quicker.
            asyncio.get_running_loop().call_soon(self._ask, "slot_back", place.name)

    def renewed(self) -> None:
        """What is lent of a key's limit is another than before, and may be enough for one that waits."""
        if self._ask is None:
            self._tell(self._queue.renewed())
        elif not self._lost:
            self._ask("lent")

    def settled(self, name: int, replica: str | None, refused: Refused | None) -> None:
        """The supervisor has decided on a place; the request may have left meanwhile, which it will hear."""
        place = self._places.get(name)
        if place is not None:
            place.settle(replica, refused)

    def order(self) -> list[int]:
        """The names of the places in line, in the order in which they will probably go; where this process decides."""
        return order(self._queue)

    def _new(self, ticket: Ticket) -> Place:
        place = Place(self, next(self._names), ticket)
        ticket.owner = place
        place.replica, place.refused = ticket.replica, ticket.refused
        place.waiting = ticket.replica is None and ticket.refused is None
        self._places[place.name] = place
        return place

    @staticmethod
    def _tell(changed: Iterable[Ticket]) -> None:
        for ticket in changed:
            place: Any = ticket.owner
            place.settle(ticket.replica, ticket.refused)


def order(queue: FairQueue) -> list[int]:
    """The names of those that wait there, in the order in which they will probably go."""
    found: list[Any] = [ticket.owner for ticket in queue.order()]
    return [owner.name for owner in found]


def _gone() -> Overloaded:
    return Overloaded("The gateway is shutting down.", code="draining", retry_after_s=5)
