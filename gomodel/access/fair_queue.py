"""Who goes next when all slots are taken: start-time fair queueing between keys, first come first served within one.

Decides who gets a slot of a replica, who waits, and who is turned away when the line is full. A request takes the first
replica of its list that has a slot free, and waits for any of them otherwise; a key may also have a limit of its own.
Whatever happens in whatever order: no limit is exceeded, nobody waits beside a slot that is free for it, and of keys
that wait all the time each gets its share, by weight, to within one request. Pure: knows nothing of clocks, sockets or
processes. One object decides for all workers of a host; of a limit that hosts share it may give what its `Share` says.

Each request a key is given costs it 1/weight of virtual time, from the later of its last one's end and of now; the key
whose next one would begin first is next (Goyal, Vin, Cheng: Start-time Fair Queueing, 1996).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from itertools import count
from typing import Protocol

# Names, the best first, each with its limit; None is no limit.
Replicas = tuple[tuple[str, int | None], ...]


class Refused(Enum):
    """Why there is no place in the line."""

    FULL = "full"  # all of it is taken
    SHARE = "share"  # the key has its share of a full line


class Share(Protocol):
    """A key's limit of its own: what there is of it on this host, where it is lent, and what is taken."""

    def most(self) -> int: ...
    def take(self, running: int, waiting: int) -> None: ...


class Ticket:
    """One request: before it goes, while it waits, and while it has a slot."""

    __slots__ = ("flow", "key", "lent", "most", "number", "owner", "refused", "replica", "replicas", "weight")

    def __init__(
        self,
        key: str,
        replicas: Replicas,
        *,
        weight: float = 1.0,
        most: int | None = None,
        lent: bool = False,
        owner: object = None,
    ) -> None:
        """`replicas` that it may go to, the best first, each with its limit, if any; `most` of its key at once.

        `lent`: of `most` only what the key's Share has.
        """
        self.key = key
        self.replicas = replicas
        self.weight = weight
        self.most = most
        self.lent = lent
        self.owner = owner
        self.replica: str | None = None  # whose slot it has
        self.refused: Refused | None = None
        self.number = 0  # in the order of arrival
        self.flow: _Flow | None = None  # while it waits or has a slot


class _Flow:
    """The requests of one key."""

    __slots__ = ("finish", "key", "lent", "most", "running", "share", "waiting", "weight")

    def __init__(self, key: str) -> None:
        self.key = key
        self.weight = 1.0
        self.most: int | None = None
        self.lent = False
        self.share: Share | None = None
        self.running = 0
        self.finish = 0.0  # in virtual time, of the last one that got a slot
        # By where they may go: those that may go to the same replicas stand in one line.
        self.waiting: dict[Replicas, OrderedDict[Ticket, None]] = {}

    @property
    def full(self) -> bool:
        if self.most is None:
            return False
        if self.running >= self.most:
            return True
        return self.lent and self.share is not None and self.running >= self.share.most()

    def tell(self) -> None:
        """Say what is taken of its limit."""
        if self.share is not None:
            self.share.take(self.running, len(self))

    def __len__(self) -> int:
        return sum(map(len, self.waiting.values()))


