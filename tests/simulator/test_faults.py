"""The simulated vLLM's pace, its ordered faults, and what happens when a client leaves."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from aiohttp import ClientError, ClientPayloadError, web
from aiohttp.test_utils import TestClient

from gomodel.simulator import build_app
from gomodel.simulator.wire import send_stream

ASK = [{"role": "user", "content": "Tell me about rivers."}]
CHAT = ("/v1/chat/completions", {"messages": ASK})
COMPLETIONS = ("/v1/completions", {"prompt": "rivers"})
RESPONSES = ("/v1/responses", {"input": "rivers"})
MESSAGES = ("/v1/messages", {"model": "demo/llama-sim", "max_tokens": 99, "messages": ASK})
STREAMS = [CHAT, COMPLETIONS, RESPONSES, MESSAGES]
Route = tuple[str, dict[str, Any]]


@pytest.fixture
async def client(aiohttp_client: Any) -> Any:
    return await aiohttp_client(build_app(tokens_per_s=0))


async def running(client: TestClient[Any, Any], expected: int) -> None:
    """Ask until so many requests run; each question is a round trip, so that nothing has to be slept."""
    line = f'vllm:num_requests_running{{engine="0",model_name="demo/llama-sim"}} {float(expected)}\n'
    async with asyncio.timeout(10):
        while True:
            async with client.get("/metrics") as response:
                if line in await response.text():
                    return


def order(fault: str, route: Route, *, stream: bool) -> dict[str, Any]:
    return {"path": route[0], "json": {**route[1], "stream": stream}, "headers": {"x-demo-fault": fault}}


async def read_events(response: Any, count: int) -> list[bytes]:
    return [await response.content.readuntil(b"\n\n") for _ in range(count)]


@pytest.mark.parametrize("route", STREAMS, ids=lambda route: route[0])
async def test_a_cut_stream_ends_after_three_events_without_a_terminator(client: Any, route: Route) -> None:
    async with client.post(**order("cut", route, stream=True)) as response:
        assert response.status == 200
        assert len(await read_events(response, 3)) == 3
        with pytest.raises(ClientPayloadError):
            await response.content.read()
    await running(client, 0)


async def test_a_short_stream_is_cut_before_its_terminator(client: Any) -> None:
    route = (CHAT[0], {**CHAT[1], "max_tokens": 1})
    async with client.post(**order("cut", route, stream=True)) as response:
        assert json.loads((await read_events(response, 2))[1][6:])["choices"][0]["finish_reason"] == "length"
        with pytest.raises(ClientPayloadError):
            await response.content.read()


@pytest.mark.parametrize("route", STREAMS, ids=lambda route: route[0])
async def test_a_cut_body_is_shorter_than_its_length(client: Any, route: Route) -> None:
    async with client.post(**order("cut", route, stream=False)) as response:
        assert response.status == 200
        with pytest.raises(ClientPayloadError):
            await response.read()


@pytest.mark.parametrize("route", [CHAT, COMPLETIONS], ids=lambda route: route[0])
async def test_an_error_event_is_followed_by_done_and_a_clean_end(client: Any, route: Route) -> None:
    async with client.post(**order("error-event", route, stream=True)) as response:
        text = await response.text()
    *_, error, done, rest = text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    assert json.loads(error.removeprefix("data: ")) == {
        "error": {
            "message": "The server had an error while processing your request.",
            "type": "InternalServerError",
            "param": None,
            "code": 500,
        }
    }
    assert text.count("data: ") == 5


async def test_an_error_event_of_anthropic_closes_its_block_first(client: Any) -> None:
    async with client.post(**order("error-event", MESSAGES, stream=True)) as response:
        *_, stop, error, rest = (await response.text()).split("\n\n")
    assert stop.startswith("event: content_block_stop\n")
    assert rest == ""
    kind, data = error.split("\n")
    assert kind == "event: error"
    assert json.loads(data.removeprefix("data: "))["error"]["type"] == "api_error"


async def test_an_engine_failure_cuts_a_responses_stream(client: Any) -> None:
    async with client.post(**order("error-event", RESPONSES, stream=True)) as response:
        with pytest.raises(ClientPayloadError):
            await response.read()


@pytest.mark.parametrize(
    ("fault", "status", "message", "kind"),
    [
        ("503", 503, "The engine is currently busy", "overloaded_error"),
        ("500-shutdown", 500, "cannot schedule new futures after shutdown", "api_error"),
        ("error-event", 500, "The server had an error", "api_error"),
    ],
)
async def test_ordered_refusals_have_the_bodies_of_vllm(
    client: Any, fault: str, status: int, message: str, kind: str
) -> None:
    async with client.post(**order(fault, CHAT, stream=False)) as response:
        error = (await response.json())["error"]
        assert (response.status, error["code"]) == (status, status)
        assert error["message"].startswith(message)
        assert "Retry-After" not in response.headers
    async with client.post(**order(fault, MESSAGES, stream=False)) as response:
        body = await response.json()
        assert (response.status, body["type"], body["error"]["type"]) == (status, "error", kind)


async def test_health_ignores_faults(client: Any) -> None:
    async with client.get("/health", headers={"x-demo-fault": "503"}) as response:
        assert response.status == 200


@pytest.mark.parametrize(("header", "value"), [("x-demo-fault", "explode"), ("x-demo-tokens-per-s", "fast")])
async def test_an_unknown_order_is_400(client: Any, header: str, value: str) -> None:
    async with client.post(CHAT[0], json=CHAT[1], headers={header: value}) as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == header


@pytest.mark.parametrize("pace", ["-1", "nan", "inf"])
async def test_a_pace_that_is_none_is_400(client: Any, pace: str) -> None:
    async with client.post(CHAT[0], json=CHAT[1], headers={"x-demo-tokens-per-s": pace}) as response:
        assert response.status == 400


@pytest.mark.parametrize("pace", [-1.0, float("nan"), float("inf")])
def test_an_application_needs_a_pace(pace: float) -> None:
    with pytest.raises(ValueError, match="tokens_per_s"):
        build_app(tokens_per_s=pace)


@pytest.mark.parametrize("route", STREAMS, ids=lambda route: route[0])
@pytest.mark.parametrize(("fault", "events"), [("stall", 3), ("sleep", 0)])
async def test_a_silent_stream_runs_until_its_client_leaves(client: Any, route: Route, fault: str, events: int) -> None:
    response = await client.post(**order(fault, route, stream=True))
    assert response.status == 200
    await read_events(response, events)
    await running(client, 1)
    response.close()
    await running(client, 0)


async def test_a_stalled_body_keeps_half_of_itself_back(client: Any) -> None:
    response = await client.post(**order("stall", CHAT, stream=False))
    length = int(response.headers["Content-Length"])
    await response.content.readexactly(length // 2)
    await running(client, 1)
    response.close()
    await running(client, 0)


@pytest.mark.parametrize("route", STREAMS, ids=lambda route: route[0])
async def test_a_client_that_leaves_a_plain_request_ends_it(client: Any, route: Route) -> None:
    slow = {"x-demo-tokens-per-s": "0.001"}
    task = asyncio.create_task(client.post(route[0], json=route[1], headers=slow))
    await running(client, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await running(client, 0)


@pytest.mark.parametrize("route", STREAMS, ids=lambda route: route[0])
async def test_a_client_that_leaves_a_stream_ends_it(aiohttp_client: Any, route: Route) -> None:
    client = await aiohttp_client(build_app(tokens_per_s=0.001))
    response = await client.post(route[0], json={**route[1], "stream": True})
    assert response.status == 200  # the head comes before the first word
    await running(client, 1)
    response.close()
    await running(client, 0)


async def test_a_realtime_client_that_leaves_ends_its_transcription(aiohttp_client: Any) -> None:
    client = await aiohttp_client(build_app(tokens_per_s=0.001))
    socket = await client.ws_connect("/v1/realtime")
    await socket.send_json({"type": "session.update", "model": "demo/llama-sim"})
    await socket.send_json({"type": "input_audio_buffer.commit"})
    await running(client, 1)
    await socket.close()
    await running(client, 0)


async def test_counters_grow_with_what_was_said(client: Any) -> None:
    async with client.post(CHAT[0], json={**CHAT[1], "max_tokens": 5, "n": 2}) as response:
        usage = (await response.json())["usage"]
    async with client.get("/metrics") as response:
        assert response.headers["Content-Type"] == "text/plain; version=1.0.0; charset=utf-8"
        text = await response.text()
    labels = '{engine="0",model_name="demo/llama-sim"'
    assert f"vllm:generation_tokens_total{labels}}} 10.0\n" in text
    assert f"vllm:prompt_tokens_total{labels}}} {float(usage['prompt_tokens'])}\n" in text


async def test_a_running_background_response_ends_with_the_application(aiohttp_client: Any) -> None:
    client = await aiohttp_client(build_app(tokens_per_s=0.001))
    async with client.post("/v1/responses", json={"input": "x", "background": True}) as response:
        assert response.status == 200
    await running(client, 1)
    before = asyncio.all_tasks()
    await client.close()
    assert not [task for task in asyncio.all_tasks() & before if "_make" in repr(task)]


async def test_a_client_that_leaves_between_two_events_is_no_error(aiohttp_client: Any, caplog: Any) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        async def events() -> AsyncGenerator[bytes, None]:
            yield b"data: 1\n\n"
            assert request.transport is not None
            request.transport.abort()
            yield b"data: 2\n\n"

        return await send_stream(request, events())

    app = web.Application()
    app.router.add_get("/", handler)
    client = await aiohttp_client(app)
    with pytest.raises(ClientError):
        async with client.get("/") as response:
            await response.read()
    await client.close()
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []
