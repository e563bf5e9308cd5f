"""`gomodel batch`: a file in, answers out, and the same command again goes on."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web

from ..harness.batches import CHAT, Vllm, line, serving, started
from ..harness.processes import Process, Run

LINES = 8
# As in the documents of `vllm run-batch`.
RUN_BATCH = (
    b'{"custom_id": "request-1", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "vllm/org/model", '
    b'"n": 1, "messages": [{"role": "user", "content": "Hello world!"}], "max_completion_tokens": 1000}}\n'
)


@pytest.fixture
async def vllm() -> AsyncIterator[Vllm]:
    async with serving() as found:
        yield found


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession() as found:
        yield found


class Typed:
    """The command as somebody types it, again and again."""

    def __init__(self, run: Run, place: Path, url: str) -> None:
        self._run = run
        self.file = place / "in.jsonl"
        self.out = place / "out.jsonl"
        self.note = place / "out.jsonl.batch"
        self._url = url

    async def __call__(self, *more: str) -> Process:
        environ = {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": self._url}
        return await self._run(environ, "batch", str(self.file), "--out", str(self.out), *more)

    def answers(self) -> dict[str, Any]:
        found = [json.loads(each) for each in self.out.read_bytes().splitlines()]
        assert len({each["custom_id"] for each in found}) == len(found)
        return {each["custom_id"]: each["response"] for each in found}


@pytest.fixture
async def typed(run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path) -> Typed:
    _, caller = await started(run, session, vllm, tmp_path)
    return Typed(run, tmp_path, caller.url)


async def test_every_line_is_answered_and_nothing_stays_at_the_gateway(
    typed: Typed, vllm: Vllm, session: ClientSession
) -> None:
    typed.file.write_bytes(b"".join(line(number) for number in range(LINES - 1)) + RUN_BATCH)
    process = await typed()
    assert await process.ended() == 0, process.text
    assert f"{LINES} of {LINES} lines, 0 of them without success" in process.text
    assert sorted(typed.answers()) == [*map(str, range(LINES - 1)), "request-1"]
    assert not typed.note.exists()
    async with session.get(f"{typed._url}/files") as response:
        assert (await response.json())["data"] == []
    process = await typed()
    assert (await process.ended(), len(vllm.asked)) == (0, LINES)


async def test_lines_that_the_result_has_are_not_run(typed: Typed, vllm: Vllm) -> None:
    typed.file.write_bytes(b"".join(line(number) for number in range(LINES)))
    there = b"".join(b'{"custom_id":"%d","response":{"status_code":200,"body":{}}}\n' % number for number in range(3))
    typed.out.write_bytes(there + b'{"custom_id":"3","resp')
    process = await typed()
    assert await process.ended() == 0, process.text
    assert typed.out.read_bytes().startswith(there)
    assert sorted(map(int, typed.answers())) == list(range(LINES))
    assert len(vllm.asked) == LINES - 3


async def test_ctrl_c_keeps_what_was_done_and_the_same_again_goes_on(typed: Typed, vllm: Vllm) -> None:
    go_on, three = asyncio.Event(), asyncio.Event()

    async def answer(body: bytes) -> web.Response:
        number = json.loads(body)["n"]
        if number >= 3:
            three.set()
            await go_on.wait()
        return web.json_response({"echo": number})

    vllm.answer = answer
    typed.file.write_bytes(b"".join(line(number) for number in range(LINES)))
    process = await typed()
    await three.wait()
    process.signal(signal.SIGINT)
    assert await process.ended() == 130
    assert "The same command again goes on." in process.text
    assert "in.jsonl: cancelled\n" in process.text
    assert sorted(typed.answers()) == ["0", "1", "2"]
    go_on.set()
    process = await typed()
    assert await process.ended() == 0, process.text
    assert sorted(map(int, typed.answers())) == list(range(LINES))


async def test_a_command_that_was_killed_finds_its_batch_again(typed: Typed, vllm: Vllm) -> None:
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def answer(body: bytes) -> web.Response:
        begun.set()
        await go_on.wait()
        return web.json_response({"echo": json.loads(body)["n"]})

    vllm.answer = answer
    typed.file.write_bytes(b"".join(line(number) for number in range(LINES)))
    process = await typed()
    await process.says("in_progress")
    await begun.wait()
    process.signal(signal.SIGKILL)
    await process.ended()
    go_on.set()
    process = await typed()
    assert await process.ended() == 0, process.text
    assert sorted(map(int, typed.answers())) == list(range(LINES))
    assert len(vllm.asked) == LINES


async def test_answers_without_success_are_written_and_said(typed: Typed, vllm: Vllm) -> None:
    async def answer(body: bytes) -> web.Response:
        number = json.loads(body)["n"]
        return web.json_response({"echo": number}, status=200 if number else 400)

    vllm.answer = answer
    typed.file.write_bytes(line(0) + line(1))
    process = await typed()
    assert await process.ended() == 1
    assert "2 of 2 lines, 1 of them without success" in process.text
    assert typed.answers()["0"]["status_code"] == 400


DONE = b'{"custom_id":"0","response":{"status_code":200,"body":{}}}\n'
BAD = [
    (b"\n\n" + line(0) + line(1) + b"\n{\n", "line 6: This line is not parseable as valid JSON."),
    (b"{}\n", "line 1 is no request of a batch"),
    (line(1).replace(CHAT.encode(), b"/v1/images"), "'endpoint' must be one of"),
]


async def test_a_file_that_cannot_be_run_is_said_why_by_its_own_lines_and_does_not_stay(
    typed: Typed, session: ClientSession
) -> None:
    typed.out.write_bytes(DONE)
    for content, said in BAD:
        typed.file.write_bytes(content)
        process = await typed()
        assert await process.ended() == 1
        assert said in process.text
        assert not typed.note.exists()
        assert "Traceback" not in process.text
    async with session.get(f"{typed._url}/files") as response:
        assert (await response.json())["data"] == []


async def test_a_file_that_holds_something_else_is_not_touched(run: Run, tmp_path: Path) -> None:
    typed = Typed(run, tmp_path, "http://127.0.0.1:1/v1")
    typed.file.write_bytes(line(1))
    typed.out.write_bytes(b"notes\nof mine")
    process = await typed()
    assert (await process.ended(), "is no file of answers: its line 1" in process.text) == (1, True)
    assert typed.out.read_bytes() == b"notes\nof mine"
    typed.out.unlink()
    for same in (typed.out, typed.note):
        same.hardlink_to(typed.file)
        process = await typed()
        assert (await process.ended(), "would be written over" in process.text) == (1, True)
        assert typed.file.read_bytes() == line(1)
        same.unlink()


async def test_a_batch_that_the_gateway_has_lost_is_run_anew_and_one_elsewhere_is_left_alone(
    typed: Typed, vllm: Vllm
) -> None:
    typed.file.write_bytes(line(0) + line(1))
    lost = {"batch": "batch_" + "0" * 32, "gateway": "http://elsewhere/v1", "pid": 1}
    typed.note.write_text(json.dumps(lost))
    process = await typed()
    assert (await process.ended(), "runs at http://elsewhere/v1, not at" in process.text) == (1, True)
    assert typed.note.exists()
    typed.note.write_text(json.dumps({**lost, "gateway": typed._url}))
    process = await typed("--url", typed._url.removesuffix("/v1"))
    assert await process.ended() == 0, process.text
    assert "is run anew" in process.text
    assert (sorted(typed.answers()), typed.note.exists()) == (["0", "1"], False)


async def test_the_same_command_twice_at_once_says_who_is_at_it(typed: Typed, vllm: Vllm) -> None:
    go_on, begun = asyncio.Event(), asyncio.Event()

    async def answer(body: bytes) -> web.Response:
        begun.set()
        await go_on.wait()
        return web.json_response({"echo": json.loads(body)["n"]})

    vllm.answer = answer
    typed.file.write_bytes(line(0))
    first = await typed()
    await begun.wait()
    second = await typed()
    assert (await second.ended(), f"process {first.pid}" in second.text) == (1, True)
    go_on.set()
    assert await first.ended() == 0, first.text
    assert list(typed.answers()) == ["0"]


async def test_answers_that_cannot_be_read_are_said_and_the_batch_is_kept(run: Run, tmp_path: Path) -> None:
    async def batch(request: web.Request) -> web.Response:
        counts = {"total": 1, "completed": 1, "failed": 0}
        return web.json_response({"status": "completed", "request_counts": counts, "output_file_id": "f"})

    async def content(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(DONE[:20])
        assert request.transport is not None
        request.transport.close()
        return response

    app = web.Application()
    app.add_routes([web.get("/v1/batches/b", batch), web.get("/v1/files/f/content", content)])
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        typed = Typed(run, tmp_path, url)
        typed.file.write_bytes(line(0))
        typed.note.write_text(json.dumps({"batch": "b", "gateway": url}))
        process = await typed()
        assert (await process.ended(), "the answers cannot be read: ClientPayloadError" in process.text) == (1, True)
        assert ("Traceback" in process.text, typed.note.exists(), typed.out.read_bytes()) == (False, True, b"")
    finally:
        await runner.cleanup()


async def test_a_file_that_is_not_there_and_a_gateway_that_is_not_there_are_said(run: Run, tmp_path: Path) -> None:
    typed = Typed(run, tmp_path, "http://127.0.0.1:1/v1")
    process = await typed()
    assert (await process.ended(), "in.jsonl: No such file" in process.text) == (1, True)
    typed.file.write_bytes(line(1))
    process = await typed()
    assert (await process.ended(), "http://127.0.0.1:1/v1 cannot be reached" in process.text) == (1, True)


async def test_the_gateway_on_this_host_is_meant_where_nothing_else_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(line(1))
    arguments = ("batch", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl"))
    environ = {"PORT": "1", "GOMODEL_MASTER_KEY": "k", "BASE_PATH": "/gw", "HOST": ""}
    process = await run(environ, *arguments)
    assert (await process.ended(), "http://localhost:1/gw/v1 cannot be reached" in process.text) == (1, True)
    process = await run({**environ, "PORT": "", "GOMODEL_UNIX_SOCKET": "/run/g.sock"}, *arguments)
    assert (await process.ended(), "--url is needed" in process.text) == (1, True)


async def test_a_gateway_without_batches_says_what_it_lacks(run: Run, tmp_path: Path) -> None:
    gateway = await run({"VLLM_BASE_URL": "http://127.0.0.1:9/v1"})
    typed = Typed(run, tmp_path, f"http://127.0.0.1:{await gateway.listening()}/v1")
    typed.file.write_bytes(line(1))
    process = await typed()
    assert (await process.ended(), "GOMODEL_DATA_DIR" in process.text) == (1, True)