class FairQueue:
    """The slots of all replicas, who has them, and who waits for them."""

    def __init__(self, limit: int, share: Callable[[str], Share] | None = None) -> None:
        """`limit`: how many may wait; `share` of a key that has a limit of its own."""
        self.limit = limit
        self._share = share
        self._shares: dict[str, Share] = {}  # as many as have such a limit
        self.waiting = 0
        self._now = 0.0  # virtual time: when the last one that got a slot began
        self._used: dict[str, int] = {}
        self._limits: dict[str, int | None] = {}
        self._flows: dict[str, _Flow] = {}
        self._lines: dict[str, _Flow] = {}  # those of _flows that have someone waiting
        self._numbers = count(1)

    def arrive(self, ticket: Ticket, *, waits: bool = True) -> list[Ticket]:
        """A request comes. It has a slot then, waits if it does, or is refused; others whose state changed by it.

        One that waits is refused when a key with less than its share comes to a full line.
        """
        changed = self._hear(ticket)
        flow = self._flow(ticket)
        if not flow.full and (replica := self._room(ticket.replicas)) is not None:
            self._grant(ticket, flow, replica)
            return changed
        if not waits:
            return changed
        if self.waiting >= self.limit:
            last = self._displaced(flow)
            if last is None:
                ticket.refused = Refused.SHARE if self._lines.keys() - {ticket.key} else Refused.FULL
                return changed
            self._leave(last)
            last.refused = Refused.SHARE
            changed.append(last)
        ticket.number = next(self._numbers)
        ticket.flow = flow
        flow.waiting.setdefault(ticket.replicas, OrderedDict())[ticket] = None
        self._lines[flow.key] = flow
        self.waiting += 1
        flow.tell()
        return changed

    def leave(self, ticket: Ticket) -> list[Ticket]:
        """A request is over, or waits no more; those that have a slot now. Once is enough."""
        flow, replica = ticket.flow, ticket.replica
        if flow is None:
            return []
        if replica is None:
            self._leave(ticket)
            return []
        ticket.flow = None
        flow.running -= 1
        flow.tell()
        self._used[replica] -= 1
        served = self._serve()
        if not self._used[replica]:
            del self._used[replica]
            if not self._used and not self.waiting:  # nobody owes anybody anything
                self._now = 0.0
                self._flows.clear()
                self._limits.clear()
        return served

    def renewed(self) -> list[Ticket]:
        """What a key may have is another than before; those that have a slot now."""
        return self._serve()

    def order(self) -> Iterator[Ticket]:
        """Those that wait, in the order in which they would go if every slot were any one's."""
        virtual: list[tuple[float, int, Ticket]] = []
        for flow in self._lines.values():
            start = max(self._now, flow.finish)
            tickets = sorted((each for line in flow.waiting.values() for each in line), key=lambda each: each.number)
            for place, ticket in enumerate(tickets):
                virtual.append((start + place / flow.weight, ticket.number, ticket))
        return (ticket for _, _, ticket in sorted(virtual, key=lambda each: each[:2]))

    def _hear(self, ticket: Ticket) -> list[Ticket]:
        """The last one that came knows best what the limits are; those that have a slot by that."""
        more = False
        for replica, limit in ticket.replicas:
            if self._limits.get(replica, limit) != limit:
                more = True
            self._limits[replica] = limit
        return self._serve() if more else []

    def _flow(self, ticket: Ticket) -> _Flow:
        flow = self._flows.get(ticket.key)
        if flow is None:
            flow = self._flows[ticket.key] = _Flow(ticket.key)
        flow.weight, flow.most, flow.lent = ticket.weight, ticket.most, ticket.lent
        if flow.share is None and flow.most is not None and self._share is not None:
            flow.share = self._shares.get(flow.key)
            if flow.share is None:
                flow.share = self._shares[flow.key] = self._share(flow.key)
        return flow

    def _room(self, replicas: Iterable[tuple[str, int | None]]) -> str | None:
        for replica, _ in replicas:
            limit = self._limits.get(replica)
            if limit is None or self._used.get(replica, 0) < limit:
                return replica
        return None

    def _grant(self, ticket: Ticket, flow: _Flow, replica: str) -> None:
        ticket.flow = flow
        ticket.replica = replica
        flow.running += 1
        flow.tell()
        self._used[replica] = self._used.get(replica, 0) + 1
        self._now = max(self._now, flow.finish)
        flow.finish = self._now + 1 / flow.weight

    def _serve(self) -> list[Ticket]:
        """Give away what is free, as long as somebody waits for it."""
        served: list[Ticket] = []
        while (found := self._next()) is not None:
            ticket, replica = found
            self._grant(ticket, self._leave(ticket), replica)
            served.append(ticket)
        return served

    def _next(self) -> tuple[Ticket, str] | None:
        """Who is next, and where to."""
        best: tuple[float, int] | None = None
        found = None
        for flow in self._lines.values():
            if flow.full:
                continue
            start = max(self._now, flow.finish)
            if best is not None and start > best[0]:
                continue
            for replicas, line in flow.waiting.items():
                ticket = next(iter(line))
                if (best is None or (start, ticket.number) < best) and (replica := self._room(replicas)) is not None:
                    best, found = (start, ticket.number), (ticket, replica)
        return found

    def _displaced(self, flow: _Flow) -> Ticket | None:
        """Of a full line the last one of the key that has most of it for its weight; None when that is `flow`."""
        longest = max(self._lines.values(), key=lambda each: len(each) / each.weight, default=None)
        if longest is None or longest is flow or len(longest) / longest.weight <= (len(flow) + 1) / flow.weight:
            return None
        return max((next(reversed(line)) for line in longest.waiting.values()), key=lambda each: each.number)

    def _leave(self, ticket: Ticket) -> _Flow:
        """Out of the line; whose it was."""
        flow = ticket.flow
        assert flow is not None
        line = flow.waiting[ticket.replicas]
        del line[ticket]
        if not line:
            del flow.waiting[ticket.replicas]
            if not flow.waiting:
                del self._lines[flow.key]
        ticket.flow = None
        self.waiting -= 1
        flow.tell()
        return flow
