"""Questions between workers: who is asked, who is given up on, and that nothing is left behind."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gomodel import peers
from gomodel.peers import Peers

from .harness.leaks import Inventory, Records, nothing_left


@pytest.fixture
async def three(tmp_path: Path, no_leaks: Inventory) -> AsyncIterator[list[Peers]]:
    workers = [Peers(), Peers(), Peers()]
    for number, worker in enumerate(workers, 1):
        await worker.join(tmp_path, f"{number}-{os.getpid()}")
        worker.register("number", lambda _, number=number: number)
    yield workers
    for worker in workers:
        await worker.leave()
    assert os.listdir(tmp_path) == []


async def test_every_other_worker_answers_and_the_asker_does_not(three: list[Peers]) -> None:
    assert await three[0].ask("number") == [2, 3]
    assert await three[2].ask("number") == [1, 2]


async def test_a_process_alone_has_nobody_to_ask() -> None:
    alone = Peers()
    alone.register("number", lambda _: 1)
    assert await alone.ask("number") == []


async def test_arguments_and_answers_of_any_size_travel_whole(three: list[Peers]) -> None:
    async def echo(argument: Any) -> Any:
        await asyncio.sleep(0)
        return {"argument": argument, "padding": "x" * 3_000_000}

    three[1].register("echo", echo)
    three[2].register("echo", lambda _: None)
    answers = await three[0].ask("echo", {"id": "a\nb", "n": 1.5})
    assert answers == [{"argument": {"id": "a\nb", "n": 1.5}, "padding": "x" * 3_000_000}, None]


async def test_a_later_answer_replaces_the_one_before(three: list[Peers]) -> None:
    three[1].register("number", lambda _: "new")
    assert await three[0].ask("number") == ["new", 3]


async def test_a_worker_that_cannot_answer_is_left_out_and_says_why(three: list[Peers], logs: Records) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("no numbers today")

    logs.expected.append("could not be answered")
    three[1].register("number", fail)
    assert await three[0].ask("number") == [3]
    assert "no numbers today" in logs.text


async def test_a_worker_that_knows_no_such_kind_is_left_out(three: list[Peers], logs: Records) -> None:
    logs.expected.append("could not be answered")
    three[1].register("rare", lambda _: 1)
    assert await three[0].ask("rare") == [1]


async def test_a_dead_worker_is_left_out(three: list[Peers], tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "9-dead.sock"))
    assert await three[0].ask("number") == [2, 3]
    (tmp_path / "9-dead.sock").unlink()


async def test_a_blocked_worker_is_given_up_on(
    three: list[Peers], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "PATIENCE_S", 0.05)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "9-deaf.sock"))
        deaf.listen()
        assert await three[0].ask("number") == [2, 3]
    (tmp_path / "9-deaf.sock").unlink()


async def test_leaving_ends_what_is_being_answered(tmp_path: Path, no_leaks: Inventory) -> None:
    one, other = Peers(), Peers()
    await one.join(tmp_path, "1")
    await other.join(tmp_path, "2")
    asked = asyncio.Event()

    async def never(_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    other.register("never", never)
    question = asyncio.create_task(one.ask("never"))
    await asked.wait()
    await other.leave()
    assert await question == []
    await one.leave()
    await nothing_left(no_leaks.leaked)
