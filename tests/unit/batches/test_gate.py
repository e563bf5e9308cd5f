"""Lines have their turn in order, and those that were told to come back before all others."""

import asyncio

import pytest

from gomodel.batches.gate import Gate
from gomodel.batches.politeness import Pace


def gate(limit: int) -> Gate:
    pace = Pace(100)
    pace.limit = limit
    return Gate(pace)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_no_more_run_than_the_pace_allows_and_they_come_in_order() -> None:
    door, order = gate(2), []

    async def line(number: int) -> None:
        await door.enter()
        order.append(number)

    tasks = [asyncio.create_task(line(number)) for number in range(4)]
    await settle()
    assert (order, door.running, door.waiting, door.kept) == ([0, 1], 2, 2, True)
    door.leave()
    await settle()
    assert order == [0, 1, 2]
    door.pace.limit = 5
    door.admit()
    await asyncio.gather(*tasks)
    assert (order, door.running) == ([0, 1, 2, 3], 3)


async def test_nothing_new_begins_while_one_is_to_come_back() -> None:
    door, over = gate(2), asyncio.Event()
    await door.enter()
    back = asyncio.create_task(door.come_back(wait(over)))
    await settle()
    new = asyncio.create_task(door.enter())
    await settle()
    assert not new.done()
    assert door.running == 0
    over.set()
    await asyncio.gather(back, new)
    assert (door.running, door.away) == (2, 0)


async def test_who_comes_back_waits_for_a_turn_too() -> None:
    door, over = gate(2), asyncio.Event()
    await door.enter()
    await door.enter()
    back = [asyncio.create_task(door.come_back(wait(over))) for _ in range(2)]
    await settle()
    door.pace.limit = 1
    over.set()
    await settle()
    assert sum(task.done() for task in back) == 1
    door.leave()
    await asyncio.gather(*back)
    assert door.running == 1


async def test_the_turn_of_who_goes_away_is_for_who_has_come_back() -> None:
    door, first, second = gate(2), asyncio.Event(), asyncio.Event()
    await door.enter()
    await door.enter()
    one = asyncio.create_task(door.come_back(wait(first)))
    await settle()
    door.pace.limit = 1
    first.set()
    await settle()
    assert (one.done(), door.running, door.waiting) == (False, 1, 1)
    other = asyncio.create_task(door.come_back(wait(second)))
    await settle()
    assert (one.done(), door.running, door.waiting) == (True, 1, 0)
    second.set()
    door.leave()
    await asyncio.gather(one, other)
    assert (door.running, door.away) == (1, 0)


@pytest.mark.parametrize("when", ["waiting to enter", "let in a moment ago", "away", "waiting to come back"])
async def test_who_gives_up_keeps_no_turn(when: str) -> None:
    door, over = gate(1), asyncio.Event()
    await door.enter()
    if when in ("waiting to enter", "let in a moment ago"):
        task = asyncio.create_task(door.enter())
        await settle()
        if when == "let in a moment ago":
            door.leave()
        task.cancel()
        await asyncio.wait({task})
        if when == "waiting to enter":
            door.leave()
    else:

        async def line() -> None:
            try:
                await door.come_back(wait(over))
            finally:
                door.leave()

        task = asyncio.create_task(line())
        await settle()
        if when == "waiting to come back":
            door.running += 1
            over.set()
            await settle()
            door.running -= 1
        task.cancel()
        await asyncio.wait({task})
    assert task.cancelled()
    assert (door.running, door.away, door.waiting) == (0, 0, 0)


async def wait(event: asyncio.Event) -> None:
    await event.wait()
