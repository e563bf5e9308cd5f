"""Questions between workers: the supervisor passes each on to the other workers and their answers back.

Decides whom a question goes to and when it is over: when everybody has answered, or is gone, or after PATIENCE_S. What
one worker does not say costs that part of the answer and nothing else. Pure: no socket, no clock of its own.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..operations.siblings import METRICS, OWN, PATIENCE_S
from ..telemetry.tally import Numbers, Tally

# Unread by a worker; it is asked nothing more until it has read, so what waits for it stays bounded.
BACKLOG_BYTES = 1 << 20


class Member(Hashable, Protocol):
    """A worker as the hub sees it."""

    @property
    def waiting(self) -> int: ...

    def send(self, *message: Any) -> None: ...


@dataclass(slots=True)
class _Question:
    asker: Member
    its_number: int
    kind: str
    until: float
    missing: set[Member]
    answers: list[Any] = field(default_factory=list)
    answered: set[Member] = field(default_factory=set)


class Hub:
    """The workers that can be asked and the questions that are open; times are time.monotonic."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._members: set[Member] = set()
        self._open: dict[int, _Question] = {}
        self._asked = 0
        self._elder: Member | None = None
        self._before: Numbers = {}

    @property
    def due(self) -> float:
        """When `expire` has something to do."""
        return min((each.until for each in self._open.values()), default=float("inf"))

    def follow(self, elder: Member) -> None:
        """A release that this one took over from: it is asked for its numbers, which outlive it."""
        self._elder = elder
        self._members.add(elder)

    def join(self, member: Member) -> None:
        """`member` answers questions from now on."""
        self._members.add(member)

    def leave(self, member: Member) -> None:
        """`member` is gone: nobody waits for it, and what it has counted stays."""
        self._members.discard(member)
        self._tally.depart(member)
        for number, question in list(self._open.items()):
            if question.asker is member:
                del self._open[number]
            elif member in question.missing:
                question.missing.discard(member)
                self._finish_if_over(number)

    def report(self, member: Member, numbers: Numbers) -> None:
        """`member` has counted this much."""
        if member is self._elder:
            self._before = numbers
        else:
            self._tally.hear(member, numbers)

    def ask(self, member: Member, its_number: int, kind: str, argument: Any, now: float) -> None:
        """`member` asks all others; it gets ("answers", `its_number`, list)."""
        asked = kind
        if kind in (METRICS, OWN):
            self._tally.hear(member, argument)
            asked, argument = METRICS, None
        self._asked += 1
        others = {each for each in self._members if each is not member and each.waiting < BACKLOG_BYTES}
        if kind != METRICS and self._elder is not None:
            others.discard(self._elder)
        self._open[self._asked] = _Question(member, its_number, kind, now + PATIENCE_S, others, answered={member})
        for each in others:
            each.send("question", self._asked, asked, argument)
        self._finish_if_over(self._asked)

    def answer(self, member: Member, number: int, kind: str, answers: list[Any]) -> None:
        """`member` answers question `number`, perhaps too late; an empty list: it cannot."""
        if kind == METRICS and answers:
            self.report(member, answers[0])
        question = self._open.get(number)
        if question is not None and member in question.missing:
            question.missing.discard(member)
            question.answers += answers
            if answers:
                question.answered.add(member)
            self._finish_if_over(number)

    def known(self) -> list[Numbers]:
        """What was heard last of everybody, and of the release before."""
        return [*self._tally.everything(()), self._before]

    def expire(self, now: float) -> None:
        """Give up on whoever has not answered in time."""
        for number, question in list(self._open.items()):
            if now >= question.until:
                question.missing.clear()
                self._finish_if_over(number)

    def _finish_if_over(self, number: int) -> None:
        question = self._open[number]
        if question.missing:
            return
        del self._open[number]
        answers = question.answers
        if question.kind in (METRICS, OWN):
            answers = self._tally.everything(question.answered)
        if question.kind == METRICS and self._before:
            answers.append(self._before)
        question.asker.send("answers", question.its_number, answers)
