"""Lines of batches take what nobody else wants, and give it back at once."""

from bisect import bisect_left

import pytest

from gomodel.batches.politeness import Pace, Pressure
from gomodel.telemetry.histogram import SECONDS

QUIET = Pressure()


def streams(count: int, mean_s: float, late: int = 0, late_s: float = 10.0) -> Pressure:
    counts = [0] * (len(SECONDS) + 1)
    counts[bisect_left(SECONDS, mean_s)] = count - late
    counts[bisect_left(SECONDS, late_s)] += late
    return Pressure(tuple(counts), count * mean_s)


def grown(pace: Pace, seconds: int, pressure: Pressure = QUIET, start: int = 100) -> Pace:
    for second in range(seconds):
        pace.second(pressure, start + second, used=True)
    return pace


def test_it_begins_with_one_and_grows_by_one_a_second_to_the_ceiling() -> None:
    pace = Pace(4)
    limits = []
    for second in range(6):
        limits.append(pace.limit)
        pace.second(QUIET, second, used=True)
    assert limits == [1, 2, 3, 4, 4, 4]


def test_it_does_not_grow_while_nothing_waits_for_it() -> None:
    pace = Pace(16)
    pace.second(QUIET, 1, used=False)
    assert pace.limit == 1


def test_a_busy_server_halves_it_once_a_second_and_never_below_one() -> None:
    pace = grown(Pace(16), 15)
    for _ in range(5):
        pace.busy(200.0)
    assert pace.limit == 8
    pace.busy(200.9)
    assert pace.limit == 8
    pace.busy(201.0)
    assert pace.limit == 4
    for second in range(10):
        pace.busy(202.0 + second)
    assert pace.limit == 1


def test_somebody_who_waits_too_long_halves_it() -> None:
    pace = grown(Pace(16), 15)
    pace.second(Pressure(waiting=1), 300, used=True)
    assert pace.limit == 8


def test_first_bytes_as_fast_as_ever_let_it_grow() -> None:
    assert grown(Pace(16), 10, streams(20, 0.05)).limit == 11


def test_first_bytes_that_come_later_make_it_give_way() -> None:
    pace = grown(Pace(16), 15, streams(20, 0.05))
    pace.second(streams(20, 0.1), 300, used=True)
    assert pace.limit == 12
    for second in range(20):
        pace.second(streams(20, 0.1), 301 + second, used=True)
    assert pace.limit == 1


def test_a_change_of_the_load_is_taken_for_usual_in_the_end() -> None:
    pace = grown(Pace(16), 5, streams(20, 0.05))
    grown(pace, 1200, streams(20, 0.1), start=200)
    assert pace.limit > 1


def test_a_lower_ceiling_counts_at_once() -> None:
    pace = grown(Pace(16), 15)
    pace.ceiling = 4
    pace.second(QUIET, 300, used=False)
    assert pace.limit == 4


def test_a_few_late_ones_among_many_make_it_give_way_though_the_mean_stays() -> None:
    pace = grown(Pace(16), 15, streams(20, 0.05))
    for second in range(3):
        pace.second(streams(20, 0.05, late=1), 300 + second, used=True)
    assert pace.limit < 16


def test_those_that_are_late_without_lines_too_are_nobodys_fault() -> None:
    pace = Pace(16)
    grown(pace, 40, streams(20, 0.05, late=2), start=0)
    pace.limit = 1
    for second in range(40):
        pace.second(streams(20, 0.05, late=2), 100 + second, used=False)
    grown(pace, 20, streams(20, 0.05, late=2), start=200)
    assert pace.limit > 8


def test_near_where_it_was_too_much_it_grows_slowly() -> None:
    pace = grown(Pace(16), 15, streams(20, 0.05))
    pace.second(streams(20, 0.05, late=4), 300, used=True)
    assert pace.limit == 12
    limits = []
    for second in range(25):
        pace.second(streams(20, 0.05), 301 + second, used=True)
        limits.append(pace.limit)
    assert limits == [13] * 10 + [14] * 10 + [15] * 5


def test_a_second_after_it_was_halved_it_grows_again() -> None:
    pace = grown(Pace(16), 15)
    pace.busy(200.0)
    pace.second(QUIET, 200.9, used=True)
    assert pace.limit == 8
    pace.second(QUIET, 201.0, used=True)
    assert pace.limit == 9


@pytest.mark.parametrize(("before", "after"), [(1, 1), (2, 1), (3, 2), (4, 3), (7, 6), (8, 6), (16, 12)])
def test_it_gives_way_by_a_quarter_and_by_one_at_least(before: int, after: int) -> None:
    pace = grown(Pace(16), 15, streams(20, 0.05))
    pace.limit = before
    pace.second(streams(20, 0.5), 300, used=True)
    assert pace.limit == after
    pace.second(streams(20, 0.5), 301, used=True)
    assert pace.limit < before or pace.limit == 1


@pytest.mark.parametrize(
    ("mean_s", "slow"), [(0.05, False), (0.07, False), (0.0724, False), (0.073, True), (0.2, True)]
)
def test_a_mean_is_late_that_is_a_quarter_and_ten_milliseconds_above_the_usual_one(mean_s: float, slow: bool) -> None:
    pace = grown(Pace(16), 10, streams(20, 0.05))
    pace.second(streams(20, mean_s), 300, used=True)
    assert (pace.limit < 11) is slow


def test_what_is_usual_changes_by_hours_and_not_by_minutes() -> None:
    pace = grown(Pace(16), 5, streams(20, 0.05))
    grown(pace, 100, streams(20, 0.1), start=200)
    assert pace.limit == 1


@pytest.mark.parametrize(
    ("count", "late", "late_s", "gives_way"),
    [
        (20, 1, 10.0, True),
        (20, 1, 0.4, True),  # in a bucket above that of four times the usual
        (20, 5, 0.22, False),  # in that bucket
        (300, 2, 10.0, False),
        (300, 3, 10.0, True),
    ],
)
def test_so_many_late_ones_are_too_many(count: int, late: int, late_s: float, gives_way: bool) -> None:
    pace = grown(Pace(16), 10)
    pace.second(streams(count, 0.05, late=late, late_s=late_s), 300, used=True)
    assert (pace.limit < 11) is gives_way


def test_more_late_ones_than_without_lines_make_it_give_way() -> None:
    pace = Pace(16)
    for second in range(60):
        pace.second(streams(20, 0.05, late=2), second, used=False)
    grown(pace, 10, streams(20, 0.05, late=2), start=100)
    assert pace.limit == 11
    pace.second(streams(20, 0.05, late=6), 200, used=True)
    assert pace.limit == 9


def test_it_grows_fast_up_to_three_quarters_of_where_it_was_too_much_and_again_beyond_that() -> None:
    pace = grown(Pace(32), 15)
    pace.busy(300.0)
    limits = []
    for second in range(70):
        pace.second(QUIET, 301 + second, used=True)
        limits.append(pace.limit)
    slowly = [limit for limit in (12, 13, 14, 15, 16) for _ in range(10)]
    assert limits == [9, 10, 11, *slowly, *range(17, 33), 32]
