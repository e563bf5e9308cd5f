"""The simulated vLLM: chat and completions on the wire."""

import io
import json
import re
from typing import Any

import pytest

from gomodel.simulator import build_app
from gomodel.simulator.text import OPENING

from .client import ASK, CHAT, JSON, MODEL, PARAMETERS, TOOL, datas, events, post


@pytest.fixture
async def client(aiohttp_client: Any) -> Any:
    return await aiohttp_client(build_app(tokens_per_s=0))


async def test_chat_answers_with_the_fields_of_vllm(client: Any) -> None:
    answer = await post(client, CHAT, {"model": MODEL, "messages": ASK})
    assert re.fullmatch(r"chatcmpl-[0-9a-f]{16}", answer["id"])
    assert (answer["object"], answer["model"]) == ("chat.completion", MODEL)
    (choice,) = answer["choices"]
    assert choice["message"]["content"].startswith(OPENING)
    assert "rivers" in choice["message"]["content"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    counted = await post(client, "/tokenize", {"prompt": choice["message"]["content"]})
    rendered = await post(client, "/tokenize", {"messages": ASK})
    assert answer["usage"]["completion_tokens"] == counted["count"]
    assert answer["usage"]["prompt_tokens"] == rendered["count"]
    assert answer["usage"]["total_tokens"] == counted["count"] + rendered["count"]


async def test_a_chat_stream_says_the_same_as_the_plain_answer(client: Any) -> None:
    plain = await post(client, CHAT, {"messages": ASK})
    found = await events(client, CHAT, {"messages": ASK, "stream": True})
    assert found[-1] == "data: [DONE]"
    chunks = datas(found)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = [chunk["choices"][0]["delta"]["content"] for chunk in chunks]
    assert "".join(said) == plain["choices"][0]["message"]["content"]
    assert all(re.fullmatch(r" ?\w+| ?[^\w\s]", word) for word in said[1:])  # no event has more than a word
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in chunks]
    assert reasons == [None] * (len(chunks) - 1) + ["stop"]
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


async def test_usage_comes_in_an_event_of_its_own_when_asked_for(client: Any) -> None:
    body = {"messages": ASK, "stream": True, "max_tokens": 7, "n": 2, "stream_options": {"include_usage": True}}
    *chunks, last = datas(await events(client, CHAT, body))
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 14
    assert last["usage"]["total_tokens"] == last["usage"]["prompt_tokens"] + 14
    assert all("usage" not in chunk for chunk in chunks)


