"""What several workers count of one caller together: sums, the minute that passes, places, and what a death leaves."""

import multiprocessing
import os
import resource
import signal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gomodel.access.host_usage import (
    _MASK,
    _PLACE,
    PLACES,
    REQUESTS,
    RUNNING,
    TOKENS,
    WINDOW_S,
    Account,
    HostUsage,
)


def as_row(usage: HostUsage, row: int) -> HostUsage:
    """The same memory as another worker sees it."""
    other = HostUsage.__new__(HostUsage)
    other.cells, other.taken, other.workers, other.fd = usage.cells, usage.taken, usage.workers, usage.fd
    other.take(row)
    return other


SHARED = HostUsage(2)


@pytest.fixture
def pair() -> tuple[HostUsage, HostUsage]:
    usage = HostUsage(2)
    return as_row(usage, 0), as_row(usage, 1)


def enter(account: Account, now: int, times: int = 1) -> None:
    for _ in range(times):
        account.look(now)
        account.enter()


def test_a_process_alone_counts_its_own() -> None:
    one, other = (HostUsage().account(name) for name in "ab")
    enter(one, 100, 2)
    one.leave()
    one.spend(100, 7)
    assert (one.look(100), other.look(100)) == ((1, 2, 7), (0, 0, 0))


def test_workers_read_the_sum_of_all(pair: tuple[HostUsage, HostUsage]) -> None:
    here, there = (each.account("a") for each in pair)
    enter(here, 100)
    enter(there, 100, 2)
    here.spend(100, 5)
    there.spend(100, 6)
    there.leave()
    assert here.look(100) == there.look(100) == (2, 3, 11)


def test_what_another_worker_has_not_counted_yet_is_nothing(pair: tuple[HostUsage, HostUsage]) -> None:
    here = pair[0].account("a")
    enter(here, 100)
    for name in ("b", "c", "d"):
        enter(pair[1].account(name), 100)
    assert here.look(100) == (1, 1, 0)
    enter(pair[1].account("a"), 100)
    assert here.look(100) == (2, 2, 0)


@pytest.mark.parametrize("looks", [range(100, 200), [159], [160], [131, 159, 160], [300]], ids=str)
def test_a_minute_passes_whoever_looks_and_however_seldom(pair: tuple[HostUsage, HostUsage], looks: range) -> None:
    began = {100: 3, 101: 1, 130: 2}
    here, there = (each.account("a") for each in pair)
    for second, count in began.items():
        enter(there, second, count)
        there.spend(second, 10 * count)
        for _ in range(count):
            there.leave()
    for now in looks:
        if now < 131:
            continue
        left = sum(count for second, count in began.items() if second > now - WINDOW_S)
        assert here.look(now) == (0, left, 10 * left), now  # as the one sees whose numbers they are not
    now = looks[-1]
    left = sum(count for second, count in began.items() if second > now - WINDOW_S)
    assert there.look(now) == (0, left, 10 * left)


def test_the_ring_goes_round() -> None:
    account = HostUsage().account("a")
    for now in range(1000, 1200):
        enter(account, now)
        account.leave()
        assert account.look(now)[1] == min(WINDOW_S, now - 999)
    assert account.look(1200 + 30)[1] == WINDOW_S - 31
    assert account.look(1200 + WINDOW_S) == (0, 0, 0)


def test_what_happens_late_counts_in_the_second_that_was_looked_at(pair: tuple[HostUsage, HostUsage]) -> None:
    for account in (HostUsage().account("a"), pair[0].account("a")):
        enter(account, 100)
        enter(account, 99)
        account.spend(99, 3)
        account.spend(100, 4)
        assert account.second == 100
        assert account.look(99) == account.look(100) == (2, 2, 7)
        assert account.look(100 + WINDOW_S - 1) == (2, 2, 7)
        assert account.look(100 + WINDOW_S) == (2, 0, 0)


