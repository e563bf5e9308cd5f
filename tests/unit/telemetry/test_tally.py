"""Sums over workers that die, or do not answer: no counter ever falls."""

import re
from collections.abc import Iterable
from typing import Any

import pytest

from gomodel.operations.metrics import expose, lasting
from gomodel.telemetry.tally import Tally


def numbers(count: int) -> dict[str, Any]:
    return {
        "gomodel_requests_total": [(("vllm", "/x", "m", "200"), count)],
        "gomodel_requests_in_flight": [(("vllm",), 1)],
        "gomodel_event_loop_lag_seconds": [((), [[count, *[0] * 18], count / 2])],
    }


def totals(snapshots: Iterable[dict[str, Any]]) -> tuple[float, float, float, float]:
    """Requests, running requests, turns of the loop looked at, and their seconds, as a scraper reads them."""
    text = expose(snapshots)[0].decode()
    names = (
        "gomodel_requests_total",
        "gomodel_requests_in_flight",
        "gomodel_event_loop_lag_seconds_count",
        "gomodel_event_loop_lag_seconds_sum",
    )
    found = [re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE) for name in names]
    requests, running, looked, seconds = (sum(map(float, each)) for each in found)
    return requests, running, looked, seconds


@pytest.fixture
def tally() -> Tally:
    return Tally(lasting)


def test_a_worker_that_is_gone_keeps_its_counters_and_loses_its_gauges(tally: Tally) -> None:
    tally.hear("a", numbers(3))
    tally.hear("b", numbers(5))
    assert totals(tally.everything({"a", "b"})) == (8, 2, 8, 4)
    tally.depart("a")
    for answered in ({"b"}, {"a", "b"}):  # it may have died after it answered
        assert totals(tally.everything(answered)) == (8, 1, 8, 4)


def test_so_does_one_that_lives_and_does_not_answer(tally: Tally) -> None:
    tally.hear("a", numbers(3))
    assert totals(tally.everything(set())) == (3, 0, 3, 1.5)
    tally.hear("a", numbers(4))
    assert totals(tally.everything({"a"})) == (4, 1, 4, 2)


def test_one_of_which_nothing_was_heard_leaves_nothing(tally: Tally) -> None:
    tally.depart("a")
    assert totals(tally.everything(set())) == (0, 0, 0, 0)


def test_any_number_of_departed_workers_stays_in_the_sum_and_takes_the_room_of_one(tally: Tally) -> None:
    sizes = set()
    for worker in range(1, 201):
        tally.hear(worker, numbers(1))
        tally.depart(worker)
        assert totals(tally.everything(set())) == (worker, 0, worker, worker / 2)
        sizes.add(sum(len(samples) for each in tally.everything(set()) for samples in each.values()))
    assert len(sizes) == 1
