"""For how long a server that fails at once ranks behind the others; the clock is a number."""

from gomodel.upstream.demotion import FIRST_S, LAST_S, Demotion


def test_the_first_failure_costs_the_rank_for_a_moment():
    it = Demotion()
    assert it.until == 0
    it.failed(100.0)
    assert it.until == 100.0 + FIRST_S


def test_a_burst_of_failures_counts_once():
    it = Demotion()
    for now in (100.0, 100.1, 100.1, 100.9):
        it.failed(now)
    assert it.until == 100.0 + FIRST_S


def test_each_time_it_is_no_better_the_next_try_waits_twice_as_long_up_to_a_limit():
    it, now, waits = Demotion(), 100.0, []
    for _ in range(8):
        it.failed(now)
        waits.append(it.until - now)
        now = it.until
    assert waits == [1, 2, 4, 8, 16, LAST_S, LAST_S, LAST_S]


def test_an_answer_ends_it_and_forgets_how_long_it_lasted():
    it = Demotion()
    it.failed(100.0)
    it.failed(101.0)
    it.over()
    assert it.until == 0
    it.failed(200.0)
    assert it.until == 200.0 + FIRST_S
