"""`gomodel doctor` as an operator runs it: what it prints, how it ends, what it never says."""

import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from gomodel.simulator import build_app

from ..harness import bad_paths
from ..harness.leaks import Inventory
from ..harness.processes import Run
from ..harness.scripted import ScriptedUpstream, env_for, json_response

KEY, INSTANCE_KEY = "sk-of-the-gateway", "sk-of-the-instance"


@pytest.fixture
async def engine(no_leaks: Inventory) -> AsyncIterator[int]:
    """A simulated vLLM's port. Without its counters nobody waits for them to change."""

    @web.middleware
    async def uncounted(request: web.Request, handler: Handler) -> web.StreamResponse:
        return web.Response(status=404) if request.path == "/metrics" else await handler(request)

    app = build_app(tokens_per_s=0, api_key=INSTANCE_KEY)
    app.middlewares.append(uncounted)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def environ(engine: int, port: int = 0) -> dict[str, str]:
    return {
        "VLLM_BASE_URL": f"http://127.0.0.1:{engine}/v1",
        "VLLM_API_KEY": INSTANCE_KEY,
        "GOMODEL_MASTER_KEY": KEY,
        "PORT": str(port),
    }


async def test_the_gateway_of_this_host_is_examined_by_default(run: Run, engine: int) -> None:
    gateway = await run(environ(engine))
    process = await run(environ(engine, await gateway.listening()), "doctor", "--large", "0.1")
    assert await process.ended() == 0, process.output + process.text
    assert process.output.startswith("gomodel ")
    assert f"[1] http://127.0.0.1:{gateway.port} (gomodel)" in process.output
    assert process.output.endswith(f"Verdict: what works directly works through http://127.0.0.1:{gateway.port}.\n\n")
    assert await gateway.stop() == 0


async def test_what_breaks_is_named_without_a_secret(run: Run, engine: int) -> None:
    async with bad_paths.serving(bad_paths.LimitsBodies(engine)) as port:
        url = f"http://user:{KEY}@127.0.0.1:{port}/v1"
        process = await run(
            {**environ(engine), "GOMODEL_MASTER_KEY": INSTANCE_KEY},
            "doctor",
            "--through",
            url,
            "--json",
            "--large",
            "2",
        )
        assert await process.ended() == 1, process.text
    said = json.loads(process.output)
    assert [each["kind"] for each in said["instances"][0]["findings"]] == ["large"]
    assert KEY not in process.output
    assert INSTANCE_KEY not in process.output


async def test_where_no_chat_is_answered_nothing_is_compared(run: Run, upstream: ScriptedUpstream) -> None:
    upstream.repeat(json_response({"detail": "Not Found"}, 404))
    process = await run(env_for(vllm=upstream), "doctor", "--through", upstream.base_url, "--large", "0.1")
    assert await process.ended() == 1
    assert "m of vllm answers no chat at" in process.text
    assert "directly: 404. Nothing can be compared." in process.text


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--through", "ftp://x"], 2, "--through ftp://x: it is no http:// or https:// URL"),
        (["--instance", "other"], 2, "--instance other is none of vllm"),
        (["--key-file", "none"], 2, "--key-file none: No such file or directory"),
        ([], 1, "cannot be asked directly"),
    ],
)
async def test_what_cannot_be_examined_is_said(
    run: Run, upstream: ScriptedUpstream, arguments: list[str], status: int, said: str
) -> None:
    upstream.stop_listening()
    process = await run(env_for(vllm=upstream), "doctor", *arguments)
    assert await process.ended() == status
    assert said in process.text
