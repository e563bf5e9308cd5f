"""Slots for the requests of all workers: the supervisor takes what each asks for to the one line of the host.

Decides what becomes of the slots and of the places in line of a worker that is gone. Pure: no socket, no clock.
"""

from collections.abc import Hashable
from typing import Any, NamedTuple, Protocol

from ..access import host_usage
from ..access.fair_queue import FairQueue, Replicas, Ticket
from ..access.slots import order


class Member(Hashable, Protocol):
    """A worker as the desk sees it."""

    def send(self, *message: Any) -> None: ...


class _Owner(NamedTuple):
    """Whose ticket it is: a worker's, under a name that no other has."""

    member: Member
    name: int


class SlotDesk:
    """The tickets of all workers. A member is told ("slot", name, replica or None, why it is refused or None)."""

    def __init__(self, limit: int) -> None:
        """`limit`: how many requests may wait. Made after `host_usage.share`, so that all workers see what is taken."""
        self.queue = FairQueue(limit, host_usage.shared.lease)
        self._tickets: dict[Member, dict[int, Ticket]] = {}

    def come(
        self,
        member: Member,
        name: int,
        key: str,
        replicas: Replicas,
        weight: float,
        most: int | None,
        lent: bool,
    ) -> None:
        """A request of `member` wants a slot; the arguments are those of Ticket."""
        ticket = Ticket(key, replicas, weight=weight, most=most, lent=lent, owner=_Owner(member, name))
        self._tickets.setdefault(member, {})[name] = ticket
        self._tell(self.queue.arrive(ticket))
        if ticket.replica is not None or ticket.refused is not None:
            self._tell([ticket])

    def back(self, member: Member, name: int) -> None:
        """It is over, or waits no more."""
        ticket = self._tickets.get(member, {}).pop(name, None)
        if ticket is not None:
            self._tell(self.queue.leave(ticket))

    def renewed(self) -> None:
        """What is lent of a key's limit is another than before."""
        self._tell(self.queue.renewed())

    def depart(self, member: Member) -> None:
        """`member` is gone, and with it all that it had."""
        tickets = self._tickets.pop(member, {}).values()
        for ticket in sorted(tickets, key=lambda each: each.replica is not None):  # first those that only wait
            self._tell(self.queue.leave(ticket))

    def order(self) -> list[int]:
        """The names of those that wait, in the order in which they will probably go."""
        return order(self.queue)

    @staticmethod
    def _tell(tickets: list[Ticket]) -> None:
        for ticket in tickets:
            assert isinstance(ticket.owner, _Owner)
            ticket.owner.member.send("slot", ticket.owner.name, ticket.replica, ticket.refused)
