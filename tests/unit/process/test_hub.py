"""Questions between workers as the supervisor passes them on: who is asked, who is waited for, and what is lost."""

from typing import Any

import pytest

from gomodel.operations.siblings import METRICS, OWN, PATIENCE_S
from gomodel.process import hub
from gomodel.process.hub import Hub
from gomodel.telemetry.tally import Tally


class Member:
    """A worker that keeps what it is sent."""

    def __init__(self) -> None:
        self.waiting = 0
        self.sent: list[tuple[Any, ...]] = []

    def send(self, *message: Any) -> None:
        self.sent.append(message)


def summed(snapshots: Any) -> dict[str, Any]:
    """Counters only: a snapshot is {"c": counter, "g": gauge} here."""
    return {"c": sum(each.get("c", 0) for each in snapshots)}


def counter(answers: list[dict[str, Any]]) -> int:
    return sum(each["c"] for each in answers)


def gauges(answers: list[dict[str, Any]]) -> list[int]:
    return sorted(each["g"] for each in answers if "g" in each)


@pytest.fixture
def three() -> tuple[Hub, Member, Member, Member]:
    made, members = Hub(Tally(summed)), (Member(), Member(), Member())
    for each in members:
        made.join(each)
    return made, *members


def test_a_question_goes_to_all_others_and_their_answers_back(three: tuple[Hub, Member, Member, Member]) -> None:
    hub, one, two, three_ = three
    hub.ask(one, 7, "abort", "r-1", 0.0)
    assert (one.sent, two.sent, three_.sent) == (
        [],
        [("question", 1, "abort", "r-1")],
        [("question", 1, "abort", "r-1")],
    )
    hub.answer(three_, 1, "abort", [2])
    assert one.sent == []
    hub.answer(two, 1, "abort", [0])
    assert one.sent == [("answers", 7, [2, 0])]
    assert hub.due == float("inf")


def test_the_only_worker_is_answered_at_once() -> None:
    hub, one = Hub(Tally(summed)), Member()
    hub.join(one)
    hub.ask(one, 1, "requests", None, 0.0)
    hub.ask(one, 2, METRICS, {"c": 3, "g": 1}, 0.0)
    assert one.sent[0] == ("answers", 1, [])
    assert counter(one.sent[1][2]) == 3


def test_questions_of_several_workers_at_once_are_not_mixed_up(three: tuple[Hub, Member, Member, Member]) -> None:
    hub, one, two, three_ = three
    hub.ask(one, 1, "requests", None, 0.0)
    hub.ask(two, 1, "requests", None, 0.0)
    hub.answer(three_, 2, "requests", ["c for two"])
    hub.answer(three_, 1, "requests", ["c for one"])
    hub.answer(one, 2, "requests", ["a"])
    hub.answer(two, 1, "requests", ["b"])
    assert one.sent[-1] == ("answers", 1, ["c for one", "b"])
    assert two.sent[-1] == ("answers", 1, ["c for two", "a"])


def test_who_does_not_answer_in_time_costs_its_own_part(three: tuple[Hub, Member, Member, Member]) -> None:
    hub, one, two, three_ = three
    hub.ask(one, 1, "requests", None, 100.0)
    hub.answer(two, 1, "requests", ["b"])
    assert hub.due == 100.0 + PATIENCE_S
    hub.expire(hub.due - 0.01)
    assert one.sent == []
    hub.expire(hub.due)
    assert one.sent == [("answers", 1, ["b"])]
    hub.answer(three_, 1, "requests", ["too late"])
    hub.answer(two, 1, "requests", ["twice"])
    assert len(one.sent) == 1


def test_so_does_who_cannot_answer_and_who_dies_over_it(three: tuple[Hub, Member, Member, Member]) -> None:
    hub, one, two, three_ = three
    hub.ask(one, 1, "requests", None, 0.0)
    hub.answer(two, 1, "requests", [])
    hub.leave(three_)
    assert one.sent == [("answers", 1, [])]


def test_a_worker_that_asks_and_dies_leaves_no_question_behind(three: tuple[Hub, Member, Member, Member]) -> None:
    hub, one, two, _ = three
    hub.ask(one, 1, "requests", None, 0.0)
    hub.leave(one)
    hub.answer(two, 1, "requests", ["b"])
    hub.expire(99.0)
    assert one.sent == []
    assert hub.due == float("inf")


def test_one_that_does_not_read_is_asked_nothing_more(three: tuple[Hub, Member, Member, Member]) -> None:
    made, one, two, three_ = three
    two.waiting = hub.BACKLOG_BYTES
    made.ask(one, 1, "requests", None, 0.0)
    made.answer(three_, 1, "requests", ["c"])
    assert two.sent == []
    assert one.sent == [("answers", 1, ["c"])]