def test_what_a_process_alone_counts_in_its_cells_is_counted(pair: tuple[HostUsage, HostUsage]) -> None:
    account = HostUsage().account("a")
    assert account.until == 0
    for now in (100, 101):
        account.look(now)
        assert account.until == now + 1
        account.cells[RUNNING] += 1
        account.cells[REQUESTS] += 1
        account.cells[TOKENS] += 7
    assert account.look(101) == (2, 2, 14)
    assert [account.frees_at(101, requests=most) for most in (2, 1)] == [59, 60]
    account.take_back(100, 101)
    account.take_back(101, 101)
    assert account.look(101 + WINDOW_S - 2) == (2, 0, 14)
    assert account.look(100 + WINDOW_S) == (2, 0, 7)
    shared = pair[0].account("a")
    shared.look(100)
    assert shared.until == 0


def test_when_there_is_room_again_is_known_to_the_second(pair: tuple[HostUsage, HostUsage]) -> None:
    here, there = (each.account("a") for each in pair)
    enter(here, 100, 2)
    enter(there, 110, 2)
    there.spend(120, 50)
    here.spend(125, 50)
    for account in (here, there):
        assert [account.frees_at(130, requests=most) for most in (4, 3, 2, 1)] == [30, 30, 40, 40]
        assert [account.frees_at(130, tokens=most) for most in (100, 50)] == [50, 55]
    for account in (here, there):
        assert account.look(160)[1] == 2
        assert account.frees_at(170, tokens=50) == 15


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "spend", "back", "back", "look"]),
        st.integers(0, 1),
        st.sampled_from([0, 0, 1, 7, 29, 58, 59, 60, 61, 200]),
    ),
    min_size=4,
    max_size=25,
)


@settings(derandomize=True, deadline=None, database=None, max_examples=100)
@given(steps=STEPS)
def test_whatever_two_workers_count_each_knows_the_last_minute_of_both(steps: list[tuple[str, int, int]]) -> None:
    rows = [each.account("a") for each in (as_row(SHARED, 0), as_row(SHARED, 1))]
    for each in rows:
        each.cells[each._at + 1 : each._at + _PLACE] = memoryview(bytes(8 * (_PLACE - 1))).cast("q")
    began: list[tuple[int, int]] = []  # when, and by whom
    spent: list[tuple[int, int]] = []  # when, and how much
    now = 1000
    for what, row, later in steps:
        now += later
        account = rows[row]
        if what == "enter":
            enter(account, now)
            began.append((now, row))
        elif what == "spend":
            account.spend(now, later + 1)
            spent.append((now, later + 1))
        elif what == "back" and (own := [each for each in began if each[1] == row]):
            account.take_back(own[-1][0], now)
            began.remove(own[-1])
        # Of who only looks when it is asked for the sums are old, and those of the other are as old to it.
        look = account if what == "look" else rows[1 - row]
        requests = [when for when, _ in began if when > now - WINDOW_S]
        tokens = [each for each in spent if each[0] > now - WINDOW_S]
        assert look.look(now)[1:] == (len(requests), sum(count for _, count in tokens))
        for most in (1, 2):
            free = next(after for after in range(1, 61) if sum(when > now + after - 60 for when in requests) < most)
            assert look.frees_at(now, requests=most) == free
            free = next(after for after in range(1, 61) if sum(n for t, n in tokens if t > now + after - 60) < 9 * most)
            assert look.frees_at(now, tokens=9 * most) == free


def test_what_ran_in_a_dead_worker_is_gone_and_its_minute_is_not(pair: tuple[HostUsage, HostUsage]) -> None:
    here, there = (each.account("a") for each in pair)
    enter(here, 100)
    enter(there, 100, 3)
    there.spend(100, 9)
    enter(pair[1].account("b"), 100, 2)
    pair[0].clear(1)
    assert here.look(100) == (1, 4, 9)
    assert pair[0].account("b").look(100) == (0, 2, 0)
    enter(here, 101)
    pair[0].clear(0)
    assert here.look(101) == (0, 5, 9)
    again = as_row(pair[0], 1).account("a")
    enter(again, 110)
    assert here.look(110) == again.look(110) == (1, 6, 9)


