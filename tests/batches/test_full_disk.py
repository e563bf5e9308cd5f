"""A full disk loses nothing: uploads are refused, and batches pause, say so, and go on."""

import asyncio
import io
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession, FormData, web

from ..harness.batches import ENDS, Vllm, each_once, line, started
from ..harness.processes import Run

LINES = 60


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "data"
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path, left_bytes: int) -> None:
    stat = os.statvfs(place)
    with open(place / "filler", "wb") as file:
        file.write(bytes(stat.f_bavail * stat.f_frsize - left_bytes))


async def test_an_upload_is_507_and_everything_else_goes_on(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path, small: Path
) -> None:
    _, caller = await started(run, session, vllm, tmp_path)
    file_id = await caller.upload(line(1))
    form = FormData()
    form.add_field("purpose", "batch")
    form.add_field("file", io.BytesIO(bytes(9 << 20)), filename="in.jsonl")
    async with session.post(f"{caller.url}/files", data=form) as response:
        assert response.status == 507
        assert (await response.json())["error"]["code"] == "insufficient_storage"
    assert list((small / "uploads").iterdir()) == []
    assert (await caller.json("GET", f"/files/{file_id}"))["id"] == file_id


async def test_a_batch_pauses_and_goes_on(
    run: Run, session: ClientSession, vllm: Vllm, tmp_path: Path, small: Path
) -> None:
    async def answer(body: bytes) -> web.Response:
        return web.json_response({"echo": json.loads(body)["n"], "text": "x" * 20_000})

    vllm.answer = answer
    process, caller = await started(run, session, vllm, tmp_path)
    file_id = await caller.upload(b"".join(line(number) for number in range(LINES)))
    fill(small, 500_000)
    body = {"input_file_id": file_id, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch_id = (await caller.json("POST", "/batches", json=body))["id"]
    await process.says("is paused: the disk")
    async with asyncio.timeout(30):
        while "disk" not in (await caller.json("GET", f"/batches/{batch_id}")).get("status_details", ""):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    (small / "filler").unlink()
    batch = await caller.until(batch_id, *ENDS)
    assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
    assert "status_details" not in batch
    await each_once(caller, batch, LINES)
    assert len(vllm.asked) == LINES
