"""A conversation's home: the same for everybody who knows the same servers, and left only when the home is too full."""

import subprocess
import sys
from collections import Counter

import pytest

from gomodel.balancing.rendezvous import Placed, data_parallel_rank, key, placed, ranked, seed

NAMES = [f"gpu-{number}:8000" for number in range(1, 6)]
SEEDS = tuple(seed(name) for name in NAMES)
KEYS = [key("m", "alice", b"session %d" % number) for number in range(2000)]
HOME = key("m", "", b"a")


def by_name(number, names):
    return [names[place] for place in ranked(number, tuple(seed(name) for name in names))]


def test_homes_are_spread_evenly():
    homes = Counter(ranked(each, SEEDS)[0] for each in KEYS)
    assert max(homes.values()) < 1.15 * len(KEYS) / len(SEEDS)
    assert min(homes.values()) > 0.85 * len(KEYS) / len(SEEDS)


def test_the_place_in_the_list_does_not_matter():
    assert all(by_name(each, NAMES) == by_name(each, NAMES[::-1]) for each in KEYS[:200])


def test_one_that_leaves_moves_its_own_conversations_and_no_others():
    for each in KEYS[:500]:
        before = by_name(each, NAMES)
        assert by_name(each, NAMES[1:]) == [name for name in before if name != NAMES[0]]


def test_what_names_a_conversation_is_of_one_model_and_one_caller():
    numbers = {key(model, caller, b"s") for model in ("m", "n", "") for caller in ("alice", "bob", "")}
    assert len(numbers) == 9
    assert key("m", "", b"s") == key("m", "", b"s")
    long = "m" * 300  # is not remembered
    assert key(long, "a", b"s") == key(long, "a", b"s") != key(long, "b", b"s")


def test_another_process_ranks_alike():
    code = "from gomodel.balancing.rendezvous import *; print(key('m', 'a', b's'), ranked(key('m', 'a', b's'), {}))"
    ran = subprocess.run([sys.executable, "-c", code.format(SEEDS)], capture_output=True, text=True, check=True)
    number = key("m", "a", b"s")
    assert ran.stdout == f"{number} {ranked(number, SEEDS)}\n"
    # As every release does: another number would move every conversation of a fleet that is upgraded one by one.
    assert (number, seed("gpu-1:8000")) == (0x3D9D27FA2B56648F, 0x2A8BEABBB3ED818D)
    assert [ranked(key("m", "a", b"%d" % each), SEEDS) for each in range(3)] == [
        (4, 2, 0, 3, 1),
        (1, 3, 2, 4, 0),
        (0, 3, 2, 1, 4),
    ]
    assert key("\ud800", "", b"") != key("\ud801", "", b"")  # what a body may name, and no text


def test_ranks_of_one_home_are_spread_evenly():
    at_home = [each for each in KEYS if ranked(each, SEEDS)[0] == 0]
    ranks = Counter(data_parallel_rank(each, 4) for each in at_home)
    assert sorted(ranks) == [0, 1, 2, 3]
    assert max(ranks.values()) < 1.35 * len(at_home) / 4


ORDER = ranked(HOME, SEEDS)


def loads(*in_rank):
    """By place, of what is in the conversation's rank."""
    found = [0] * len(SEEDS)
    for place, load in zip(ORDER, in_rank, strict=True):
        found[place] = load
    return found


@pytest.mark.parametrize(
    ("in_rank", "own", "chosen", "result"),
    [
        ((0, 0, 0, 0, 0), 0, 0, Placed.HOME),
        ((7, 0, 0, 0, 0), 0, 0, Placed.HOME),  # a few are no hot spot
        ((8, 0, 0, 0, 0), 0, 1, Placed.SPILLED),
        ((19, 10, 10, 5, 5), 0, 0, Placed.HOME),  # below twice the mean
        ((20, 10, 10, 5, 4), 0, 1, Placed.SPILLED),
        ((1, 0, 0, 0, 0), 2, 0, Placed.HOME),  # a parallel one is held to a tighter bound
        ((2, 0, 0, 0, 0), 2, 1, Placed.SPILLED),
        ((2, 2, 2, 2, 1), 2, 0, Placed.HOME),
        ((3, 3, 2, 1, 1), 2, 2, Placed.SPILLED),
        ((7, 0, 0, 0, 0), 1, 0, Placed.HOME),  # one beside it is not parallel yet
        ((None, 3, 0, 0, 0), 0, 1, Placed.MOVED),
        ((None, None, 9, 9, 9), 0, 2, Placed.MOVED),
        ((None, 20, 1, 0, 0), 0, 2, Placed.SPILLED),
        ((3, None, 0, 0, 0), 0, 0, Placed.HOME),
        ((None, None, None, None, None), 0, 0, Placed.MOVED),
    ],
)
def test_a_request_stays_at_home_within_bounds(in_rank, own, chosen, result):
    order, where = placed(HOME, SEEDS, loads(*in_rank), own)
    assert (ORDER.index(order[0]), where) == (chosen, result)
    # The others follow in rank, those that take nothing last.
    rest = [each for each in ORDER if each != order[0]]
    able = [each for each in rest if in_rank[ORDER.index(each)] is not None]
    assert list(order[1:]) == able + [each for each in rest if each not in able]


def test_somebody_is_always_below_the_bound():
    for own in (0, 9):
        for each in ([50], [50] * 5, [8, 8, 8, 8, 9], [0, 0, 0, 0, 900]):
            order, _ = placed(HOME, SEEDS[: len(each)], each, own)
            assert each[order[0]] <= 50