async def test_several_choices_interleave_and_differ(client: Any) -> None:
    found = datas(await events(client, CHAT, {"messages": ASK, "stream": True, "n": 3, "max_tokens": 40}))
    order = [chunk["choices"][0]["index"] for chunk in found]
    assert order[:6] == [0, 1, 2, 0, 1, 2]
    said = ["", "", ""]
    for chunk in found:
        said[chunk["choices"][0]["index"]] += chunk["choices"][0]["delta"]["content"]
    plain = await post(client, CHAT, {"messages": ASK, "n": 3, "max_tokens": 40})
    assert [choice["message"]["content"] for choice in plain["choices"]] == said
    assert len(set(said)) == 3


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_token_limit_finishes_with_length(client: Any, name: str) -> None:
    answer = await post(client, CHAT, {"messages": ASK, name: 5})
    assert answer["choices"][0]["message"]["content"] == "This is a simulated answer"
    assert answer["choices"][0]["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5


async def test_a_stop_string_is_the_stop_reason(client: Any) -> None:
    answer = await post(client, CHAT, {"messages": ASK, "stop": ["answer"]})
    assert answer["choices"][0]["message"]["content"] == "This is a simulated "
    assert (answer["choices"][0]["finish_reason"], answer["choices"][0]["stop_reason"]) == ("stop", "answer")


@pytest.mark.parametrize(
    ("choice", "content", "finish"),
    [
        ("required", "", "tool_calls"),
        ({"type": "function", "function": {"name": "get_weather"}}, "", "stop"),
        ("auto", None, "tool_calls"),
    ],
)
async def test_a_tool_call_has_arguments_that_fit_its_schema(
    client: Any, choice: Any, content: str | None, finish: str
) -> None:
    ask = [{"role": "user", "content": "Use get_weather, please."}]
    body = {"messages": ask, "tools": [TOOL], "tool_choice": choice}
    message = (answer := (await post(client, CHAT, body))["choices"][0])["message"]
    (call,) = message["tool_calls"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris", "days": 2}
    assert (message["content"], answer["finish_reason"]) == (content, finish)

    _, first, *rest = (chunk["choices"][0] for chunk in datas(await events(client, CHAT, {**body, "stream": True})))
    (head,) = first["delta"]["tool_calls"]
    assert (head["type"], head["index"], head["function"]) == ("function", 0, {"name": "get_weather"})
    pieces = [choice["delta"]["tool_calls"][0]["function"]["arguments"] for choice in rest[:-1]]
    assert len(pieces) > 3
    assert "".join(pieces) == call["function"]["arguments"]
    assert (rest[-1]["delta"], rest[-1]["finish_reason"]) == ({}, finish)


async def test_a_tool_result_is_answered_in_words(client: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    turns = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]
    turns.append({"role": "tool", "tool_call_id": "1", "content": "sunshine"})
    answer = await post(client, CHAT, {"messages": turns, "tools": [TOOL]})
    assert "tool_calls" not in answer["choices"][0]["message"]
    assert "sunshine" in answer["choices"][0]["message"]["content"]


async def test_structured_output_follows_the_schema(client: Any) -> None:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": PARAMETERS}}
    answer = await post(client, CHAT, {"messages": ASK, "response_format": schema})
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"city": "Paris", "days": 2}


async def test_json_object_output_is_an_object_that_says_what_it_is(client: Any) -> None:
    answer = await post(client, CHAT, {"messages": ASK, "response_format": {"type": "json_object"}})
    assert json.loads(answer["choices"][0]["message"]["content"])["simulated"] is True


async def test_media_parts_count_as_one_token_each(client: Any) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2_000_000}}
    ask = [{"role": "user", "content": [{"type": "text", "text": "Look"}, image]}]
    body = io.BytesIO(json.dumps({"messages": ask, "max_tokens": 1}).encode())  # far over aiohttp's usual limit
    async with client.post(CHAT, data=body, headers=JSON) as response:
        assert (await response.json())["usage"]["prompt_tokens"] < 20


@pytest.mark.parametrize("asked", [None, "", MODEL])
async def test_the_answer_names_the_served_model(client: Any, asked: str | None) -> None:
    assert (await post(client, CHAT, {"model": asked, "messages": ASK}))["model"] == MODEL


async def test_a_request_id_becomes_the_id_of_the_answer(client: Any) -> None:
    found = await events(client, CHAT, {"messages": ASK, "stream": True}, headers={"X-Request-Id": "abc"})
    assert {chunk["id"] for chunk in datas(found)} == {"chatcmpl-abc"}


@pytest.mark.parametrize(("prompt", "choices"), [("Hi", 1), (["Hi", "Ho"], 2), ([72, 105], 1), ([[72], [105], [3]], 3)])
async def test_completions_answer_every_prompt(client: Any, prompt: Any, choices: int) -> None:
    answer = await post(client, "/v1/completions", {"prompt": prompt})
    assert answer["object"] == "text_completion"
    assert [choice["index"] for choice in answer["choices"]] == list(range(choices))
    assert all(choice["finish_reason"] == "length" for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == 16 * choices
    found = await events(client, "/v1/completions", {"prompt": prompt, "stream": True})
    assert found[-1] == "data: [DONE]"
    said = [""] * choices
    for chunk in datas(found):
        said[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert said == [choice["text"] for choice in answer["choices"]]