class TestMetrics:
    """Each worker has counted what its name says: 1, 20, 300."""

    def scrape(self, three: tuple[Hub, Member, Member, Member], answering: list[int], by: int = 0) -> Any:
        hub, *members = three
        counts = [{"c": 1, "g": 1}, {"c": 20, "g": 2}, {"c": 300, "g": 3}]
        for each in members:
            each.sent.clear()
        hub.ask(members[by], 1, METRICS, counts[by], 0.0)
        for at in answering:
            for _, number, *_ in members[at].sent:
                hub.answer(members[at], number, METRICS, [counts[at]])
        hub.expire(PATIENCE_S)
        return members[by].sent[-1][2]

    def test_are_those_of_all(self, three: tuple[Hub, Member, Member, Member]) -> None:
        answers = self.scrape(three, [1, 2])
        assert (counter(answers), gauges(answers)) == (321, [1, 2, 3])
        assert three[2].sent == [("question", 1, METRICS, None)]

    @pytest.mark.parametrize("silent", [0, 1, 2])
    @pytest.mark.parametrize("by", [0, 1, 2])
    def test_never_fall_when_one_is_silent_or_dies_the_one_that_was_scraped_too(
        self, three: tuple[Hub, Member, Member, Member], silent: int, by: int
    ) -> None:
        hub, *members = three
        everybody = [0, 1, 2]
        assert counter(self.scrape(three, everybody, by)) == 321
        other = (silent + 1) % 3
        assert counter(self.scrape(three, [at for at in everybody if at != silent], other)) == 321
        hub.leave(members[silent])
        answers = self.scrape(three, everybody, other)
        assert counter(answers) == 321
        assert len(gauges(answers)) == 2
        for member in members:
            hub.leave(member)
        last = Member()
        hub.join(last)
        hub.ask(last, 1, METRICS, {"c": 4000, "g": 4}, 0.0)
        assert counter(last.sent[-1][2]) == 4321

    def test_of_a_worker_that_dies_between_its_answer_and_the_others_are_counted_once(
        self, three: tuple[Hub, Member, Member, Member]
    ) -> None:
        hub, one, two, three_ = three
        hub.ask(one, 1, METRICS, {"c": 1, "g": 1}, 0.0)
        hub.answer(two, 1, METRICS, [{"c": 20, "g": 2}])
        hub.leave(two)
        hub.answer(three_, 1, METRICS, [{"c": 300, "g": 3}])
        assert (counter(one.sent[-1][2]), gauges(one.sent[-1][2])) == (321, [1, 3])

    def test_that_come_too_late_for_their_scrape_are_in_the_next(
        self, three: tuple[Hub, Member, Member, Member]
    ) -> None:
        hub, one, two, _ = three
        assert counter(self.scrape(three, [2])) == 301
        hub.answer(two, 1, METRICS, [{"c": 20, "g": 2}])
        assert counter(self.scrape(three, [2])) == 321
        assert one.sent

    def test_of_a_worker_that_cannot_answer_are_its_last_and_no_gauge_of_it(
        self, three: tuple[Hub, Member, Member, Member]
    ) -> None:
        hub, one, two, three_ = three
        self.scrape(three, [1, 2])
        hub.ask(one, 2, METRICS, {"c": 1, "g": 1}, 0.0)
        number = two.sent[-1][1]
        hub.answer(two, number, METRICS, [])
        hub.answer(three_, number, METRICS, [{"c": 300, "g": 3}])
        assert (counter(one.sent[-1][2]), gauges(one.sent[-1][2])) == (321, [1, 3])

    def test_that_a_worker_reports_at_its_end_count(self, three: tuple[Hub, Member, Member, Member]) -> None:
        hub, _, two, _ = three
        assert counter(self.scrape(three, [1, 2])) == 321
        hub.report(two, {"c": 25, "g": 2})
        hub.leave(two)
        assert counter(self.scrape(three, [2])) == 326

    def test_are_not_what_a_worker_answers_to_another_question(self, three: tuple[Hub, Member, Member, Member]) -> None:
        hub, one, two, _ = three
        hub.ask(one, 1, "requests", None, 0.0)
        hub.answer(two, 1, "requests", [{"c": 7000, "g": 7}])
        hub.expire(PATIENCE_S)
        assert counter(self.scrape(three, [2])) == 301


def test_what_a_release_before_has_counted_counts_as_well_but_not_as_ones_own() -> None:
    hub, elder, one, two = Hub(Tally(summed)), Member(), Member(), Member()
    hub.follow(elder)
    hub.join(one)
    hub.join(two)
    hub.report(elder, {"c": 100})
    hub.ask(one, 1, METRICS, {"c": 3}, 0.0)
    assert elder.sent == two.sent == [("question", 1, METRICS, None)]
    hub.answer(two, 1, METRICS, [{"c": 4}])
    hub.answer(elder, 1, METRICS, [{"c": 101}])
    assert counter(one.sent[-1][2]) == 108
    hub.ask(one, 2, OWN, {"c": 3}, 0.0)
    assert two.sent[-1] == ("question", 2, METRICS, None)
    assert len(elder.sent) == 1
    hub.answer(two, 2, METRICS, [{"c": 4}])
    assert counter(one.sent[-1][2]) == 7
    hub.report(elder, {"c": 102})
    hub.leave(elder)
    hub.ask(one, 3, METRICS, {"c": 3}, 0.0)
    hub.answer(two, 3, METRICS, [{"c": 5}])
    assert counter(one.sent[-1][2]) == 110
    assert counter(hub.known()) == 110
    hub.ask(one, 4, "requests", None, 0.0)
    assert len(elder.sent) == 1


def test_a_release_before_that_is_silent_costs_no_more_than_what_it_said_last() -> None:
    hub, elder, one = Hub(Tally(summed)), Member(), Member()
    hub.follow(elder)
    hub.join(one)
    hub.report(elder, {"c": 100})
    hub.ask(one, 1, METRICS, {"c": 3}, 0.0)
    hub.expire(hub.due)
    assert counter(one.sent[-1][2]) == 103
