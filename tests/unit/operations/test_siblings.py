"""A worker's side of questions between workers: nobody waits for ever, and a part never passes for the whole."""

import asyncio
from typing import Any

import pytest

from gomodel.errors import Overloaded
from gomodel.operations import siblings
from gomodel.operations.siblings import METRICS, OWN, Siblings

from ...harness.leaks import Records
from ...harness.scripted import let_peers_run


class Supervisor:
    """Keeps what a worker sends."""

    def __init__(self, worker: Siblings) -> None:
        self.worker = worker
        self.heard: list[tuple[Any, ...]] = []
        worker.join(lambda *message: self.heard.append(message))

    async def asked(self, count: int = 1) -> None:
        while len(self.heard) < count:
            await let_peers_run()


@pytest.fixture
def joined() -> tuple[Siblings, Supervisor]:
    worker = Siblings()
    return worker, Supervisor(worker)


async def test_a_process_alone_has_nobody_to_ask() -> None:
    alone = Siblings()
    alone.register("requests", lambda _: [])
    assert await alone.ask("requests") == []
    assert await alone.ask(METRICS, {"own": 1}) == [{"own": 1}]
    alone.leave()


async def test_answers_reach_the_question_they_belong_to(joined: tuple[Siblings, Supervisor]) -> None:
    worker, supervisor = joined
    questions = [asyncio.create_task(worker.ask("abort", request_id)) for request_id in ("r-1", "r-2")]
    await supervisor.asked(2)
    assert supervisor.heard == [("ask", 0, "abort", "r-1"), ("ask", 1, "abort", "r-2")]
    worker.answered(1, [2])
    worker.answered(0, [1])
    worker.answered(0, ["twice"])
    worker.answered(7, ["nobody's"])
    assert await asyncio.gather(*questions) == [[1], [2]]


async def test_a_question_is_answered_by_whoever_registered_last(joined: tuple[Siblings, Supervisor]) -> None:
    worker, supervisor = joined
    worker.register("double", lambda number: 0)
    worker.register("double", lambda number: 2 * number)
    worker.asked(5, "double", 21)
    worker.asked(6, "unknown", None)
    assert supervisor.heard == [("answer", 5, "double", [42]), ("answer", 6, "unknown", [])]


async def test_an_answer_that_fails_says_why_here_and_is_none_there(
    joined: tuple[Siblings, Supervisor], logs: Records
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no numbers today")

    logs.expected.append("could not be answered")
    worker, supervisor = joined
    worker.register("rare", fail)
    worker.asked(5, "rare", None)
    assert supervisor.heard == [("answer", 5, "rare", [])]
    assert "no numbers today" in logs.text


@pytest.mark.parametrize("how", ["silent", "lost", "already lost"])
async def test_without_the_supervisor_a_question_fails_instead_of_being_answered_in_part(
    joined: tuple[Siblings, Supervisor], how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siblings, "_SUPERVISOR_S", 0.01 if how == "silent" else 60.0)
    worker, supervisor = joined
    if how == "already lost":
        worker.lost()
    question = asyncio.create_task(worker.ask(METRICS, {}))
    if how == "lost":
        await supervisor.asked()
        worker.lost()
    with pytest.raises(Overloaded, match="supervisor does not answer"):
        await question


async def test_the_last_words_are_the_numbers(joined: tuple[Siblings, Supervisor]) -> None:
    worker, supervisor = joined
    worker.register(METRICS, lambda _: {"requests": 7})
    worker.leave()
    worker.asked(5, METRICS, None)
    assert supervisor.heard == [("numbers", {"requests": 7})]


async def test_a_release_before_counts_for_whoever_scrapes_and_not_for_what_is_kept() -> None:
    alone = Siblings()

    async def before() -> list[Any]:
        return [{"old": 1}]

    alone.follow(before)
    assert await alone.ask(METRICS, {"own": 1}) == [{"own": 1}, {"old": 1}]
    assert await alone.ask(OWN, {"own": 1}) == [{"own": 1}]
    assert await alone.ask("requests") == []
