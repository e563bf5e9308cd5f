"""What Retry-After says of the line: the pace of the last turns, whatever was before anybody waited."""

import pytest

from gomodel.relay.pace import Pace

# Of the line: "+" one comes, "-" one has its turn, "x" one leaves; and when, in seconds.
Events = list[tuple[str, float]]


@pytest.mark.parametrize(
    ("events", "now", "expected_s"),
    [
        ([], 100.0, 60.0),  # nobody knows: the longest that anybody waits
        ([("+", 90.0), ("+", 90.0)], 100.0, 60.0),
        ([("+", 90.0), ("x", 95.0)], 100.0, 60.0),
        ([("+", 0.0), ("+", 0.0), ("-", 1.0), ("-", 2.0)], 2.0, 1.0),
        ([("+", 0.0), ("+", 0.0), ("-", 1.0), ("-", 2.0)], 300.0, 1.0),  # idle since then
        ([("+", 0.0), ("-", 1.0), ("+", 300.0), ("+", 300.0), ("-", 301.0)], 301.0, 2.0),  # idle in between
        ([("+", 0.0), ("-", 1.0), ("+", 300.0), ("+", 300.0)], 300.5, 3.0),
        ([("+", 0.0), ("+", 0.0), ("-", 1.0), ("x", 9.0), ("+", 200.0), ("-", 203.0)], 900.0, 2.0),
        ([("+", 0.0), ("+", 0.0), ("-", 1.0)], 10.0, 10.0),  # it has become slower
        ([("+", 0.0), ("-", 0.0)], 0.0, 0.0),
        ([*[("+", 0.0)] * 40, *[("-", float(at)) for at in range(1, 41)]], 40.0, 1.0),
        ([*[("+", 0.0)] * 60, ("-", 100.0)], 100.0, 600.0),
    ],
)
def test_the_wait_is_told_by_the_pace_of_the_last_turns(events: Events, now: float, expected_s: float) -> None:
    pace = Pace()
    for what, at in events:
        if what == "+":
            pace.comes(at)
        else:
            pace.goes(at, served=what == "-")
    assert pace.expected_s(now, 60.0) == expected_s


@pytest.mark.parametrize(
    ("events", "now", "expected_s"),
    [
        ([], 0.0, 2.0),
        ([("+", 0.0), ("+", 0.0)], 1.0, 6.0),
        ([("+", 0.0), ("+", 0.0)], 5.0, 15.0),  # nobody has had a turn for so long
        ([("+", 0.0), ("x", 9.0)], 9.0, 2.0),
        ([("+", 0.0), ("-", 1.0)], 1.0, 1.0),  # by the turn that there was
        ([("+", 0.0)] * 400, 0.0, 600.0),
    ],
)
def test_before_the_first_turn_it_is_told_by_how_often_a_slot_is_given_back(
    events: Events, now: float, expected_s: float
) -> None:
    pace = Pace()
    for what, at in events:
        if what == "+":
            pace.comes(at)
        else:
            pace.goes(at, served=what == "-")
    assert pace.seen is any(what == "-" for what, _ in events)
    assert pace.expected_s(now, 60.0, 2.0) == expected_s


def test_only_the_last_turns_count() -> None:
    pace = Pace()
    for at, gap in [(0.0, 50.0)] * 32 + [(5000.0, 1.0)] * 32:
        pace.comes(at)
        pace.goes(at + gap, served=True)
    assert pace.expected_s(9999.0, 60.0) == 1.0
