"""httpx with httpx-sse: the events as they are, in a client of one's own.

http = httpx.Client(base_url="http://localhost:8080/v1", headers={"x-api-key": GOMODEL_MASTER_KEY})
body = {"model": "vllm/<model id>", "stream": True, "messages": [{"role": "user", "content": "Hello"}]}
with connect_sse(http, "POST", "/chat/completions", json=body) as source:
    for event in source.iter_sse():
        print(event.data)
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, aconnect_sse, connect_sse

from .conftest import Gateway

MESSAGES = [{"role": "user", "content": "Tell me about streams."}]


@pytest.fixture
def http(gateway: Gateway) -> Iterator[httpx.Client]:
    headers = {"x-api-key": gateway.key}
    with httpx.Client(base_url=f"{gateway.url}/v1", headers=headers, timeout=30) as http:
        yield http


def body(gateway: Gateway, **more: Any) -> dict[str, Any]:
    return {"model": gateway.model, "messages": MESSAGES, "stream": True, "max_tokens": 20, **more}


def fault(name: str) -> dict[str, str]:
    """The simulated vLLM breaks this request on order."""
    return {"x-demo-fault": name}


def test_a_chat_stream_is_data_events_that_end_with_done(http: httpx.Client, gateway: Gateway) -> None:
    with connect_sse(http, "POST", "/chat/completions", json=body(gateway)) as source:
        headers = source.response.headers
        events = list(source.iter_sse())
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
    assert {event.event for event in events} == {"message"}
    assert events[-1].data == "[DONE]"
    assert json.loads(events[0].data)["object"] == "chat.completion.chunk"


def test_the_events_of_a_response_carry_their_names(http: httpx.Client, gateway: Gateway) -> None:
    asked = {"model": gateway.model, "input": "Hello", "stream": True, "max_output_tokens": 10}
    with connect_sse(http, "POST", "/responses", json=asked) as source:
        events = list(source.iter_sse())
    assert [event.event for event in events] == [json.loads(event.data)["type"] for event in events]
    assert events[0].event == "response.created"


def test_the_request_id_that_a_client_chooses_comes_back(http: httpx.Client, gateway: Gateway) -> None:
    chosen = {"X-Request-Id": "mine-1"}
    with connect_sse(http, "POST", "/chat/completions", json=body(gateway), headers=chosen) as source:
        first = next(source.iter_sse())
        assert source.response.headers["x-request-id"] == "mine-1"
        assert "mine-1" in json.loads(first.data)["id"]


def test_events_arrive_while_the_answer_is_being_written(http: httpx.Client, gateway: Gateway) -> None:
    endless = body(gateway, max_tokens=7500, ignore_eos=True)
    slow = {"x-demo-tokens-per-s": "20"}
    with connect_sse(http, "POST", "/chat/completions", json=endless, headers=slow) as source:
        for number, _ in enumerate(source.iter_sse()):
            assert gateway.running() == 1
            if number == 3:
                break
    assert gateway.frees_the_slot()


@pytest.mark.simulated
@pytest.mark.parametrize(
    ("path", "more", "name"),
    [
        ("/chat/completions", {}, "message"),
        ("/completions", {"prompt": "Hello"}, "message"),
        ("/messages", {}, "error"),
        ("/responses", {"input": "Hello"}, "error"),
    ],
)
def test_a_cut_stream_says_so_in_an_event_and_breaks_off(
    http: httpx.Client, gateway: Gateway, path: str, more: dict[str, Any], name: str
) -> None:
    events: list[ServerSentEvent] = []
    asked = {**body(gateway), **more}
    with (
        connect_sse(http, "POST", path, json=asked, headers=fault("cut")) as source,
        pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"),
    ):
        events.extend(source.iter_sse())
    assert len(events) == 4
    assert events[-1].event == name
    assert "interrupted" in events[-1].data


@pytest.mark.simulated
def test_half_a_json_answer_breaks_off(http: httpx.Client, gateway: Gateway) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
        http.post("/chat/completions", json=body(gateway, stream=False), headers=fault("cut"))


def test_an_error_is_json_and_no_stream(http: httpx.Client, gateway: Gateway) -> None:
    with connect_sse(http, "POST", "/chat/completions", json=body(gateway, model="nobody")) as source:
        assert source.response.status_code == 404
        assert source.response.headers["content-type"] == "application/json"
        assert json.loads(source.response.read())["error"]["code"] == "model_not_found"


def test_a_hundred_streams_of_one_asynchronous_client(gateway: Gateway) -> None:
    async def listen(http: httpx.AsyncClient) -> str:
        asked = body(gateway, model=gateway.other_model)
        async with aconnect_sse(http, "POST", "/chat/completions", json=asked) as source:
            return [event.data async for event in source.aiter_sse()][-1]

    async def all_at_once() -> list[str]:
        headers = {"Authorization": f"Bearer {gateway.key}"}
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=f"{gateway.url}/v1", headers=headers, limits=limits, timeout=60) as http:
            return await asyncio.gather(*(listen(http) for _ in range(100)))

    assert set(asyncio.run(all_at_once())) == {"[DONE]"}
