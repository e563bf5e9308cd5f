"""Which of several servers a conversation goes to: rendezvous hashing with a guard against hot spots. Pure.

Every process and every gateway that knows the same servers by the same names ranks them alike for a conversation, with
nothing to share, and when one joins or leaves only its part of the conversations moves. The first in rank is its home.
A count of what a server has in flight is the signal by which a request goes elsewhere: waiting times and queued bytes
feed themselves, since who moves computes its whole history again. The bound is wide, as a conversation costs its cache
when it moves; it is tight for one that is itself parallel, whose requests share a cache wherever they are.

Decides nothing about what names a conversation or about who is healthy.
"""

from collections.abc import Sequence
from hashlib import blake2b

# Any odd number whose bits look random; another one moves every conversation of every gateway.
_MULTIPLIER = 0x9FB21C651E98DF25
_LOW = (1 << 64) - 1

# So many at once are no hot spot; else so many times the mean. From so many others of its own on it is parallel.
WIDE_LEAST, WIDE_FACTOR = 8, 2.0
TIGHT_LEAST, TIGHT_FACTOR = 2, 1.25
PARALLEL = 2


class Placed:
    """Where a request came to be, seen from its conversation's home; plain words, as an enum's hash is a call."""

    HOME = "home"
    SPILLED = "spilled"  # the home has too much to do
    MOVED = "moved"  # the home takes no requests


def _number(said: bytes) -> int:
    return int.from_bytes(blake2b(said, digest_size=8).digest())


def seed(name: str) -> int:
    """A server's number in every ranking; of its name alone, so that its place in a list does not matter."""
    return _number(name.encode(errors="surrogatepass"))


def key(model: str, caller: str, named: bytes) -> int:
    """A conversation's number: what names it, for one model and one caller, who so cannot aim at another's home."""
    return _number(b"%b\0%b\0%b" % (model.encode(errors="surrogatepass"), caller.encode(), named))


def ranked(key: int, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """The places in `seeds`, the conversation's home first."""
    scores = []
    for each in seeds:
        product = (key ^ each) * _MULTIPLIER
        scores.append((product ^ product >> 64) & _LOW)
    return tuple(sorted(range(len(scores)), key=scores.__getitem__))


def placed(key: int, seeds: tuple[int, ...], loads: Sequence[int | None], own: int) -> tuple[Sequence[int], str]:
    """The places in `seeds` in the order in which a request should try them, and what the first of them is to it."""
    return arranged(ranked(key, seeds), loads, own)


def arranged(rank: Sequence[int], loads: Sequence[int | None], own: int) -> tuple[Sequence[int], str]:
    """The same of the places in the conversation's rank.

    `loads`: the requests in flight at each for the whole host, None where it takes none; `own`: those of them that are
    of this conversation. Those that take none come last, for when nobody else is left.
    """
    order = able = rank
    home = order[0]
    if None in loads:
        able = tuple(each for each in order if loads[each] is not None)
        if not able:
            return order, Placed.MOVED
        order = able + tuple(each for each in order if loads[each] is None)
    first = order[0]
    parallel = own >= PARALLEL
    if parallel or loads[first] >= WIDE_LEAST:  # type: ignore[operator] # those that are able have a load
        least, factor = (TIGHT_LEAST, TIGHT_FACTOR) if parallel else (WIDE_LEAST, WIDE_FACTOR)
        total = sum(filter(None, loads))
        # `load < ceil(x)` is `load < x` for whole numbers.
        bound = max(least, factor * (total + 1) / len(able))
        at = 0  # whoever has no more than the mean is below the bound, so there always is one
        while loads[able[at]] >= bound:  # type: ignore[operator]
            at += 1
        chosen = able[at]
        if chosen != first:
            return [chosen, *[each for each in order if each != chosen]], Placed.SPILLED
    return order, Placed.HOME if first == home else Placed.MOVED


def data_parallel_rank(key: int, ranks: int) -> int:
    """Which of the engines behind one port a conversation goes to (vLLM's X-data-parallel-rank)."""
    return key % ranks