def test_clearing_a_row_takes_no_memory_for_places_of_nobody() -> None:
    usage = HostUsage(2)
    enter(as_row(usage, 1).account("a"), 100)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    usage.clear(1)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 100  # a row has 4000 pages


def test_names_whose_places_meet_have_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = HostUsage(2)
    rows = as_row(usage, 0), as_row(usage, 1)
    keys = [7, 7 + PLACES, 7 + 2 * PLACES]

    def account(row: int, key: int) -> Account:
        start = rows[row].start(row)
        at = rows[row].find(start, key)
        usage.cells[at] = key
        return Account(rows[row], key, at)

    first = [account(0, key) for key in keys]
    second = [account(1, key) for key in reversed(keys)]
    for count, each in enumerate(first, 1):
        enter(each, 100, count)
    for count, each in enumerate(second, 1):
        enter(each, 100, 10 * count)
    assert [each.look(100)[0] for each in first] == [31, 22, 13]
    assert [each.look(100)[0] for each in second] == [13, 22, 31]


def test_without_a_place_left_a_process_counts_for_itself() -> None:
    usage = HostUsage(2)
    account = usage.account("a")
    at = (account._key & _MASK) * _PLACE
    for probe in range(40):
        usage.cells[(at + probe * _PLACE) % len(usage.cells)] = 1
    alone = usage.account("a")
    enter(alone, 100)
    assert alone.look(100) == (1, 1, 0)
    assert alone._usage is not usage


def _let_in(account: Account, limit: int) -> bool:
    running, *_ = account.look(0)
    if running >= limit:
        return False
    if running + account.margin < limit:
        os.sched_yield()  # between its look and its decision others have their turn
        account.enter()
        return True
    if not account.lock():
        return False
    try:
        if account.look(0)[0] >= limit:
            return False
        os.sched_yield()
        account.enter()
    finally:
        account.unlock()
    return True


def _decide(usage: HostUsage, row: int, limit: int, rounds: int, inside: object, most: object, results: object) -> None:
    usage.take(row)
    account = usage.account("a")
    for _ in range(rounds):
        while not _let_in(account, limit):
            os.sched_yield()
        with inside.get_lock():  # type: ignore[attr-defined]
            inside.value += 1  # type: ignore[attr-defined]
            most.value = max(most.value, inside.value)  # type: ignore[attr-defined]
        os.sched_yield()
        with inside.get_lock():  # type: ignore[attr-defined]
            inside.value -= 1  # type: ignore[attr-defined]
        account.leave()
    results.put(usage.cells[account._at + 1])  # type: ignore[attr-defined]


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_processes_that_decide_at_the_same_time_never_let_in_one_too_many(limit: int) -> None:
    processes, rounds = 3, 300
    context = multiprocessing.get_context("fork")
    usage = HostUsage(processes)
    inside, most, results = context.Value("i", 0), context.Value("i", 0), context.SimpleQueue()
    children = [
        context.Process(target=_decide, args=(usage, row, limit, rounds, inside, most, results))
        for row in range(processes)
    ]
    for each in children:
        each.start()
    found = [results.get() for _ in children]
    for each in children:
        each.join()
    assert most.value <= limit
    assert inside.value == 0
    assert found == [0] * processes


def test_a_lock_is_never_waited_for_and_goes_with_its_holder() -> None:
    usage = HostUsage(2)
    ours, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        as_row(usage, 1).account("a").lock()
        os.write(told, b"x")
        signal.pause()
        os._exit(0)
    os.read(ours, 1)
    account = as_row(usage, 0).account("a")
    assert not account.lock()
    assert as_row(usage, 0).account("b").lock()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert account.lock()
    account.unlock()
    for fd in (ours, told):
        os.close(fd)
