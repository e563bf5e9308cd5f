"""`gomodel record` and `gomodel replay` as an operator runs them."""

import re
from pathlib import Path

import pytest

from ..harness.processes import Process, Run
from ..harness.scripted import RawClient, ScriptedUpstream, env_for, json_response, request

ASK = request("POST", "/v1/chat/completions", [("Authorization", "Bearer secret")], b'{"model":"m"}')


async def port_of(process: Process) -> int:
    line = await process.says(" http://127.0.0.1:")
    found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    assert found is not None
    return int(found[1])


async def answer_at(port: int) -> tuple[int, bytes]:
    client = await RawClient.connect(port)
    try:
        await client.send(ASK)
        answer = await client.read_response("POST")
    finally:
        client.fin()
    return answer.status, answer.body


async def test_what_was_recorded_is_replayed_and_sent_as_load(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path
) -> None:
    upstream.repeat(json_response({"id": 7}))
    recorder = await run(env_for(vllm=upstream), "record", "there", "--listen", "127.0.0.1:0")
    assert await answer_at(await port_of(recorder)) == (200, b'{"id": 7}')
    assert await recorder.stop() == 0
    assert recorder.lines[-1].startswith("1 exchange, ")
    replay = await run({}, "replay", "there", "--listen", "0")
    port = await port_of(replay)
    assert await answer_at(port) == (200, b'{"id": 7}')
    load = await run({}, "replay", "there", "--as-load", f"http://127.0.0.1:{port}", "--speed", "0")
    assert await load.ended() == 0, load.text
    assert load.output.startswith("1 request, 0 failed\n        1  200\n")
    assert await replay.stop() == 0
    assert replay.lines[-1] == "2 answered, 0 not in the recording"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["record", "there", "--to", "ftp://x"], 2, "--to: it is no http:// or https:// URL"),
        (["record", "file", "--to", "http://x", "--listen", "0"], 1, "gomodel record: file: File exists"),
        (["replay", "nowhere"], 1, "gomodel replay: nowhere: No such file or directory"),
        (["replay", "."], 1, "gomodel replay: no recording is in ."),
        (["replay", "file"], 1, "gomodel replay: file is no recording"),
        (["replay", "file", "--as-load", "ftp://x"], 2, "--as-load: it is no http:// or https:// URL"),
        (["replay", "file", "--as-load", "http://x", "--key-file", "no"], 2, "--key-file no: No such file"),
        (["replay", "file", "--listen", "http:80:x"], 2, "argument --listen"),
    ],
)
async def test_what_cannot_be_done_is_said(
    run: Run, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    (tmp_path / "file").write_text("no recording\n")
    process = await run({}, *arguments)
    assert await process.ended() == status
    assert said in process.text
