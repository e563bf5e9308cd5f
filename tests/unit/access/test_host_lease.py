"""A lease is the same for every worker of the host, holds until it is over, and is asked for by one of them."""

import pytest

from gomodel.access import host_lease
from gomodel.access.host_lease import Lease
from gomodel.access.host_usage import HostUsage

from .test_host_usage import as_row


def pair(name: str = "a") -> tuple[Lease, Lease]:
    usage = HostUsage(2)
    return as_row(usage, 0).lease(name), as_row(usage, 1).lease(name)


def test_what_one_worker_was_lent_every_worker_may_use_until_it_is_over() -> None:
    here, there = pair()
    assert (here.get(0), there.get(0), there.gateways, there.divided_at) == (None, None, 1, 0)
    here.put((1, 2, 3), 100, 500, 4)
    for each in (here, there):
        assert (each.get(499), each.get(500), each.gateways, each.divided_at) == ((1, 2, 3), None, 4, 100)
    there.put((4, 5, 6), 200, 900, 0)
    assert (here.get(899), here.gateways, here.divided_at) == ((4, 5, 6), 1, 200)


def test_one_worker_asks_for_the_next_and_the_others_leave_it_for_a_while() -> None:
    here, there = pair()
    assert here.claim(1000, 20)
    assert [there.claim(now, 20) for now in (1000, 1019, 1020, 1039, 1040)] == [False, False, True, False, True]
    assert [here.claim(now, 20) for now in (1041, 1060)] == [False, True]


def test_that_it_fell_short_is_known_to_all_and_changes_nothing_else() -> None:
    here, there = pair()
    here.put((1, 2, 3), 100, 500, 4)
    assert there.short_at == 0
    here.fell_short(300)
    assert (here.short_at, there.short_at) == (300, 300)
    assert (there.get(499), there.gateways, there.divided_at) == ((1, 2, 3), 4, 100)
    assert there.claim(20, 20)


def ms(at: float) -> int:
    return int(at * 1000)


def test_the_line_reads_what_there_is_at_the_moment_whoever_said_it(monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = pair()
    now = 1000.0
    monkeypatch.setattr(host_lease, "monotonic", lambda: now)
    assert here.most() == 0
    there.put_instead(5, ms(1002))
    assert here.most() == 5
    there.put((2, 0, 0), ms(1000), ms(1001), 1)
    assert here.most() == 2, "what is lent goes first"
    now = 1001.0
    assert here.most() == 5
    now = 1002.0
    assert (here.most(), there.most()) == (0, 0)


def test_what_the_line_took_is_known_to_all_and_changes_nothing_else() -> None:
    here, there = pair()
    there.put((1, 2, 3), 100, 500, 4)
    here.take(7, 8)
    assert (there.running, there.waiting, there.get(499), there.gateways) == (7, 8, (1, 2, 3), 4)


def test_leases_of_two_names_are_two() -> None:
    usage = HostUsage()
    one, other = usage.lease("a"), usage.lease("b")
    one.put((1, 2, 3), 100, 500, 4)
    assert other.get(0) is None
    other.put((4, 5, 6), 100, 500, 4)
    assert (one.get(0), other.get(0)) == ((1, 2, 3), (4, 5, 6))


def test_a_name_whose_place_another_took_gets_an_empty_one_of_its_own() -> None:
    usage = HostUsage(2)
    here, there = as_row(usage, 0), as_row(usage, 1)
    late = here.lease("a")
    key, at = late._key, late._at
    usage.cells[at] = key + 1  # another name's worker was faster
    usage.cells[at + 1 : at + 13] = memoryview(b"\1" * 96).cast("q")
    assert late.get(0) is None
    assert (late.running, late.waiting) == (0, 0)
    late.put((1, 2, 3), 100, 500, 4)
    assert (late.get(0), there.lease("a").get(0)) == ((1, 2, 3), (1, 2, 3))
    assert usage.cells[at] == key + 1
    assert usage.cells[at + 1] == memoryview(b"\1" * 8).cast("q")[0]
