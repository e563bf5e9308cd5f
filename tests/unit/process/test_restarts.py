"""When a worker is started again, given up on, or taken for hung; time is a number here."""

import pytest

from gomodel.process.restarts import Limits, Restarts

LIMITS = Limits()
NEVER = float("inf")


def running(count: int, ready: int | None = None) -> Restarts:
    """All places filled at 0.0, the first `ready` of them ready."""
    restarts = Restarts(count, LIMITS)
    restarts.begin(0.0)
    for place in restarts.to_start(0.0)[:ready]:
        restarts.ready(place)
    return restarts


def test_every_place_is_filled_once() -> None:
    restarts = Restarts(3, LIMITS)
    assert restarts.to_start(0.0) == []
    restarts.begin(0.0)
    assert restarts.due == 0.0
    assert [place.index for place in restarts.to_start(0.0)] == [1, 2, 3]
    assert restarts.to_start(9.0) == []


def test_the_gateway_is_up_when_all_are_ready_and_only_once() -> None:
    restarts = running(2, ready=0)
    one, two = restarts.places
    assert [restarts.ready(one), restarts.ready(two), restarts.ready(one)] == [False, True, False]
    restarts.failed(one, 1.0)
    restarts.to_start(NEVER)
    assert not restarts.ready(one)


def test_the_wait_before_another_start_doubles_up_to_a_limit() -> None:
    restarts = running(2)
    place, now, delays = restarts.places[0], 0.0, []
    for _ in range(8):
        delay = restarts.failed(place, now)
        assert delay is not None
        assert restarts.to_start(now + delay - 0.01) == []
        now += delay
        assert restarts.to_start(now) == [place]
        delays.append(delay)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_one_that_lived_for_long_did_not_die_of_its_start() -> None:
    restarts = running(2)
    place = restarts.places[0]
    assert [restarts.failed(place, 1.0), restarts.failed(place, 2.0)] == [0.1, 0.2]
    restarts.to_start(3.0)
    assert restarts.failed(place, 3.0 + LIMITS.stable_s) == 0.1


def test_one_that_was_told_to_end_is_followed_at_once_by_another() -> None:
    restarts = running(2)
    place = restarts.places[0]
    restarts.failed(place, 1.0)
    restarts.ended(place, 2.0)
    assert restarts.to_start(2.0) == [place]
    assert restarts.failed(place, 2.0) == 0.1


def test_a_place_whose_worker_ended_is_empty_at_once_and_filled_from_then_on() -> None:
    restarts = running(2)
    place = restarts.places[0]
    restarts.ended(place, 2.0)
    assert not place.ready
    assert restarts.due == 2.0
    assert (restarts.to_start(1.9), restarts.to_start(2.0)) == ([], [place])


@pytest.mark.parametrize(
    ("ready", "others", "given_up"),
    [
        (2, "serves", False),
        (2, "serves again", False),
        (2, "starts", False),
        (2, "fails", True),
        (0, "serves", True),
        (0, "fails", True),
    ],
)
def test_the_gateway_is_given_up_when_one_never_stays_and_no_other_serves(
    ready: int, others: str, given_up: bool
) -> None:
    restarts = running(2, ready)
    one, two = restarts.places
    if others == "starts":
        restarts.ended(two, 0.0)
    elif others != "serves":
        restarts.failed(two, 0.0)
    if others == "serves again":
        restarts.ready(two)
    delays = [restarts.failed(one, 0.0) for _ in range(LIMITS.attempts)]
    assert (delays[-1] is None) == given_up
    assert None not in delays[:-1]


def test_at_the_end_no_place_is_filled_again() -> None:
    restarts = running(2)
    restarts.failed(restarts.places[0], 1.0)
    restarts.stop()
    assert restarts.to_start(99.0) == []


def beats(restarts: Restarts, count: int, *, heard: int | None = None) -> list[list[int]]:
    """`count` beats; `heard` is the index of the one place that says something before each."""
    found = []
    for _ in range(count):
        for place in restarts.places:
            if place.index == heard:
                place.missed = 0
        found.append([place.index for place in restarts.hung(restarts.due)])
    return found


def test_a_silent_worker_is_taken_for_hung_within_30_seconds_and_a_heard_one_never() -> None:
    restarts = running(2)
    assert beats(restarts, LIMITS.silent_beats + 1, heard=2) == [[]] * LIMITS.silent_beats + [[1]]
    assert restarts.due <= 30.0
    assert not restarts.alive(restarts.places[0])
    assert restarts.alive(restarts.places[1])


def test_it_is_not_alive_for_the_watchdog_long_before() -> None:
    restarts = running(1)
    place = restarts.places[0]
    beats(restarts, 1)
    assert restarts.alive(place)  # its beat may be on the way
    beats(restarts, 1)
    assert not restarts.alive(place)


def test_a_pause_of_the_whole_machine_is_one_beat_that_everybody_missed() -> None:
    restarts = running(2)
    assert restarts.hung(3600.0) == []
    assert restarts.due == 3600.0 + LIMITS.beat_s
    assert all(restarts.alive(place) for place in restarts.places)


def test_no_beat_is_counted_before_it_is_due() -> None:
    restarts = running(1)
    assert [restarts.hung(LIMITS.beat_s - 0.01) for _ in range(9)] == [[]] * 9
    assert restarts.alive(restarts.places[0])


def test_the_next_worker_in_a_place_starts_with_a_clean_sheet() -> None:
    restarts = running(1)
    beats(restarts, LIMITS.silent_beats + 1)
    place = restarts.places[0]
    restarts.failed(place, 30.0)
    restarts.to_start(NEVER)
    assert restarts.alive(place)
