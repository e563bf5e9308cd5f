"""The OpenAI SDK for Python.

client = OpenAI(base_url="http://localhost:8080/v1", api_key=GOMODEL_MASTER_KEY)
answer = client.chat.completions.create(model="vllm/<model id>", messages=[{"role": "user", "content": "Hello"}])
print(answer.choices[0].message.content)
"""

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

from .conftest import Gateway

MESSAGES: Any = [{"role": "user", "content": "Tell me about streams."}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}, "celsius": {"type": "boolean"}},
            "required": ["city", "celsius"],
            "additionalProperties": False,
        },
    },
}
ASK_WEATHER: Any = {"type": "function", "function": {"name": "get_weather"}}


class Verdict(BaseModel):
    """What a structured answer is parsed into."""

    good: bool
    colour: Literal["red", "green"]


@pytest.fixture
def client(gateway: Gateway) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=30) as client:
        yield client


def test_chat_is_answered_by_the_instance_that_the_model_names(client: OpenAI, gateway: Gateway) -> None:
    for model, instance in ((gateway.model, "vllm"), (gateway.other_model, "vllm-test")):
        raw = client.chat.completions.with_raw_response.create(model=model, messages=MESSAGES, max_tokens=16)
        assert raw.headers["x-gomodel-provider"] == instance
        answer = raw.parse()
        assert f"{instance}/{answer.model}" == model
        assert answer.choices[0].message.content
        assert answer.usage is not None
        assert answer.usage.completion_tokens <= 16


def test_a_stream_says_what_the_whole_answer_says(client: OpenAI, gateway: Gateway) -> None:
    asked: Any = {"model": gateway.model, "messages": MESSAGES, "max_tokens": 40, "temperature": 0}
    whole = client.chat.completions.create(**asked).choices[0]
    with client.chat.completions.create(stream=True, **asked) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.message.content
    assert chunks[-1].choices[0].finish_reason == whole.finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


def test_usage_ends_a_stream_that_asked_for_it(client: OpenAI, gateway: Gateway) -> None:
    with client.chat.completions.create(
        model=gateway.model, messages=MESSAGES, max_tokens=12, stream=True, stream_options={"include_usage": True}
    ) as stream:
        *chunks, last = list(stream)
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.prompt_tokens + last.usage.completion_tokens == last.usage.total_tokens
    assert all(chunk.choices for chunk in chunks)


def test_several_choices_come_at_once_and_interleaved(client: OpenAI, gateway: Gateway) -> None:
    asked: Any = {"model": gateway.model, "messages": MESSAGES, "max_tokens": 8, "n": 3}
    whole = client.chat.completions.create(**asked)
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    with client.chat.completions.create(stream=True, **asked) as stream:
        chunks = list(stream)
    ended = {choice.index for chunk in chunks for choice in chunk.choices if choice.finish_reason}
    assert ended == {0, 1, 2}


def test_a_tool_is_called_and_its_result_answered(client: OpenAI, gateway: Gateway) -> None:
    asked: Any = {"model": gateway.model, "tools": [WEATHER], "max_tokens": 200}
    called = client.chat.completions.create(messages=MESSAGES, tool_choice=ASK_WEATHER, **asked).choices[0].message
    assert called.tool_calls is not None
    call: Any = called.tool_calls[0]
    assert call.function.name == "get_weather"
    assert set(json.loads(call.function.arguments)) == {"city", "celsius"}
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    history: Any = [*MESSAGES, called.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(messages=history, tool_choice="none", **asked)
    assert answer.choices[0].message.content
    assert not answer.choices[0].message.tool_calls


@pytest.mark.simulated
def test_a_model_that_may_call_a_tool_does_so_when_asked(client: OpenAI, gateway: Gateway) -> None:
    ask: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
    answer = client.chat.completions.create(model=gateway.model, messages=ask, tools=[WEATHER], tool_choice="auto")
    assert answer.choices[0].finish_reason == "tool_calls"


def test_the_pieces_of_a_streamed_tool_call_add_up(client: OpenAI, gateway: Gateway) -> None:
    with client.chat.completions.stream(
        model=gateway.model, messages=MESSAGES, tools=[WEATHER], tool_choice=ASK_WEATHER, max_tokens=200
    ) as stream:
        kinds = {event.type for event in stream}
        calls = stream.get_final_completion().choices[0].message.tool_calls
    assert "tool_calls.function.arguments.delta" in kinds
    assert calls is not None
    assert set(json.loads(calls[0].function.arguments)) == {"city", "celsius"}


def test_a_json_schema_decides_the_answer(client: OpenAI, gateway: Gateway) -> None:
    schema: Any = {"name": "verdict", "strict": True, "schema": Verdict.model_json_schema()}
    answer = client.chat.completions.create(
        model=gateway.model,
        messages=MESSAGES,
        max_tokens=200,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": schema},
    )
    Verdict.model_validate_json(answer.choices[0].message.content or "")


def test_an_answer_is_parsed_into_a_model_of_pydantic(client: OpenAI, gateway: Gateway) -> None:
    asked: Any = {"model": gateway.model, "messages": MESSAGES, "max_tokens": 200, "temperature": 0}
    parsed = client.chat.completions.parse(response_format=Verdict, **asked)
    assert isinstance(parsed.choices[0].message.parsed, Verdict)
    with client.chat.completions.stream(response_format=Verdict, **asked) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Verdict)


