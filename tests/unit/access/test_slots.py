"""A process's places: decided here or by a supervisor, given back once, and nobody waits for one that is gone."""

import asyncio
from time import monotonic
from typing import Any

import pytest

from gomodel.access import host_usage
from gomodel.access.fair_queue import Refused
from gomodel.access.host_usage import HostUsage
from gomodel.access.slots import Place, Slots
from gomodel.errors import Overloaded

ONE = (("a", 1),)


def come(slots: Slots, key: str = "") -> Place:
    return slots.come(key, ONE, weight=1.0, most=None)


async def test_a_process_alone_decides_by_itself() -> None:
    slots = Slots(1)
    first, second, third = (come(slots) for _ in range(3))
    assert (first.replica, second.waiting, third.refused) == ("a", True, Refused.FULL)
    assert slots.order() == [second.name]
    turn = asyncio.create_task(second.turn())
    await asyncio.sleep(0)
    first.leave()
    first.leave()
    await turn
    assert (second.replica, second.waiting) == ("a", False)
    assert slots.at_once("", ONE, weight=1.0, most=None) is None
    second.leave()
    place = slots.at_once("", ONE, weight=1.0, most=None)
    assert place is not None
    assert place.replica == "a"


async def test_a_supervisor_is_asked_and_told() -> None:
    asked: list[Any] = []
    slots = Slots()
    slots.join(lambda *message: asked.append(message))
    assert slots.at_once("", ONE, weight=1.0, most=None) is None
    first, second, third = (come(slots, "k") for _ in range(3))
    assert [each.waiting for each in (first, second, third)] == [True] * 3
    assert asked == [("slot", each.name, "k", ONE, 1.0, None, False) for each in (first, second, third)]
    asked.clear()
    turn = asyncio.create_task(first.turn())
    await asyncio.sleep(0)
    slots.settled(first.name, "a", None)
    slots.settled(second.name, None, Refused.SHARE)
    await turn
    assert (first.replica, second.refused) == ("a", Refused.SHARE)
    third.leave()
    slots.settled(third.name, "a", None)  # crossed its leaving on the way
    assert (third.replica, third.waiting) == (None, False)
    first.leave()
    first.leave()
    assert asked == [], "what is aborted in this turn is closed in the next"
    await asyncio.sleep(0)
    assert asked == [("slot_back", third.name), ("slot_back", first.name)]
    asked.clear()
    slots.renewed()
    assert asked == [("lent",)]


async def test_who_waits_for_what_is_lent_has_its_turn_when_more_is(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = HostUsage()
    monkeypatch.setattr(host_usage, "shared", usage)
    slots, lease = Slots(10), usage.lease("k")
    until = int(monotonic() * 1000) + 60_000
    assert slots.at_once("k", ONE, weight=1.0, most=3, lent=True) is None
    first, second = (slots.come("k", (("a", None),), weight=1.0, most=3, lent=True) for _ in "ab")
    assert (first.waiting, lease.running, lease.waiting) == (True, 0, 2)
    lease.put((1, 0, 0), 0, until, 1)
    slots.renewed()
    assert (first.replica, second.waiting, lease.running, lease.waiting) == ("a", True, 1, 1)
    lease.put((0, 0, 0), 0, until, 1)
    first.leave()
    assert (second.waiting, lease.running) == (True, 0)
    lease.put_instead(1, until)
    slots.renewed()
    assert second.waiting, "what is lent goes before what holds without it"
    lease.put((0, 0, 0), 0, 0, 1)
    slots.renewed()
    assert (second.replica, lease.running, lease.waiting) == ("a", 1, 0)


async def test_what_is_taken_of_a_limit_is_said_also_where_nothing_is_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = HostUsage()
    monkeypatch.setattr(host_usage, "shared", usage)
    slots, lease = Slots(10), usage.lease("k")
    places = [slots.come("k", (("a", None),), weight=1.0, most=2) for _ in range(3)]
    assert [each.replica for each in places] == ["a", "a", None]
    assert (lease.running, lease.waiting) == (2, 1)
    for each in places:
        each.leave()
    assert (lease.running, lease.waiting) == (0, 0)


async def test_without_a_supervisor_that_was_there_nobody_waits() -> None:
    slots = Slots()
    slots.join(lambda *message: None)
    waiting, running = come(slots), come(slots)
    slots.settled(running.name, "a", None)
    turn = asyncio.create_task(waiting.turn())
    await asyncio.sleep(0)
    slots.lost()
    with pytest.raises(Overloaded, match="shutting down"):
        await turn
    with pytest.raises(Overloaded):
        come(slots)
    running.leave()
    waiting.leave()
