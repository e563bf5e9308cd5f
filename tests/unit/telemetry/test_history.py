"""What the last hour was like, slot by slot, by one worker and by several."""

from typing import Any

import pytest

from gomodel.telemetry import history as module
from gomodel.telemetry.histogram import SECONDS
from gomodel.telemetry.history import ALL, MAX_ROWS, SLOTS, History, charts, quantile

VLLM = ("instance", "vllm")


def noted(*requests: int, first_slot: int = 100) -> History:
    history = History()
    for number, count in enumerate(requests):
        history.keep(first_slot + number, history.since({ALL: {"requests": count}}, {}))
    return history


def of(found: list[dict[str, Any]], by: str = "all") -> dict[str, Any]:
    return next(each for each in found if each["by"] == by)


def test_a_slot_has_what_came_in_it():
    assert noted(5, 5, 8).read(100, 1) == {0: {ALL: {"requests": 5}}, 1: {}, 2: {ALL: {"requests": 3}}}


def test_steps_add_slots_up_and_leave_out_what_was_before():
    assert noted(1, 3, 6, 10, 15).read(101, 2) == {0: {ALL: {"requests": 5}}, 1: {ALL: {"requests": 9}}}


def test_of_gauges_a_step_has_the_most_at_once_and_workers_add_up():
    history = History()
    for slot, running in enumerate((2, 7, 4)):
        history.keep(slot, history.since({}, {ALL: {"running": running}, VLLM: {"running": 0}}))
    found = history.read(0, 3)
    assert found == {0: {ALL: {"running": 7}}}
    assert of(charts([found, found], 1, 30))["points"]["running"] == [14]
    assert of(charts([history.read(0, 1)], 3, 10))["window"]["running"] == 7


def test_an_hour_is_kept():
    history = noted(*range(SLOTS + 10), first_slot=0)
    assert sorted(history.read(0, 1)) == list(range(10, SLOTS + 10))


def test_of_too_many_rows_those_of_the_busiest_are_kept_and_that_of_all():
    rows = {("key", str(number)): {"requests": number} for number in range(1, MAX_ROWS + 100)}
    history = History()
    history.keep(0, history.since({**rows, ALL: {"requests": 1}}, {}))
    kept = history.read(0, 1)[0]
    assert len(kept) == MAX_ROWS
    assert ALL in kept
    assert ("key", "1") not in kept
    assert ("key", str(MAX_ROWS + 99)) in kept


def test_who_asked_for_nothing_goes_before_who_asked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_ROWS", 2)
    history = History()
    history.keep(
        0, history.since({("key", "silent"): {"events": 9}, ("key", "asks"): {"requests": 1}, ALL: {"requests": 1}}, {})
    )
    assert history.read(0, 1) == {0: {ALL: {"requests": 1}, ("key", "asks"): {"requests": 1}}}


def test_a_gauge_counts_where_the_other_is_nothing_and_two_of_nothing_are_no_row():
    history = History()
    history.keep(0, history.since({}, {ALL: {"running": 3, "waiting": 0}, VLLM: {"running": 0, "waiting": 0}}))
    assert history.read(0, 1) == {0: {ALL: {"running": 3, "waiting": 0}}}


def test_charts_come_in_the_order_of_requests_then_of_names_behind_that_of_all():
    rows = {
        ("key", "b"): {"requests": 1},
        ("key", "busy"): {"requests": 5},
        ("key", "none"): {"events": 2},
        ("key", "a"): {"requests": 1},
        ALL: {"requests": 1},
    }
    assert [each["name"] for each in charts([{0: rows}], 1, 10)] == ["", "busy", "a", "b", "none"]


def test_rates_are_rounded_and_what_is_outside_the_window_is_left_out():
    counts = {ALL: {"requests": 1, "prompt_tokens": 2}}
    (found,) = charts([{-1: counts, 0: counts, 1: counts}], 1, 30)
    assert (found["window"]["requests"], found["points"]["requests"]) == (1, [1])
    assert (found["points"]["requests_per_second"], found["points"]["tokens_per_second"]) == ([0.033], [0.1])


def test_charts_have_a_value_for_each_step_and_one_for_the_window():
    counts = {"requests": 30, "prompt_tokens": 100, "completion_tokens": 50, ("stream_first_byte", 3): 30}
    found = charts([{0: {}, 1: {ALL: counts, VLLM: counts}, 2: {}}, {1: {ALL: counts}, 7: {ALL: counts}}], 3, 20)
    assert [(each["by"], each["name"]) for each in found] == [("all", ""), VLLM]
    points, window = of(found)["points"], of(found)["window"]
    assert points["requests"] == [0, 60, 0]
    assert points["requests_per_second"] == [0, 3, 0]
    assert points["tokens_per_second"] == [0, 15, 0]
    assert points["stream_first_byte_p50_s"] == [None, 0.0075, None]
    assert (window["requests"], window["requests_per_second"]) == (60, 1)
    assert window["answer_first_byte_p95_s"] is None


def test_steps_before_the_start_are_unknown_and_no_part_of_a_rate():
    (found,) = charts([{2: {ALL: {"requests": 20}}, 3: {}}], 4, 10)
    assert found["points"]["requests"] == [None, None, 20, 0]
    assert found["points"]["gap_p50_s"] == [None] * 4
    assert found["window"]["requests_per_second"] == 1


def test_nothing_counted_is_no_series():
    assert charts([{}, {0: {}}], 4, 10) == []


@pytest.mark.parametrize(
    ("buckets", "share", "expected"),
    [
        ({0: 10}, 0.5, 0.0005),
        ({0: 1, 1: 1}, 0.5, 0.001),
        ({0: 1, 1: 1}, 1.0, 0.0025),
        ({len(SECONDS): 4}, 0.95, SECONDS[-1]),
        ({4: 99, 9: 1}, 0.95, 0.0244),
        ({}, 0.5, None),
    ],
)
def test_quantiles_lie_within_their_bucket(buckets: dict[int, int], share: float, expected: float | None):
    found = quantile({("gap", at): count for at, count in buckets.items()}, "gap", share)
    assert found == (None if expected is None else pytest.approx(expected, abs=1e-4))
