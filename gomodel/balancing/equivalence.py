"""Whether servers that should be the same say the same of themselves, and which of them is the odd one. Pure.

Decides what a difference is and who has it: whoever says other than more than half of those that say something; where
no more than half say one thing, nobody can be called odd, and all are named. Knows nothing of how they were asked.
"""

from collections import Counter
from collections.abc import Hashable, Mapping
from typing import Generic, NamedTuple, TypeVar

Server = TypeVar("Server", bound=Hashable)

VERSION, LENGTH, FINGERPRINT, TEMPLATE, GREEDY = (
    "version",
    "max_model_len",
    "system_fingerprint",
    "chat_template",
    "greedy",
)
WHAT = (VERSION, LENGTH, FINGERPRINT, TEMPLATE, GREEDY)
# What a request gets differs by these. Two GPUs that do the same may differ in a greedy answer, by the order of their
# sums: that is worth knowing, and no reason to do without one of them.
EXCLUDING = frozenset({VERSION, LENGTH, FINGERPRINT, TEMPLATE})


class Difference(NamedTuple, Generic[Server]):
    """`odd` say something else than the `usual`; all that say something are odd where that is None."""

    what: str
    usual: str | None
    odd: dict[Server, str]


def differences(said: Mapping[Server, Mapping[str, str]]) -> list[Difference[Server]]:
    """What servers differ in by what each has said; one that has not said something does not differ in it."""
    found = []
    for what in WHAT:
        values = {server: each[what] for server, each in said.items() if what in each}
        counts = Counter(values.values())
        if len(counts) < 2:
            continue
        [(most, count)] = counts.most_common(1)
        usual = most if 2 * count > len(values) else None
        found.append(Difference(what, usual, {server: value for server, value in values.items() if value != usual}))
    return found
