"""How Redis divides limits: the script itself in a real redis-server, whatever gateways ask for in whatever order."""

import random

import pytest

from gomodel.access.lease_script import SCRIPT

from ..harness.redis import Redis, needs_redis

pytestmark = needs_redis

KEYS = ["{t}:gateways", "{t}:alice"]


@pytest.fixture
async def divide(no_leaks, tmp_path):
    """`await divide("gateway", (limit, used, wanted), ...)`: how many gateways there are, and the leases."""
    from redis.asyncio import Redis as Client

    server = Redis(tmp_path)
    await server.start()
    client = Client.from_url(server.url)
    script = client.register_script(SCRIPT)

    async def divide(gateway, *limits, lease_ms=5000):
        numbers = [number for each in (*limits, (0, 0, 0), (0, 0, 0))[:3] for number in each]
        count, *granted = await script(keys=KEYS, args=[gateway, lease_ms, *numbers])
        return count, *granted[: len(limits)]

    yield divide
    await client.aclose()
    await server.stop()


async def test_one_alone_gets_what_it_wants_up_to_the_limit(divide):
    assert await divide("a", (8, 0, 1), (100, 0, 500), (0, 0, 9)) == (1, 1, 100, 0)
    assert await divide("a", (8, 1, 8), (100, 100, 100), (5, 5, 5)) == (1, 8, 100, 5)


async def test_who_wants_little_gets_it_and_the_rest_is_divided(divide):
    assert await divide("a", (10, 0, 2)) == (1, 2)
    assert await divide("b", (10, 0, 10)) == (2, 8)
    assert await divide("c", (10, 0, 10)) == (3, 0)  # all is lent
    assert await divide("b", (10, 8, 10)) == (3, 4)  # and what it uses already it may end
    assert await divide("c", (10, 0, 10)) == (3, 0)
    assert await divide("b", (10, 4, 10)) == (3, 4)
    assert await divide("c", (10, 0, 10)) == (3, 4)


async def test_the_three_limits_are_divided_each_for_itself(divide):
    assert await divide("a", (4, 0, 4), (60, 0, 10), (0, 0, 0)) == (1, 4, 10, 0)
    assert await divide("b", (4, 0, 4), (60, 0, 60), (7, 0, 7)) == (2, 0, 50, 7)


async def test_a_lease_that_is_not_renewed_is_over(divide):
    assert await divide("a", (4, 4, 4), lease_ms=1) == (1, 4)
    found = 0, 0
    while found != (1, 4):
        found = await divide("b", (4, 0, 4))


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_lent_never_adds_up_to_more_than_the_limit(divide, seed):
    """Gateways that admit up to their lease, and end requests, in any order; each holds its old lease while it asks."""
    rng = random.Random(seed)
    limit = rng.choice([1, 3, 8, 100])
    leases = dict.fromkeys("abcd", 0)
    used = dict.fromkeys("abcd", 0)
    for _ in range(150):
        each = rng.choice("abcd")
        held = max(used[each], leases[each])
        want = rng.choice([used[each], limit, rng.randint(0, limit)])
        _, granted = await divide(each, (limit, held, want))
        used[each] = rng.randint(0, held)  # what may have happened while it asked
        leases[each] = granted
        for one in "abcd":
            if used[one] < leases[one] and rng.random() < 0.5:
                used[one] = rng.randint(used[one], leases[one])
            elif rng.random() < 0.5:
                used[one] = rng.randint(0, used[one])
        assert sum(used.values()) <= limit
    for _ in range(3):  # when all want all, all is lent, and nobody gets more than a fair part
        for each in "abcd":
            leases[each] = (await divide(each, (limit, 0, limit)))[1]
    assert sum(leases.values()) == limit
    assert max(leases.values()) <= -(-limit // 4)
