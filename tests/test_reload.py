"""What SIGHUP may not take away: the master key, and the file that the configuration came from."""

import asyncio
import logging
import signal
from pathlib import Path
from typing import Any

import pytest

from gomodel.config import load
from gomodel.reload import read_again

from .processes import Run
from .scripted import RawClient, ScriptedUpstream, request, response

KEY = "GOMODEL_MASTER_KEY=k\n"
GONE = "GOMODEL_MASTER_KEY was set and is gone; restart to serve without a key"
VANISHED = ".env was in use and is now missing or sets nothing; restart to serve without it"
CHAT = request("POST", "/v1/chat/completions", [("Connection", "close")], b'{"model": "m"}')


@pytest.mark.parametrize(
    ("environ", "before", "after", "refused"),
    [
        ({}, KEY, None, [GONE, VANISHED]),
        ({}, KEY, "", [GONE, VANISHED]),
        ({}, KEY, "# GOMODEL_MASTER_KEY=k\n", [GONE, VANISHED]),
        ({}, KEY, "LOG_LEVEL=debug\n", [GONE]),
        ({}, KEY, "GOMODEL_MASTER_KEY=\nLOG_LEVEL=debug\n", [GONE]),
        ({}, "VLLM_BASE_URL=http://gpu/v1\n", None, [VANISHED]),
        ({}, "VLLM_BASE_URL=http://gpu/v1\n", "\n", [VANISHED]),
        ({"GOMODEL_MASTER_KEY": "k"}, "LOG_LEVEL=debug\n", None, [VANISHED]),
        ({"GOMODEL_MASTER_KEY": "k"}, KEY, None, []),
        ({"GOMODEL_MASTER_KEY": "k"}, None, None, []),
        ({}, None, None, []),
        ({}, "", None, []),
        ({}, None, KEY, []),
        ({}, KEY, "GOMODEL_MASTER_KEY=another\n", []),
        ({}, KEY + "LOG_LEVEL=debug\n", KEY, []),
    ],
)
def test_neither_the_key_nor_the_file_may_vanish(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    environ: dict[str, str],
    before: str | None,
    after: str | None,
    refused: list[str],
) -> None:
    env = tmp_path / ".env"

    def put(text: str | None) -> None:
        env.unlink(missing_ok=True)
        if text is not None:
            env.write_text(text)

    put(before)
    current = load(environ, env)
    put(after)
    with caplog.at_level(logging.ERROR, "gomodel"):
        config = read_again(lambda: load(environ, env), current)
    assert (config is None) is bool(refused)
    said = [f"The new configuration is not used, the old one stays: {'; '.join(refused)}"] if refused else []
    assert caplog.messages == said


def test_a_file_that_came_at_a_reload_may_not_vanish_at_the_next(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    first = load({}, env)
    env.write_text("LOG_LEVEL=debug\n")
    second = read_again(lambda: load({}, env), first)
    assert second is not None
    env.unlink()
    assert read_again(lambda: load({}, env), second) is None


async def status(port: int) -> int:
    client = await RawClient.connect(port)
    await client.send(CHAT)
    answer = await client.read_response("POST")
    client.wire.close()
    return int(answer.status)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("how", [Path.unlink, lambda path: path.write_text("")], ids=["missing", "truncated"])
async def test_a_file_caught_while_it_is_replaced_opens_nothing(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, workers: str, how: Any
) -> None:
    upstream.repeat(response(b"answer"))
    env = tmp_path / ".env"
    settings = f"VLLM_BASE_URL={upstream.base_url}\n"
    env.write_text(settings + KEY)
    process = await run({"GOMODEL_WORKERS": workers})
    port = await process.listening()
    assert await status(port) == 401
    await asyncio.to_thread(how, env)
    process.signal(signal.SIGHUP)
    await process.says(f"The new configuration is not used, the old one stays: {GONE}")
    assert [await status(port) for _ in range(5)] == [401] * 5
    env.write_text(f"{settings}GOMODEL_MASTER_KEY=another\n")
    process.signal(signal.SIGHUP)
    await process.says("The configuration was read again")
    assert [await status(port) for _ in range(5)] == [401] * 5
    assert await process.stop() == 0
    assert upstream.requests == []
