"""Requests in flight that several processes count together: sums, places, and what is left of a process that died."""

import os
import warnings
from functools import partial

import pytest

from gomodel.upstream.host_counts import PLACES, HostCounts


def as_row(table: HostCounts, row: int) -> HostCounts:
    """The same memory as another worker sees it."""
    other = HostCounts.__new__(HostCounts)
    other.cells, other._workers = table.cells, table._workers
    other.take(row)
    return other


@pytest.fixture
def pair():
    table = HostCounts(2)
    return as_row(table, 0), as_row(table, 1)


def test_a_process_alone_counts_its_own():
    one, two = (HostCounts().counter(name) for name in "ab")
    one.enter()
    one.enter()
    two.enter()
    one.leave()
    assert (one.total, two.total) == (1, 1)


def test_workers_read_the_sum_of_all(pair):
    here, there = (each.counter("a") for each in pair)
    here.enter()
    there.enter()
    there.enter()
    assert (here.total, there.total) == (3, 3)
    assert (here.own, there.own) == (1, 2)
    here.leave()
    assert (here.total, there.total) == (2, 2)


def test_workers_need_not_name_servers_in_the_same_order_nor_the_same_ones(pair):
    first, second = pair
    here = {name: first.counter(name) for name in ("a", "b", "c")}
    there = {name: second.counter(name) for name in ("x", "c", "a")}
    for name, times in (("a", 1), ("c", 2), ("x", 5)):
        for _ in range(times):
            there[name].enter()
    here["a"].enter()
    assert {name: each.total for name, each in here.items()} == {"a": 2, "b": 0, "c": 2}
    assert {name: each.total for name, each in there.items()} == {"a": 2, "c": 2, "x": 5}
    # Places are kept in mind, and found again when they move.
    there["c"].release()
    there["x"].release()
    moved = second.counter("c")
    moved.enter()
    assert (here["c"].total, moved.total) == (1, 1)


def test_what_a_dead_worker_had_in_flight_is_forgotten_and_its_successor_starts_anew(pair):
    supervisor, second = pair
    here, there = supervisor.counter("a"), second.counter("a")
    here.enter()
    there.enter()
    supervisor.clear(1)
    assert here.total == 1
    successor = as_row(supervisor, 1).counter("a")
    successor.enter()
    assert (here.total, successor.total) == (2, 2)


def test_one_server_known_twice_in_a_process_has_one_count():
    """After a reload that changed its settings the old one serves what runs, and the new one what comes."""
    table = HostCounts()
    old, new = table.counter("a"), table.counter("a")
    old.enter()
    new.enter()
    assert (old.total, new.total) == (2, 2)
    old.release()
    old.leave()
    assert new.total == 1


def test_after_its_release_a_server_is_not_counted_and_disturbs_nobody():
    table = HostCounts()
    gone = table.counter("a")
    gone.enter()
    gone.release()
    gone.release()
    heir = table.counter("b")
    gone.leave()
    assert heir.total == 0
    heir.enter()
    assert (heir.total, table.counter("a").total) == (1, 0)


def test_more_servers_than_there_are_places_are_counted_by_each_process_alone():
    table = HostCounts()
    counters = [table.counter(str(number)) for number in range(PLACES + 3)]
    for each in counters:
        each.enter()
    assert [each.total for each in counters] == [1] * (PLACES + 3)


def test_a_forked_process_counts_in_the_same_memory():
    table = HostCounts(2)
    read_end, write_end = os.pipe()
    go_on, wait = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # the test runner has threads; the child starts none
        pid = os.fork()
    if pid == 0:
        table.take(1)
        counter = table.counter("a")
        counter.enter()
        os.write(write_end, b"x")
        os.read(go_on, 1)
        os.write(write_end, bytes([counter.total]))
        os._exit(0)
    own = table.counter("a")
    read = partial(os.read, read_end, 1)
    assert read() == b"x"
    assert own.total == 1
    own.enter()
    os.write(wait, b"x")
    assert read() == b"\x02"
    os.waitpid(pid, 0)
    for fd in (read_end, write_end, go_on, wait):
        os.close(fd)