def test_completions_come_whole_and_streamed(client: OpenAI, gateway: Gateway) -> None:
    asked: Any = {"model": gateway.model, "prompt": "Once upon a time", "max_tokens": 10, "temperature": 0}
    whole = client.completions.create(**asked).choices[0].text
    with client.completions.create(stream=True, **asked) as stream:
        assert "".join(chunk.choices[0].text for chunk in stream) == whole


@pytest.mark.serves("/v1/embeddings")
def test_embeddings_are_the_same_as_numbers_and_as_base64(client: OpenAI, gateway: Gateway) -> None:
    numbers = client.embeddings.create(model=gateway.model, input=["a", "b"], encoding_format="float").data
    decoded = client.embeddings.create(model=gateway.model, input=["a", "b"]).data  # base64 on the wire
    assert [each.embedding for each in numbers] == [each.embedding for each in decoded]
    assert numbers[0].embedding != numbers[1].embedding
    encoded = client.embeddings.create(model=gateway.model, input="a", encoding_format="base64").data[0].embedding
    assert isinstance(encoded, str)


def test_a_response_is_kept_continued_and_found_at_the_instance_that_made_it(client: OpenAI, gateway: Gateway) -> None:
    for model in (gateway.model, gateway.other_model):
        first = client.responses.create(model=model, input="Hello", max_output_tokens=30)
        assert first.output_text
        assert client.responses.retrieve(first.id).output_text == first.output_text
        second = client.responses.create(
            model=model, input="Go on", previous_response_id=first.id, max_output_tokens=30
        )
        assert second.usage is not None
        assert first.usage is not None
        assert second.usage.input_tokens > first.usage.total_tokens


def test_the_events_of_a_response_are_typed(client: OpenAI, gateway: Gateway) -> None:
    asked: Any = {"model": gateway.model, "input": "Hello", "max_output_tokens": 30, "temperature": 0}
    with client.responses.create(stream=True, **asked) as stream:
        events = list(stream)
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    last: Any = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == last.response.output_text
    # The SDK wants the end to be response.completed, so the answer has to fit.
    with client.responses.stream(**{**asked, "max_output_tokens": 400}) as managed:
        assert managed.get_final_response().output_text.startswith(last.response.output_text)


def test_a_response_in_the_background_can_be_cancelled(client: OpenAI, gateway: Gateway) -> None:
    response = client.responses.create(
        model=gateway.model,
        input="Hello",
        background=True,
        max_output_tokens=7500,
        extra_body={"ignore_eos": True},
        extra_headers={"x-demo-tokens-per-s": "5"},
    )
    assert client.responses.cancel(response.id).status == "cancelled"
    assert client.responses.retrieve(response.id).status == "cancelled"
    assert gateway.frees_the_slot()


def test_models_of_all_instances_are_listed_and_found(client: OpenAI, gateway: Gateway) -> None:
    listed = {model.id: model for model in client.models.list()}
    assert list(listed) == [gateway.model, gateway.other_model]
    for name, model in listed.items():
        assert client.models.retrieve(name).id == name
        assert model.owned_by == "vllm"


@pytest.mark.serves("/v1/audio/transcriptions")
def test_a_recording_is_uploaded_and_transcribed(client: OpenAI, gateway: Gateway) -> None:
    recording = ("speech.wav", io.BytesIO(b"RIFF" + bytes(300_000)), "audio/wav")
    answer = client.audio.transcriptions.create(model=gateway.model, file=recording)
    assert "300004 bytes" in answer.text
    recording[1].seek(0)
    with client.audio.transcriptions.create(model=gateway.model, file=recording, stream=True) as stream:
        assert len(list(stream)) > 1


@pytest.mark.simulated
def test_sound_is_transcribed_over_a_websocket_while_it_is_sent(client: OpenAI, gateway: Gateway) -> None:
    # vLLM's own dialect: the model stands in the query and in session.update, and a commit begins a transcription.
    events: list[Any] = [
        {"type": "session.update", "model": gateway.model},
        {"type": "input_audio_buffer.commit"},
        {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(32_000)).decode()},
        {"type": "input_audio_buffer.commit", "final": True},
    ]
    with client.realtime.connect(model=gateway.model) as connection:
        for event in events:
            connection.send(event)
        kinds = []
        for received in connection:
            kinds.append(str(received.type))
            if kinds[-1] in ("transcription.done", "error"):
                break
    assert (kinds[0], kinds[1], kinds[-1]) == ("session.created", "transcription.delta", "transcription.done")


def test_a_base_url_with_passthrough_takes_the_models_own_id(gateway: Gateway) -> None:
    with OpenAI(base_url=f"{gateway.url}/p/vllm/v1", api_key=gateway.key, max_retries=0, timeout=30) as client:
        answer = client.chat.completions.create(model=gateway.model_id, messages=MESSAGES, max_tokens=5)
        assert answer.model == gateway.model_id


def test_many_streams_of_the_asynchronous_client_run_side_by_side(gateway: Gateway) -> None:
    async def say(client: AsyncOpenAI, model: str, tokens: int) -> int:
        stream = await client.chat.completions.create(
            model=model,
            messages=MESSAGES,
            max_tokens=tokens,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        async with stream:
            chunks = [chunk async for chunk in stream]
        assert chunks[-1].usage is not None
        return chunks[-1].usage.completion_tokens

    async def all_at_once() -> list[int]:
        async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0, timeout=60) as client:
            models = (gateway.model, gateway.other_model)
            return await asyncio.gather(*(say(client, models[n % 2], 10 + n) for n in range(24)))

    assert asyncio.run(all_at_once()) == [10 + n for n in range(24)]
