"""A batch from its upload to its results, through a real gateway with its batcher beside it."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path

import pytest
from aiohttp import ClientError, ClientSession, web

from ..harness.batches import ENDS, MODEL, Caller, Vllm, everybody, line, serving, started
from ..harness.processes import Process, Run, children


@pytest.fixture
async def vllm() -> AsyncIterator[Vllm]:
    async with serving() as found:
        yield found


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession() as found:
        yield found


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_batch_runs_and_its_bytes_are_nobodys(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path, workers: str
) -> None:
    process, caller = await started(run, session, vllm, tmp_path, GOMODEL_WORKERS=workers)
    batch = await caller.until(await caller.batch(b"".join(line(n) for n in range(20))), *ENDS)
    assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 20, "completed": 20, "failed": 0})
    assert batch["usage"]["total_tokens"] == 60
    sent = {body for body, _ in vllm.asked}
    assert sent == {json.dumps({"model": MODEL, "n": n}).replace(" ", "  ").encode() for n in range(20)}
    for _, headers in vllm.asked:
        assert headers["X-Request-Id"].startswith(batch["id"] + "-")
        assert headers["X-Vllm-Priority"] == "10"
        assert not [name for name in headers if name.lower().startswith("x-gomodel")]
    lines = await caller.lines(batch["output_file_id"])
    assert sorted(int(each["custom_id"]) for each in lines) == list(range(20))
    assert {each["response"]["body"]["echo"] == int(each["custom_id"]) for each in lines} == {True}
    assert batch["error_file_id"] is None
    content = f"{caller.url}/files/{batch['output_file_id']}/content"
    async with session.get(content, headers={"Range": "bytes=1-9"}) as response:
        assert (response.status, await response.read()) == (206, b'"id":"bat')
    async with session.head(content) as response:
        assert (response.status, int(response.headers["Content-Length"]) > 1000) == (200, True)
    async with session.put(content) as response:
        assert (response.status, response.headers["Allow"]) == (405, "GET, HEAD")
    used = (await caller.json("GET", "/../admin/usage?by=instance"))["data"]
    assert [(each["instance"], each["requests"], each["prompt_tokens"]) for each in used] == [("vllm", 20, 40)]
    assert "Instance batches" not in process.text
    assert f"Files and batches: in {tmp_path}/data, SQLite" in process.text
    assert f'"batch": "{batch["id"]}"' in process.text
    assert await process.stop() == 0


async def test_a_bad_file_runs_no_line(run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path) -> None:
    _, caller = await started(run, session, vllm, tmp_path)
    content = line(1) + b"{\n" + line(2, model="vllm/nobody") + line(1)
    batch = await caller.until(await caller.batch(content), *ENDS)
    assert (batch["status"], batch["output_file_id"], vllm.asked) == ("failed", None, [])
    assert [(each["code"], each["line"]) for each in batch["errors"]["data"]] == [
        ("invalid_json_line", 2),
        ("duplicate_custom_id", 4),
    ]
    batch = await caller.until(await caller.batch(line(1) + line(2, model="vllm/nobody")), *ENDS)
    assert [(each["code"], each["line"]) for each in batch["errors"]["data"]] == [("model_not_found", 2)]


async def test_a_line_without_success_is_in_the_error_file(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path
) -> None:
    async def answer(body: bytes) -> web.Response:
        number = json.loads(body)["n"]
        return web.Response(
            status=400 if number % 2 else 200, body=b'{"n":%d}' % number, content_type="application/json"
        )

    vllm.answer = answer
    _, caller = await started(run, session, vllm, tmp_path)
    batch = await caller.until(await caller.batch(b"".join(line(n) for n in range(6))), *ENDS)
    assert batch["request_counts"] == {"total": 6, "completed": 3, "failed": 3}
    errors = await caller.lines(batch["error_file_id"])
    assert sorted((each["custom_id"], each["response"]["status_code"]) for each in errors) == [
        ("1", 400),
        ("3", 400),
        ("5", 400),
    ]
    assert len(vllm.asked) == 6


async def test_a_cancelled_batch_keeps_what_was_done_and_frees_its_server(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path
) -> None:
    let_go = asyncio.Event()

    async def answer(body: bytes) -> web.Response:
        if json.loads(body)["n"] >= 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                let_go.set()
                raise
        return web.Response(body=b"{}", content_type="application/json")

    vllm.answer = answer
    _, caller = await started(run, session, vllm, tmp_path)
    batch_id = await caller.batch(b"".join(line(n) for n in range(8)))
    async with asyncio.timeout(20):
        while (await caller.json("GET", f"/batches/{batch_id}"))["request_counts"]["completed"] < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        await caller.json("POST", f"/batches/{batch_id}/cancel")
        await let_go.wait()
    batch = await caller.until(batch_id, *ENDS)
    assert (batch["status"], batch["request_counts"]) == ("cancelled", {"total": 8, "completed": 3, "failed": 5})
    errors = await caller.lines(batch["error_file_id"])
    assert sorted(each["custom_id"] for each in errors) == ["3", "4", "5", "6", "7"]
    assert {each["error"]["code"] for each in errors} == {"batch_cancelled"}


async def test_a_batch_that_expires_says_so_for_each_line(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path
) -> None:
    async def answer(body: bytes) -> web.Response:
        await asyncio.sleep(60)
        return web.Response()

    vllm.answer = answer
    _, caller = await started(run, session, vllm, tmp_path)
    batch = await caller.until(await caller.batch(line(1) + line(2), completion_window="1s"), *ENDS)
    assert (batch["status"], batch["expired_at"] >= batch["expires_at"]) == ("expired", True)
    errors = await caller.lines(batch["error_file_id"])
    assert [(each["response"], each["error"]["code"]) for each in errors] == [(None, "batch_expired")] * 2


async def test_a_line_waits_for_a_server_that_is_busy_or_gone(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path
) -> None:
    refusals = 3

    async def answer(body: bytes) -> web.Response:
        nonlocal refusals
        refusals -= 1
        return web.Response(status=200 if refusals < 0 else 503, body=b"{}", content_type="application/json")

    vllm.answer = answer
    _, caller = await started(run, session, vllm, tmp_path, CIRCUIT_BREAKER_FAILURE_THRESHOLD="1000")
    batch = await caller.until(await caller.batch(line(1) + line(2)), *ENDS)
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


async def test_a_batcher_that_is_killed_is_followed_by_another_that_goes_on(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path
) -> None:
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def answer(body: bytes) -> web.Response:
        if json.loads(body)["n"] == 5:
            waiting.set()
            await go_on.wait()
        return web.Response(body=b"{}", content_type="application/json")

    vllm.answer = answer
    process, caller = await started(run, session, vllm, tmp_path)
    batch_id = await caller.batch(b"".join(line(n) for n in range(10)))
    async with asyncio.timeout(20):
        await waiting.wait()
    (batcher,) = children(process.pid)
    os.kill(batcher, signal.SIGKILL)
    go_on.set()
    await process.says("The process for batches ended with status -9")
    batch = await caller.until(batch_id, *ENDS)
    assert batch["request_counts"] == {"total": 10, "completed": 10, "failed": 0}
    assert sorted(int(each["custom_id"]) for each in await caller.lines(batch["output_file_id"])) == list(range(10))


async def test_a_worker_that_is_killed_is_followed_by_one_with_another_batcher(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path
) -> None:
    process, caller = await started(run, session, vllm, tmp_path, GOMODEL_WORKERS="2")
    await caller.until(await caller.batch(line(1)), *ENDS)
    (place,) = sockets_of(process)
    first = next(worker for worker in children(process.pid) if children(worker))
    os.kill(first, signal.SIGKILL)
    await process.says("ended with SIGKILL")
    batch = await Caller(session, process.port).until(await repeated(lambda: caller.batch(line(2))), *ENDS)
    assert batch["request_counts"]["completed"] == 1
    assert sockets_of(process) == [place]
    assert await process.stop() == 0
    assert not place.exists()


async def test_of_a_gateway_that_is_killed_no_sockets_stay(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path
) -> None:
    process, caller = await started(run, session, vllm, tmp_path)
    await caller.upload(line(1))
    (place,) = sockets_of(process)
    os.kill(process.pid, signal.SIGKILL)
    await process.ended()
    async with asyncio.timeout(20):
        while place.exists():  # noqa: ASYNC110 - the batcher ends by itself
            await asyncio.sleep(0.05)


def sockets_of(process: Process) -> list[Path]:
    """The directory of a gateway's private sockets."""
    names = {
        line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if "/gomodel-batches-" in line
    }
    return sorted(
        {Path(name).parent for name in names if Path(name).stat().st_uid == os.getuid() and owned(name, process)}
    )


