"""The supervisor's desk: every worker hears of its own requests, and a worker that is gone leaves nothing behind."""

from time import monotonic
from typing import Any

import pytest

from gomodel.access import host_usage
from gomodel.access.fair_queue import Refused
from gomodel.process.slot_desk import SlotDesk

ONE = (("a", 1),)


class Worker:
    """Hears what the desk says."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def send(self, *message: Any) -> None:
        what, *said = message
        assert what == "slot"
        self.heard.append(tuple(said))

    def hears(self) -> list[Any]:
        heard, self.heard = self.heard, []
        return heard


def test_a_slot_that_one_worker_gives_back_goes_to_the_first_in_line_of_any() -> None:
    desk = SlotDesk(10)
    one, other = Worker(), Worker()
    desk.come(one, 1, "", ONE, 1.0, None, False)
    desk.come(other, 2, "", ONE, 1.0, None, False)
    desk.come(one, 3, "", ONE, 1.0, None, False)
    assert (one.hears(), other.hears()) == ([(1, "a", None)], [])
    assert desk.order() == [2, 3]
    desk.back(one, 1)
    assert (one.hears(), other.hears()) == ([], [(2, "a", None)])
    desk.back(other, 2)
    assert one.hears() == [(3, "a", None)]


def test_a_refusal_is_told_to_whom_it_concerns() -> None:
    desk = SlotDesk(1)
    one, other = Worker(), Worker()
    desk.come(one, 1, "k", ONE, 1.0, None, False)
    desk.come(one, 2, "k", ONE, 1.0, None, False)
    desk.come(one, 3, "k", ONE, 1.0, None, False)
    assert one.hears() == [(1, "a", None), (3, None, Refused.FULL)]
    desk.come(other, 4, "light", ONE, 3.0, None, False)
    assert (one.hears(), other.hears()) == ([(2, None, Refused.SHARE)], [])
    for name in (2, 3):
        desk.back(one, name)
    desk.back(one, 1)
    assert other.hears() == [(4, "a", None)]


def test_all_workers_hear_when_more_is_lent_and_what_one_took_is_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = host_usage.HostUsage(2)
    monkeypatch.setattr(host_usage, "shared", usage)
    desk, lease = SlotDesk(10), usage.lease("k")
    one, other = Worker(), Worker()
    for worker, name in ((one, 1), (other, 2), (one, 3)):
        desk.come(worker, name, "k", (("a", None),), 1.0, 3, True)
    assert (one.hears(), other.hears(), lease.waiting) == ([], [], 3)
    lease.put((2, 0, 0), 0, int(monotonic() * 1000) + 60_000, 1)
    desk.renewed()
    assert (one.hears(), other.hears(), lease.running) == ([(1, "a", None)], [(2, "a", None)], 2)
    desk.depart(other)
    assert (one.hears(), lease.running, lease.waiting) == ([(3, "a", None)], 2, 0)


def test_what_a_worker_had_when_it_died_goes_to_the_others() -> None:
    desk = SlotDesk(10)
    dead, alive = Worker(), Worker()
    for name in (1, 2, 3):
        desk.come(dead, name, "", (("a", 2),), 1.0, None, False)
    desk.come(alive, 4, "", (("a", 2),), 1.0, None, False)
    desk.come(alive, 5, "", (("a", 2),), 1.0, None, False)
    dead.hears()
    desk.depart(dead)
    assert (dead.hears(), alive.hears()) == ([], [(4, "a", None), (5, "a", None)])
    desk.depart(dead)
    desk.back(dead, 1)
    for name in (4, 5):
        desk.back(alive, name)
    assert not desk.queue._used


def test_who_left_while_it_was_given_a_slot_gives_it_back() -> None:
    desk = SlotDesk(10)
    worker = Worker()
    for name in (1, 2, 3):
        desk.come(worker, name, "", ONE, 1.0, None, False)
    desk.back(worker, 2)
    desk.back(worker, 2)
    desk.back(worker, 1)
    assert worker.hears() == [(1, "a", None), (3, "a", None)]
