"""The simulated vLLM: the responses and messages dialects."""

import asyncio
import json
import re
from typing import Any

import pytest

from gomodel.simulator import build_app
from gomodel.simulator.text import OPENING

from .client import ASK, MODEL, PARAMETERS, datas, events, post


@pytest.fixture
async def client(aiohttp_client: Any) -> Any:
    return await aiohttp_client(build_app(tokens_per_s=0))


async def test_responses_stream_typed_and_numbered_events_without_done(client: Any) -> None:
    found = await events(client, "/v1/responses", {"input": "Tell me about rivers.", "stream": True})
    kinds = [event.split("\n")[0].removeprefix("event: ") for event in found]
    data = datas(found)
    assert kinds == [item["type"] for item in data]
    assert [item["sequence_number"] for item in data] == list(range(len(data)))
    deltas = kinds.count("response.output_text.delta")
    assert kinds == [
        *("response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"),
        *(["response.output_text.delta"] * deltas),
        *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
        "response.completed",
    ]
    said = "".join(item["delta"] for item in data if "delta" in item)
    done = data[-1]["response"]
    assert done["output"][0]["content"][0]["text"] == said
    assert said.startswith(OPENING)
    assert done["usage"]["total_tokens"] == done["usage"]["input_tokens"] + done["usage"]["output_tokens"]
    async with client.get(f"/v1/responses/{done['id']}") as response:
        assert await response.json() == done


async def test_a_response_that_is_cut_by_its_limit_is_incomplete(client: Any) -> None:
    found = await events(client, "/v1/responses", {"input": "x", "stream": True, "max_output_tokens": 3})
    assert found[-1].startswith("event: response.incomplete\n")
    plain = await post(client, "/v1/responses", {"input": "x", "max_output_tokens": 3})
    assert (plain["status"], plain["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})


async def test_a_response_calls_a_tool_in_its_own_dialect(client: Any) -> None:
    tool = {"type": "function", "name": "get_weather", "parameters": PARAMETERS}
    body = {"input": "x", "tools": [tool], "tool_choice": "required"}
    (item,) = (await post(client, "/v1/responses", body))["output"]
    assert (item["type"], item["name"]) == ("function_call", "get_weather")
    assert json.loads(item["arguments"]) == {"city": "Paris", "days": 2}
    data = datas(await events(client, "/v1/responses", {**body, "stream": True}))
    pieces = [part["delta"] for part in data if part["type"] == "response.function_call_arguments.delta"]
    assert "".join(pieces) == item["arguments"]


async def test_a_response_continues_an_earlier_one(client: Any) -> None:
    first = await post(client, "/v1/responses", {"input": "rivers", "instructions": "Be brief."})
    alone = await post(client, "/v1/responses", {"input": "and mountains"})
    after = await post(client, "/v1/responses", {"input": "and mountains", "previous_response_id": first["id"]})
    assert after["usage"]["input_tokens"] > alone["usage"]["input_tokens"] + first["usage"]["output_tokens"]


async def test_a_response_that_is_not_stored_is_unknown(client: Any) -> None:
    made = await post(client, "/v1/responses", {"input": "x", "store": False})
    async with client.get(f"/v1/responses/{made['id']}") as response:
        assert response.status == 404


async def test_only_a_background_response_can_be_cancelled(client: Any) -> None:
    made = await post(client, "/v1/responses", {"input": "x"})
    error = await post(client, f"/v1/responses/{made['id']}/cancel", {}, 400)
    assert error["error"]["message"] == "Cannot cancel a synchronous response."


async def test_a_background_response_is_cancelled_while_it_runs(client: Any) -> None:
    slow = {"x-demo-tokens-per-s": "0.001"}
    async with client.post("/v1/responses", json={"input": "x", "background": True}, headers=slow) as response:
        made = await response.json()
    assert made["status"] == "queued"
    cancelled = await post(client, f"/v1/responses/{made['id']}/cancel", {})
    assert cancelled["status"] == "cancelled"
    async with client.get(f"/v1/responses/{made['id']}") as response:
        assert (await response.json())["status"] == "cancelled"
    async with client.get("/metrics") as response:
        assert "vllm:num_requests_running{" in (text := await response.text())
        assert not re.search(r"num_requests_running\{.*\} [^0]", text)


async def test_a_background_response_is_completed_without_its_client(client: Any) -> None:
    made = await post(client, "/v1/responses", {"input": "x", "background": True})
    done = made
    async with asyncio.timeout(10):
        while done["status"] != "completed":
            async with client.get(f"/v1/responses/{made['id']}") as response:
                done = await response.json()
    assert done["output"][0]["content"][0]["text"].startswith(OPENING)


@pytest.mark.parametrize("more", [{"stream": True}, {"store": False}])
async def test_a_background_response_is_stored_and_not_streamed(client: Any, more: Any) -> None:
    error = await post(client, "/v1/responses", {"input": "x", "background": True, **more}, 400)
    assert error["error"]["param"] == "background"


async def test_messages_stream_the_events_of_anthropic(client: Any) -> None:
    body = {"model": MODEL, "max_tokens": 500, "messages": ASK}
    found = await events(client, "/v1/messages", {**body, "stream": True})
    data = datas(found)
    assert [event.split("\n")[0].removeprefix("event: ") for event in found] == [item["type"] for item in data]
    words = [item["delta"]["text"] for item in data if item["type"] == "content_block_delta"]
    assert [item["type"] for item in data] == [
        *("message_start", "content_block_start"),
        *(["content_block_delta"] * len(words)),
        *("content_block_stop", "message_delta", "message_stop"),
    ]
    plain = await post(client, "/v1/messages", body)
    assert plain["content"] == [{"type": "text", "text": "".join(words)}]
    assert plain["stop_reason"] == data[-2]["delta"]["stop_reason"] == "end_turn"
    assert plain["usage"] == data[-2]["usage"]
    counted = await post(client, "/v1/messages/count_tokens", {"model": MODEL, "messages": ASK})
    assert counted["input_tokens"] == plain["usage"]["input_tokens"]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"max_tokens": 3}, "max_tokens"),
        ({"stop_sequences": ["answer"]}, "stop_sequence"),
        ({"max_tokens": 500}, "end_turn"),
    ],
)
async def test_messages_say_why_they_stopped(client: Any, more: Any, reason: str) -> None:
    answer = await post(client, "/v1/messages", {"model": MODEL, "max_tokens": 500, "messages": ASK, **more})
    assert answer["stop_reason"] == reason


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "get_weather"}])
async def test_messages_use_a_tool(client: Any, choice: Any) -> None:
    tool = {"name": "get_weather", "input_schema": PARAMETERS}
    body = {"model": MODEL, "max_tokens": 99, "messages": ASK, "tools": [tool], "tool_choice": choice}
    answer = await post(client, "/v1/messages", body)
    (block,) = answer["content"]
    assert (block["type"], block["name"], answer["stop_reason"]) == ("tool_use", "get_weather", "tool_use")
    assert block["input"] == {"city": "Paris", "days": 2}
    data = datas(await events(client, "/v1/messages", {**body, "stream": True}))
    pieces = [item["delta"]["partial_json"] for item in data if item["type"] == "content_block_delta"]
    assert json.loads("".join(pieces)) == block["input"]
