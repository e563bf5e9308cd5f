"""The words of a result: a finding, and what came of one check at one place. Decides nothing."""

from enum import Enum
from typing import NamedTuple


class State(Enum):
    """What a check came to; the order is that of gravity."""

    SKIPPED = "-"
    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    BROKEN = "BROKEN"


class Finding(NamedTuple):
    """`kind` is what a remedy is looked up by; `says` is a sentence for whoever runs the gateway."""

    kind: str
    state: State
    says: str


class Outcome(NamedTuple):
    """Of one check at one place. `brief` is for a cell of the table."""

    brief: str
    findings: tuple[Finding, ...] = ()
    state: State = State.OK


class Row(NamedTuple):
    """A check: its name in JSON, its title, what was seen directly, and what came of it at each place."""

    name: str
    title: str
    direct: str
    outcomes: tuple[Outcome, ...]


def outcome(brief: str, *findings: Finding) -> Outcome:
    """That of these findings: the gravest of them, ok without one."""
    order = list(State)
    state = max((finding.state for finding in findings), key=order.index, default=State.OK)
    return Outcome(brief, findings, state)


def broken(kind: str, says: str) -> Finding:
    return Finding(kind, State.BROKEN, says)


def warning(kind: str, says: str) -> Finding:
    return Finding(kind, State.WARNING, says)


def unknown(brief: str) -> Outcome:
    return Outcome(brief, (), State.UNKNOWN)


def skipped(brief: str) -> Outcome:
    return Outcome(brief, (), State.SKIPPED)
