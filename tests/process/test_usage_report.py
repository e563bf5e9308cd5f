"""`gomodel usage` and GET /admin/usage: what all workers counted, those that are gone included."""

import json
import os
import re
import signal
from typing import Any

import pytest

from ..harness.gateways import asked, have_listened, started
from ..harness.processes import PATIENT, RUN, Run, children
from ..harness.scripted import ScriptedUpstream, env_for, json_response, request
from ..harness.verdicts import post

USAGE = {"prompt_tokens": 1200, "total_tokens": 1207, "completion_tokens": 7, "prompt_tokens_details": None}
ASK = request("GET", "/admin/usage?by=instance", [("Connection", "close")])


async def printed(run: Run, environ: dict[str, str], *arguments: str, status: int = 0) -> tuple[str, str]:
    process = await run(environ, "usage", *arguments)
    assert await process.ended() == status, process.text
    return process.output, process.text


async def test_a_table_of_all_workers_is_printed(run: Run, upstream: ScriptedUpstream, tmp_path: Any) -> None:
    upstream.repeat(json_response({"usage": USAGE}))
    environ = {**env_for(vllm=upstream), "GOMODEL_MASTER_KEY": "k"}
    process = await started(run, 2, environ, code=PATIENT + RUN)
    for _ in range(12):
        assert (await asked(process, post(headers=[("x-api-key", "k"), ("Connection", "close")]))).status == 200
    there = {**environ, "PORT": str(process.port)}
    table, _ = await printed(run, there, "--by", "instance")
    heading, row = table.splitlines()[:2]
    assert heading == "INSTANCE  REQUESTS  UNKNOWN  PROMPT  CACHED  COMPLETION  SECONDS"
    assert re.fullmatch(r"vllm            12        0  14,400       0          84 {6,8}\d+", row)
    assert len(row) == len(heading)
    text, _ = await printed(run, there, "--by", "key,instance", "--csv")
    assert text.splitlines()[1].startswith(",vllm,12,0,14400,0,84,")
    _, refused = await printed(run, {**there, "GOMODEL_MASTER_KEY": "other"}, status=1)
    assert "401: Missing or invalid API key" in refused
    url = f"http://127.0.0.1:{process.port}"
    assert (await printed(run, environ, "--url", url, "--by", "instance"))[0].splitlines()[:2] == table.splitlines()[:2]
    assert await process.stop() == 0
    _, away = await printed(run, there, status=1)
    assert "cannot be asked: Connection refused" in away


async def test_what_a_worker_counted_outlives_it(run: Run, upstream: ScriptedUpstream) -> None:
    upstream.repeat(json_response({"usage": USAGE}))
    process = await started(run, 2, env_for(vllm=upstream), code=PATIENT + RUN)
    for _ in range(12):
        await asked(process, post(headers=[("Connection", "close")]))

    async def requests() -> int:
        (row,) = json.loads((await asked(process, ASK)).body)["data"]
        return int(row["requests"])

    assert await requests() == 12
    for started_before, worker in enumerate(children(process.pid), 2):
        os.kill(worker, signal.SIGTERM)  # one after the other is replaced
        await process.says(f"-{worker} ended; another takes its place")
        await have_listened(process, started_before + 1)
    assert await requests() == 12
    assert await process.stop() == 0


async def test_a_reader_that_has_seen_enough_is_no_failure(run: Run, upstream: ScriptedUpstream) -> None:
    process = await run(env_for(vllm=upstream))
    there = {**env_for(vllm=upstream), "PORT": str(await process.listening())}
    head = await run(there, "usage", wrapper=("bash", "-c", 'set -o pipefail; "$@" | true', "bash"))
    assert (await head.ended(), head.text) == (0, "")
    assert await process.stop() == 0


@pytest.mark.parametrize("arguments", [["--by", "user"], ["--by", "key,user"]])
async def test_what_is_not_understood_is_said(run: Run, upstream: ScriptedUpstream, arguments: list[str]) -> None:
    process = await run(env_for(vllm=upstream))
    await process.listening()
    _, said = await printed(run, {**env_for(vllm=upstream), "PORT": str(process.port)}, *arguments, status=1)
    assert "by=user is none of key, model, instance" in said
    assert await process.stop() == 0


async def test_a_gateway_on_a_unix_socket_is_asked_there(run: Run, upstream: ScriptedUpstream, tmp_path: Any) -> None:
    environ = {**env_for(vllm=upstream), "GOMODEL_UNIX_SOCKET": str(tmp_path / "g.sock"), "PORT": "", "HOST": ""}
    process = await run(environ)
    await process.listening()
    table, _ = await printed(run, environ)
    assert table.startswith("KEY  MODEL  INSTANCE  REQUESTS")
    assert await process.stop() == 0
