"""Counters of workers that do not answer any more."""

import json

import pytest

from gomodel import tally
from gomodel.tally import Tally


def numbers(count: int) -> dict[str, object]:
    return {"requests": [[["vllm"], count]], "up": [[["vllm"], 1]]}


@pytest.fixture
def mine() -> Tally:
    return Tally(["requests"])


def test_a_worker_that_is_gone_keeps_its_counters_and_loses_its_gauges(mine):
    mine.hear("a", numbers(3))
    assert mine.last_words(["b"], []) == [{"requests": [[["vllm"], 3]]}]


def test_a_worker_that_answers_is_not_counted_twice(mine):
    mine.hear("a", numbers(3))
    assert mine.last_words(["a"], []) == []


def test_the_latest_that_was_heard_counts(mine):
    mine.hear("a", numbers(3))
    mine.hear("a", numbers(5))
    assert mine.last_words([], []) == [{"requests": [[["vllm"], 5]]}]


def test_what_another_worker_heard_later_wins_and_what_it_heard_earlier_does_not(mine):
    other = Tally(["requests"])
    mine.hear("a", numbers(3))
    other.hear("a", numbers(4))
    other.hear("b", numbers(7))
    mine.hear("b", numbers(8))
    answers = json.loads(json.dumps([other.departed(["c"])]))
    assert mine.last_words(["c"], answers) == [{"requests": [[["vllm"], 4]]}, {"requests": [[["vllm"], 8]]}]


def test_what_is_remembered_is_bounded(mine, monkeypatch):
    monkeypatch.setattr(tally, "REMEMBERED", 2)
    for worker in "abcab":
        mine.hear(worker, numbers(1))
    assert list(mine.departed([])) == ["a", "b"]


def test_no_two_processes_have_one_name():
    assert Tally([]).worker != Tally([]).worker
