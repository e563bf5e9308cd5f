"""Policies by which several replicas may be chosen, ranked in a small simulation of prefix caches.

Conversations of several turns meet four replicas that compute what of a prompt is not in their cache, oldest
conversations dropped first. The numbers are a toy's: they rank policies and predict no seconds. What is asked for is
what the choice promises: the hits of a hash, whatever the number of gateways, and no hot spot for one key of all.
"""

import random
from collections import Counter, OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush
from typing import NamedTuple

import pytest

from gomodel.balancing.rendezvous import key, placed, ranked, seed

REPLICAS = 4
SEEDS = tuple(seed(f"gpu-{number}:8000") for number in range(REPLICAS))
PREFILL_TOKENS_S = 8000
CACHE_TOKENS = 350_000
DECODE_S = 6.0
SESSIONS, TURNS = 100, 10


class Gateway:
    """What one process can see: its own requests, or the whole host's."""

    def __init__(self) -> None:
        self.loads = [0] * REPLICAS
        self.of_key: Counter[int] = Counter()
        self.pins: dict[int, int] = {}
        self.turn = 0


Policy = Callable[[Gateway, int], int]


def round_robin(gateway: Gateway, _number: int) -> int:
    gateway.turn += 1
    return gateway.turn % REPLICAS


def fewest(gateway: Gateway, _number: int) -> int:
    return gateway.loads.index(min(gateway.loads))


def pinned(gateway: Gateway, number: int) -> int:
    return gateway.pins.setdefault(number, fewest(gateway, number))


def hashed(_gateway: Gateway, number: int) -> int:
    return ranked(number, SEEDS)[0]


def guarded(gateway: Gateway, number: int) -> int:
    return placed(number, SEEDS, gateway.loads, gateway.of_key[number])[0][0]


class Outcome(NamedTuple):
    hits: float  # of all prompt tokens
    imbalance: float  # the most requests at one replica by the mean
    first_token_s: float


def simulated(policy: Policy, gateways: int = 1, *, one_key: bool = False) -> Outcome:
    """All conversations through as many gateways, which take the turns of each at random."""
    chance = random.Random(1)
    fleet = [Gateway() for _ in range(gateways)]
    caches: list[OrderedDict[int, int]] = [OrderedDict() for _ in range(REPLICAS)]
    free_at = [0.0] * REPLICAS
    served = [0] * REPLICAS
    hits = prompts = 0
    waited = 0.0
    # At a time a session asks, or an answer ends: gateway, replica, key.
    events: list[tuple[float, int, tuple[int, int, int] | None]] = []
    sessions = {}
    for number in range(SESSIONS):
        named = key("m", "", b"one" if one_key else b"%d" % number)
        sessions[number] = [named, TURNS, chance.randrange(2000, 9000)]
        heappush(events, (chance.uniform(0, 200), number, None))
    while events:
        now, number, ending = heappop(events)
        if ending is not None:
            gateway, replica, named = ending
            fleet[gateway].loads[replica] -= 1
            fleet[gateway].of_key[named] -= 1
            continue
        named, turns, tokens = sessions[number]
        gateway = chance.randrange(gateways)
        replica = policy(fleet[gateway], named)
        cache = caches[replica]
        known = min(cache.pop(number, 0), tokens)
        cache[number] = tokens
        while sum(cache.values()) > CACHE_TOKENS:
            cache.popitem(last=False)
        hits += known
        prompts += tokens
        served[replica] += 1
        free_at[replica] = max(now, free_at[replica]) + (tokens - known) / PREFILL_TOKENS_S
        waited += free_at[replica] - now
        ends = free_at[replica] + chance.uniform(0.5, 1.5) * DECODE_S
        fleet[gateway].loads[replica] += 1
        fleet[gateway].of_key[named] += 1
        heappush(events, (ends, number, (gateway, replica, named)))
        sessions[number] = [named, turns - 1, tokens + chance.randrange(500, 2500)]
        if turns > 1:
            heappush(events, (ends + chance.expovariate(1 / 10), number, None))
    total = sum(served)
    return Outcome(hits / prompts, max(served) * REPLICAS / total, waited / total)


@pytest.fixture(scope="module")
def found() -> dict[tuple[str, int], Outcome]:
    policies = (round_robin, fewest, pinned, hashed, guarded)
    return {(each.__name__, gateways): simulated(each, gateways) for each in policies for gateways in (1, 4)}


@pytest.mark.parametrize("gateways", [1, 4])
def test_the_guard_costs_a_hash_no_hits(found: dict[tuple[str, int], Outcome], gateways: int) -> None:
    assert found["guarded", gateways].hits > 0.97 * found["hashed", gateways].hits
    assert found["guarded", gateways].imbalance < 1.3


@pytest.mark.parametrize("gateways", [1, 4])
@pytest.mark.parametrize("policy", ["round_robin", "fewest"])
def test_load_alone_loses_a_third_of_them(found: dict[tuple[str, int], Outcome], policy: str, gateways: int) -> None:
    assert found[policy, gateways].hits < 0.7 * found["guarded", gateways].hits
    assert found[policy, gateways].first_token_s > 2 * found["guarded", gateways].first_token_s


def test_pins_of_each_process_are_as_good_in_one_and_lost_in_four(found: dict[tuple[str, int], Outcome]) -> None:
    assert found["pinned", 1].hits > 0.95 * found["guarded", 1].hits
    assert found["pinned", 4].hits < 0.8 * found["guarded", 4].hits


def test_one_key_for_all_is_no_hot_spot() -> None:
    assert simulated(hashed, one_key=True).imbalance == REPLICAS
    for gateways in (1, 4):
        assert simulated(guarded, gateways, one_key=True).imbalance < 1.6