def owned(name: str, process: Process) -> bool:
    """Whether the socket of this name is one of the process or of its children."""
    inodes = {line.split()[6] for line in Path("/proc/net/unix").read_text().splitlines() if line.endswith(name)}
    for pid in everybody(process.pid):
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if os.readlink(fd).removeprefix("socket:[").removesuffix("]") in inodes:
                    return True
            except OSError:
                pass
    return False


async def repeated(call: Callable[[], Awaitable[str]]) -> str:
    """What `call` brings once the gateway is whole again."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except (ClientError, AssertionError):
                await asyncio.sleep(0.1)


async def test_without_a_directory_there_are_no_files_and_nothing_is_loaded(run: Run, session: ClientSession) -> None:
    process = await run({"VLLM_BASE_URL": "http://127.0.0.1:9/v1"})
    port = await process.listening()
    assert "Files and batches" not in process.text
    for path in ("/v1/files", "/v1/batches", "/v1/files/file-1/content", "/v1/batches/x/y"):
        async with session.get(f"http://127.0.0.1:{port}{path}") as response:
            assert response.status == 404
            assert "GOMODEL_DATA_DIR" in (await response.json())["error"]["message"]
    assert children(process.pid) == []
    maps = await asyncio.to_thread(Path(f"/proc/{process.pid}/maps").read_text)
    assert "sqlalchemy" not in maps
    assert "greenlet" not in maps


@pytest.mark.parametrize("arguments", [[], ["check"]])
@pytest.mark.parametrize("place", ["/proc/nothing", "/dev/null/x", "/dev/null"])
async def test_a_directory_that_cannot_be_written_to_is_a_problem_of_the_configuration(
    run: Run, place: str, arguments: list[str]
) -> None:
    process = await run({"GOMODEL_DATA_DIR": place}, *arguments)
    assert await process.ended() == 64
    assert "GOMODEL_DATA_DIR" in process.text


async def test_check_makes_no_directory(run: Run, vllm: Vllm, tmp_path: Path) -> None:
    process = await run({"VLLM_BASE_URL": vllm.url, "GOMODEL_DATA_DIR": str(tmp_path / "a/b")}, "check")
    assert await process.ended() == 0, process.text
    assert not (tmp_path / "a").exists()


KEYS = {"alice": "sk-alice-0123456789abcdef", "bob": "sk-bob-0123456789abcdef"}


async def test_a_key_has_files_and_batches_of_its_own(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.toml"
    entries = [f'[keys.{name}]\nsha256 = "{sha256(key.encode()).hexdigest()}"' for name, key in KEYS.items()]
    keys.write_text("\n".join([entries[0], 'priority = 3\nmodels = ["vllm/*"]', entries[1], 'models = ["other/*"]\n']))
    process, master = await started(
        run, session, vllm, tmp_path, GOMODEL_KEYS_FILE=str(keys), GOMODEL_MASTER_KEY="sk-master"
    )
    alice, bob = (Caller(session, process.port, KEYS[name]) for name in KEYS)
    operator = Caller(session, process.port, "sk-master")
    batch = await alice.until(await alice.batch(line(1) + line(2)), *ENDS)
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert {headers["X-Vllm-Priority"] for _, headers in vllm.asked} == {"10"}
    assert {len(headers.getall("X-Vllm-Priority")) for _, headers in vllm.asked} == {1}
    for path in (f"/batches/{batch['id']}", f"/files/{batch['output_file_id']}", f"/files/{batch['input_file_id']}"):
        assert (await alice.json("GET", path))["id"] == (await operator.json("GET", path))["id"]
        assert await bob.status("GET", path) == 404
    assert (await bob.json("GET", "/files"))["data"] == []
    forged = {"X-GoModel-Owner": "alice", "X-GoModel-Batch": "x"}
    assert await bob.status("GET", f"/batches/{batch['id']}", headers=forged) == 404
    assert await master.status("GET", "/batches", headers=forged) == 401
    refused = await bob.until(await bob.batch(line(1)), *ENDS)
    assert [each["code"] for each in refused["errors"]["data"]] == ["model_not_found"]
    assert '"key": "alice"' in next(each for each in process.lines if f'"{batch["id"]}-1"' in each)
    own = await operator.until(await operator.batch(line(3)), *ENDS)
    assert (own["status"], await alice.status("GET", f"/batches/{own['id']}")) == ("completed", 404)
