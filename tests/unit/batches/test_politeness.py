"""Lines of batches take what nobody else wants, and give it back at once."""

from gomodel.batches.politeness import Pace, Pressure

QUIET = Pressure()


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
    for second in range(10):
        pace.busy(201.0 + second)
    assert pace.limit == 1


def test_somebody_who_waits_too_long_halves_it() -> None:
    pace = grown(Pace(16), 15)
    pace.second(Pressure(waiting=1), 300, used=True)
    assert pace.limit == 8


def test_first_bytes_as_fast_as_ever_let_it_grow() -> None:
    assert grown(Pace(16), 10, Pressure(20, 1.0)).limit == 11


def test_first_bytes_that_come_later_make_it_give_way() -> None:
    pace = grown(Pace(16), 15, Pressure(20, 1.0))
    pace.second(Pressure(20, 2.0), 300, used=True)
    assert pace.limit == 12
    for second in range(20):
        pace.second(Pressure(20, 2.0), 301 + second, used=True)
    assert pace.limit == 1


def test_a_change_of_the_load_is_taken_for_usual_in_the_end() -> None:
    pace = grown(Pace(16), 5, Pressure(20, 1.0))
    grown(pace, 1200, Pressure(20, 2.0), start=200)
    assert pace.limit > 1


def test_a_lower_ceiling_counts_at_once() -> None:
    pace = grown(Pace(16), 15)
    pace.ceiling = 4
    pace.second(QUIET, 300, used=False)
    assert pace.limit == 4
