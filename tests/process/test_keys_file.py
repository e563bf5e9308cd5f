"""The keys file of a running gateway: what is written to it holds for every worker, within five seconds."""

import json
import os
import signal
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from gomodel.process.keys_watch import LOOK_S

from ..harness.processes import LIMIT_S, RUN, Process, Run, children, pause
from ..harness.scripted import RawClient, request

# A file is looked at often, so that the tests take no seconds.
WATCHFUL = "import gomodel.process.keys_watch as k; k.LOOK_S = k.SETTLE_S = 0.02; "
MASTER = "sk-master"


def entry(name: str, **fields: Any) -> str:
    said = {"sha256": sha256(name.encode()).hexdigest(), **fields}
    return f"[keys.{name}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in said.items())


def put(path: Path, text: str) -> None:
    path.write_text(text)


def put_in_place(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


async def started(run: Run, path: Path, workers: int, code: str | None = WATCHFUL + RUN) -> Process:
    environ = {"GOMODEL_KEYS_FILE": str(path), "GOMODEL_MASTER_KEY": MASTER, "GOMODEL_WORKERS": str(workers)}
    process = await run({**environ, "VLLM_BASE_URL": "http://127.0.0.1:1/v1"}, code=code)
    await process.listening()
    return process


async def status(process: Process, key: str, target: str = "/admin/requests") -> int:
    """On a connection of its own, which any worker may get; alice and bob may not see the list: 403."""
    client = await RawClient.connect(process.port)
    try:
        await client.send(request("GET", target, [("Authorization", f"Bearer {key}"), ("Connection", "close")]))
        return (await client.read_response()).status
    finally:
        client.wire.close()


async def everywhere(process: Process, key: str, expected: int) -> None:
    """Wait until some connections in a row, so many that each worker has had one, are all answered so."""
    end, agreed = time.monotonic() + LIMIT_S, 0
    while agreed < 24:
        agreed = agreed + 1 if await status(process, key) == expected else 0
        if not agreed:
            await pause()
        assert time.monotonic() < end


@pytest.mark.parametrize("workers", [1, 2])
async def test_what_changes_in_the_file_holds_for_every_worker(run: Run, path: Path, workers: int) -> None:
    put(path, entry("alice"))
    process = await started(run, path, workers)
    await everywhere(process, "alice", 403)
    put_in_place(path, entry("bob"))
    await everywhere(process, "alice", 401)
    await everywhere(process, "bob", 403)
    put(path, entry("bob") + "in_fligth = 8\n")
    line = json.loads(await process.says("The keys file is not used"))
    assert (line["level"], "line 3: keys.bob: 'in_fligth' is no field" in line["message"]) == ("error", True)
    await everywhere(process, "bob", 403)
    client = await RawClient.connect(process.port)
    await client.send(request("GET", "/metrics", [("Authorization", f"Bearer {MASTER}"), ("Connection", "close")]))
    assert b"\ngomodel_keys_file_broken 1.0\n" in (await client.read_response()).body
    client.wire.close()
    put(path, entry("carol"))
    await everywhere(process, "bob", 401)
    await everywhere(process, "carol", 403)
    assert sum("The keys file is not used" in line for line in process.lines) == 1
    assert await process.stop() == 0


async def test_a_worker_that_is_started_again_goes_by_the_keys_of_the_others(run: Run, path: Path) -> None:
    quick = "import gomodel.process.supervisor as s; s.LIMITS = s.Limits(backoff_s=0.01); "
    put(path, entry("alice"))
    process = await started(run, path, 2, quick + WATCHFUL + RUN)
    put(path, entry("bob"))
    await everywhere(process, "alice", 401)
    put(path, "broken\n")
    await process.says("The keys file is not used")
    for pid in children(process.pid):
        os.kill(pid, signal.SIGKILL)
    await process.says("starts again", 2)
    end = time.monotonic() + LIMIT_S
    while True:
        try:
            assert await status(process, "bob") == 403
            break
        except ConnectionRefusedError:  # none of the new ones listens yet
            assert time.monotonic() < end
    for key, expected in (("bob", 403), ("alice", 401)) * 8:
        assert await status(process, key) == expected
    assert await process.stop() == 0


async def test_a_reload_reads_it_and_does_not_take_it_away(run: Run, path: Path, tmp_path: Path) -> None:
    put(path, entry("alice"))
    dotenv = tmp_path / ".env"
    put(dotenv, f"GOMODEL_KEYS_FILE={path}\nVLLM_BASE_URL=http://127.0.0.1:1/v1\nGOMODEL_MASTER_KEY={MASTER}\n")
    process = await run({}, cwd=tmp_path)
    await process.listening()
    put(path, entry("bob"))
    process.signal(signal.SIGHUP)
    await process.says("The configuration was read again")
    assert [await status(process, key) for key in ("alice", "bob")] == [401, 403]
    put(dotenv, f"VLLM_BASE_URL=http://127.0.0.1:1/v1\nGOMODEL_MASTER_KEY={MASTER}\n")
    process.signal(signal.SIGHUP)
    await process.says("GOMODEL_KEYS_FILE was set and is gone; restart to serve without it")
    assert await status(process, "bob") == 403
    assert await process.stop() == 0


async def test_a_key_that_is_taken_out_is_refused_within_five_seconds(run: Run, path: Path) -> None:
    """With the times that hold for everybody, and as many keys as anybody has."""
    many = "".join(entry(f"k{at}", in_flight=8) for at in range(2000))
    put(path, entry("alice") + many)
    process = await started(run, path, 1, None)
    assert await status(process, "alice") == 403
    put(path, many)
    end = time.monotonic() + LIMIT_S
    while await status(process, "alice") != 401:
        assert time.monotonic() < end
    assert 2 * LOOK_S < 5  # what is left is for reading it, which takes as long as the machine is busy
    assert await process.stop() == 0
