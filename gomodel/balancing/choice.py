"""Where one request may go: the replicas that could take it, in which order, and which of them is let through.

Decides that order by their load, or by the home of the request's conversation (`rendezvous`), and who is let through by
their breakers alone. Knows nothing of how they were found or of the request.
"""

from random import random
from time import monotonic
from typing import Any

from ..errors import CircuitOpen, ConnectError, NotServing
from ..upstream.breaker import Admission
from ..upstream.replica import ASLEEP, OUT, WEDGED, Replica
from . import keys_in_flight
from .candidates import Candidates, Named
from .instance import Instance
from .rendezvous import PARALLEL, WIDE_FACTOR, WIDE_LEAST, Placed, arranged

# By why a replica is barred: the code and the message that its callers read, and when to try again, in seconds.
_BARRED = {
    OUT: ("instance_out_of_rotation", "is out of rotation", 30.0),
    ASLEEP: ("instance_asleep", "is asleep", 10.0),
    WEDGED: ("instance_wedged", "accepts requests and answers nothing", 10.0),
}

# More than any replica has in flight.
_BEHIND = 1 << 32


class Choice:
    """Where a request may go: `candidates` in order of preference, and whether the first segment is cut off.

    `renamed`: an alias was asked for, in whose place `model` is to be sent. `conversation` is the number of the
    request's, as `rendezvous.key` makes it, 0 while that is not known. `instance`: whose replicas alone they are.
    """

    __slots__ = ("among", "bound", "candidates", "conversation", "forced", "instance", "model", "renamed")

    def __init__(self, candidates: list[Replica], model: str, bound: bool, instance: Instance | None = None) -> None:
        """`candidates` is a list of the request's own; where it has several, one of the two below puts it in order."""
        self.instance = instance
        self.among: Candidates | None = None  # the same, where they are several of an instance, or of some
        self.candidates = candidates
        self.model = model
        self.bound = bound
        self.conversation = 0
        self.renamed = False
        self.forced = False  # whoever asks means just these, also where they are barred

    @property
    def placed(self) -> bool:
        """Whether there is anything to choose: a replica of several, or a rank behind one."""
        candidates = self.candidates
        return len(candidates) > 1 or (bool(candidates) and candidates[0].ranks is not None)

    def by_load(self) -> None:
        """The idlest first; equals in any order."""
        among = self.among
        loads = [None] if among is None else among.loads()
        if among is None or None in loads:
            self.candidates = ordered(self.candidates)
            return
        # As `ordered`, where nothing is held against any.
        keys, replicas = [load + random() for load in loads], among.replicas  # type: ignore[operator]
        self.candidates = [replicas[each] for each in sorted(range(len(keys)), key=keys.__getitem__)]

    def by_conversation(self, caller: str, named: Named) -> str:
        """The home of a caller's conversation first, or who takes its place; returns what that is to it (`Placed`)."""
        among = self.among or self._those()
        self.conversation, places, replicas = among.ranked(self.model, caller, named)
        loads, own = among.loads(), keys_in_flight.shared.total(self.conversation)
        if own < PARALLEL and None not in loads:  # what `arranged` finds of nearly all, without a call
            load: Any = loads[places[0]]
            if load < WIDE_LEAST or load < WIDE_FACTOR * (sum(loads) + 1) / len(loads):  # type: ignore[arg-type]
                self.candidates = replicas.copy()
                return Placed.HOME
        order, where = arranged(places, loads, own)
        replicas = among.replicas
        self.candidates = [replicas[each] for each in order]
        return where

    def _those(self) -> Candidates:
        """Its candidates, of whom nothing is known by another request unless they are all of an instance."""
        instance, candidates = self.instance, self.candidates
        among = None if instance is None else instance.among(self.model)
        return among if among is not None and among.replicas == candidates else Candidates(candidates)

    def admitted(self) -> tuple[Replica, Admission]:
        """The first replica that is not barred and that its breaker lets through, and its pass.

        Raises CircuitOpen, and NotServing when all are barred.
        """
        now = monotonic()
        serving = self.candidates if self.forced else [each for each in self.candidates if not each.barred]
        for replica in serving:
            admission = replica.breaker.admit(now)
            if admission is not None:
                return replica, admission
        if not serving:
            raise _not_serving(self.candidates[0])
        wait_s = min(replica.breaker.retry_after_s(now) for replica in serving)
        names = ", ".join(dict.fromkeys(f"'{replica.name}'" for replica in serving))
        raise CircuitOpen(
            f"Instance {names} failed repeatedly and is left alone for a moment.",
            code="circuit_open",
            retry_after_s=wait_s,
        )

    async def find(self) -> None:
        """Wait a moment for the first replica of an instance that has none. Raises ConnectError when none comes."""
        instance = self.instance
        if instance is not None:
            await instance.first_replica()
            self.candidates = ordered(instance.among(self.model).replicas)
        if not self.candidates:
            name = "" if instance is None else f" '{instance.name}'"
            raise ConnectError(f"The host name of instance{name} could not be resolved.", code="dns_error")


def of_instance(instance: Instance, model: str, *, bound: bool) -> Choice:
    """The replicas of an instance that list `model`, or all where none does."""
    replicas = instance.replicas
    if len(replicas) == 1:
        return Choice(replicas.copy(), model, bound, instance)
    among = instance.among(model)
    choice = Choice(among.replicas.copy(), model, bound, instance)
    choice.among = among
    return choice


def ordered(replicas: list[Replica]) -> list[Replica]:
    """The replicas in the order in which a request should try them, the idlest first; a list of the request's own.

    Equals come in any order.
    """
    if len(replicas) == 1:
        return replicas.copy()
    # Loads are whole numbers, so that less than one decides between equals.
    keys = [
        each.requests.total + random() + (0 if each.unblemished else each.standing(monotonic()) * _BEHIND)
        for each in replicas
    ]
    return [replicas[each] for each in sorted(range(len(keys)), key=keys.__getitem__)]


def _not_serving(replica: Replica) -> NotServing:
    code, said, retry_after_s = _BARRED[replica.barred]
    return NotServing(f"Instance '{replica.name}' {said}.", code=code, retry_after_s=retry_after_s)
