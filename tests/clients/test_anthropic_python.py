"""The Anthropic SDK for Python, whose key comes as x-api-key and whose base URL has no /v1.

client = Anthropic(base_url="http://localhost:8080", api_key=GOMODEL_MASTER_KEY)
answer = client.messages.create(model="vllm/<model id>", messages=[{"role": "user", "content": "Hi"}], max_tokens=99)
print(answer.content[0].text)
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic

from .conftest import Gateway
from .servers import until

MESSAGES: Any = [{"role": "user", "content": "Tell me about streams."}]
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather in a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
# An answer that outlasts the test. A real vLLM does not know the header, nor an Anthropic name for ignoring the end.
ENDLESS: Any = {"max_tokens": 7500, "extra_headers": {"x-demo-tokens-per-s": "5"}}


def fault(name: str) -> Any:
    """The simulated vLLM breaks this request on order."""
    return {"extra_headers": {"x-demo-fault": name}}


def open_client(gateway: Gateway, **options: Any) -> Anthropic:
    given: Any = {"api_key": gateway.key, "max_retries": 0, "timeout": 30, **options}
    return Anthropic(base_url=gateway.url, **given)


@pytest.fixture
def client(gateway: Gateway) -> Iterator[Anthropic]:
    with open_client(gateway) as client:
        yield client


def ask(client: Anthropic, model: str, **more: Any) -> Any:
    return client.messages.create(**{"model": model, "messages": MESSAGES, "max_tokens": 20, **more})


def text(message: Any) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def test_a_message_is_answered_by_the_instance_that_the_model_names(client: Anthropic, gateway: Gateway) -> None:
    for model, instance in ((gateway.model, "vllm"), (gateway.other_model, "vllm-test")):
        raw = client.messages.with_raw_response.create(model=model, messages=MESSAGES, max_tokens=20)
        assert raw.headers["x-gomodel-provider"] == instance
        answer = raw.parse()
        assert f"{instance}/{answer.model}" == model
        assert text(answer)
        assert answer.stop_reason == "max_tokens"
        assert answer.usage.output_tokens == 20


def test_a_stream_says_what_the_whole_answer_says(client: Anthropic, gateway: Gateway) -> None:
    asked: Any = {"model": gateway.model, "messages": MESSAGES, "max_tokens": 30, "extra_body": {"temperature": 0}}
    whole = client.messages.create(**asked)
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == text(whole)
        final = stream.get_final_message()
    assert final.usage.output_tokens == whole.usage.output_tokens
    with client.messages.create(stream=True, **asked) as events:
        kinds = [event.type for event in events]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


def test_tokens_are_counted_as_an_answer_would_count_them(client: Anthropic, gateway: Gateway) -> None:
    counted = client.messages.count_tokens(model=gateway.model, messages=MESSAGES, system="Be brief.")
    assert counted.input_tokens == ask(client, gateway.model, system="Be brief.").usage.input_tokens


def test_a_tool_is_used_and_its_result_answered(client: Anthropic, gateway: Gateway) -> None:
    asked: Any = {"tools": [WEATHER], "max_tokens": 200}
    used = ask(client, gateway.model, tool_choice={"type": "tool", "name": "get_weather"}, **asked)
    call = next(block for block in used.content if block.type == "tool_use")
    assert call.name == "get_weather"
    assert call.input["city"] in ("Rome", "Oslo")
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "sunny"}]}
    history = [*MESSAGES, {"role": "assistant", "content": [call.model_dump(exclude_none=True)]}, result]
    assert text(ask(client, gateway.model, messages=history, tool_choice={"type": "none"}, **asked))


def test_the_pieces_of_a_streamed_tool_use_add_up(client: Anthropic, gateway: Gateway) -> None:
    with client.messages.stream(
        model=gateway.model,
        messages=MESSAGES,
        max_tokens=200,
        tools=[WEATHER],
        tool_choice={"type": "tool", "name": "get_weather"},
    ) as stream:
        kinds = {event.type for event in stream}
        block: Any = next(block for block in stream.get_final_message().content if block.type == "tool_use")
    assert "input_json" in kinds
    assert block.input["city"] in ("Rome", "Oslo")


def test_models_are_listed(client: Anthropic, gateway: Gateway) -> None:
    assert [model.id for model in client.models.list()] == [gateway.model, gateway.other_model]


def test_the_key_is_taken_as_a_bearer_token_too(gateway: Gateway) -> None:
    options: Any = {"auth_token": gateway.key, "max_retries": 0}
    with Anthropic(base_url=gateway.url, api_key=None, **options) as client:
        assert text(ask(client, gateway.model))


def test_a_wrong_key_is_an_authentication_error(gateway: Gateway) -> None:
    with open_client(gateway, api_key="wrong") as client, pytest.raises(anthropic.AuthenticationError) as raised:
        ask(client, gateway.model)
    assert kind(raised.value) == "authentication_error"


def kind(error: Any) -> str:
    """The `type` in the error's body, which every error of the Messages API has."""
    assert error.body["type"] == "error"
    return str(error.body["error"]["type"])


@pytest.mark.parametrize(
    ("more", "raises", "said"),
    [
        ({"model": "vlm/nobody"}, anthropic.NotFoundError, "not_found_error"),
        ({"model": ""}, anthropic.BadRequestError, "invalid_request_error"),
        ({"system": "x" * 1_100_000}, anthropic.RequestTooLargeError, "request_too_large"),
        ({"model": "vllm-dead/x"}, anthropic.InternalServerError, "api_error"),
    ],
)
def test_errors_have_the_class_and_the_shape_of_the_messages_api(
    client: Anthropic, gateway: Gateway, more: Any, raises: type[Exception], said: str
) -> None:
    with pytest.raises(raises) as raised:
        ask(client, **{"model": gateway.model, **more})
    assert kind(raised.value) == said


def test_an_error_of_vllm_passes_as_it_is(client: Anthropic, gateway: Gateway) -> None:
    # Its `type` depends on vLLM's version: NotFoundError in 0.32, not_found_error since.
    with pytest.raises(anthropic.NotFoundError, match="`nobody` does not exist"):
        ask(client, "vllm/nobody")
    with pytest.raises(anthropic.BadRequestError, match="empty conversation"):
        ask(client, gateway.model, messages=[])


@pytest.mark.simulated
def test_an_instance_that_is_busy_is_overloaded(client: Anthropic, gateway: Gateway) -> None:
    with pytest.raises(anthropic.ServiceUnavailableError) as raised:
        ask(client, gateway.model, **fault("503"))
    assert kind(raised.value) == "overloaded_error"


def test_an_open_breaker_says_when_to_come_back(strict_gateway: Gateway) -> None:
    with open_client(strict_gateway) as client, pytest.raises(anthropic.ServiceUnavailableError) as raised:
        ask(client, strict_gateway.dead_model)
    assert kind(raised.value) == "overloaded_error"
    assert 500 < int(raised.value.response.headers["retry-after"]) <= 600


@pytest.mark.simulated
def test_an_instance_that_says_nothing_is_a_gateway_timeout(strict_gateway: Gateway) -> None:
    with open_client(strict_gateway) as client, pytest.raises(anthropic.DeadlineExceededError) as raised:
        ask(client, strict_gateway.model, **fault("sleep"))
    assert kind(raised.value) == "timeout_error"


@pytest.mark.simulated
@pytest.mark.parametrize("way", ["create", "stream", "beta"])
def test_a_stream_that_vllm_cuts_raises_instead_of_ending(client: Anthropic, gateway: Gateway, way: str) -> None:
    asked: Any = {"model": gateway.model, "messages": MESSAGES, "max_tokens": 50, **fault("cut")}
    ways: dict[str, Callable[[], Any]] = {
        "create": lambda: client.messages.create(stream=True, **asked),
        "stream": lambda: client.messages.stream(**asked),
        "beta": lambda: client.beta.messages.stream(**asked),
    }
    with (
        pytest.raises(anthropic.APIStatusError, match="was interrupted before it was complete") as raised,
        ways[way]() as stream,
    ):
        list(stream)
    assert kind(raised.value) == "api_error"
    assert gateway.frees_the_slot()


@pytest.mark.simulated
def test_an_error_event_of_vllm_raises_with_vllms_words(client: Anthropic, gateway: Gateway) -> None:
    with (
        pytest.raises(anthropic.APIStatusError, match="had an error while processing"),
        ask(client, gateway.model, stream=True, **fault("error-event")) as stream,
    ):
        list(stream)


@pytest.mark.simulated
def test_half_a_json_answer_is_a_connection_error(client: Anthropic, gateway: Gateway) -> None:
    with pytest.raises(anthropic.APIConnectionError):
        ask(client, gateway.model, **fault("cut"))


def test_leaving_a_stream_frees_the_slot(client: Anthropic, gateway: Gateway) -> None:
    with ask(client, gateway.model, stream=True, **ENDLESS) as stream:
        for event in stream:
            if event.type == "content_block_delta":
                assert gateway.running() == 1
                break
    assert gateway.frees_the_slot()


def test_cancelling_a_task_of_the_asynchronous_client_frees_the_slot(gateway: Gateway) -> None:
    async def cancel() -> None:
        async with AsyncAnthropic(base_url=gateway.url, api_key=gateway.key, max_retries=0) as client:
            task = asyncio.create_task(client.messages.create(model=gateway.model, messages=MESSAGES, **ENDLESS))
            await asyncio.to_thread(until, "it runs", lambda: gateway.running() == 1)
            task.cancel()
            await asyncio.wait([task])
            assert await asyncio.to_thread(gateway.frees_the_slot)

    asyncio.run(cancel())


@pytest.mark.simulated
@pytest.mark.parametrize(("options", "requests"), [({"max_retries": 0}, 1), ({}, 3)], ids=["none", "the default"])
def test_the_sdk_repeats_what_is_worth_repeating(gateway: Gateway, options: Any, requests: int) -> None:
    before = gateway.answered(503)
    with (
        Anthropic(base_url=gateway.url, api_key=gateway.key, **options) as client,
        pytest.raises(anthropic.ServiceUnavailableError),
    ):
        ask(client, gateway.model, **fault("503"))
    until("all requests are counted", lambda: gateway.answered(503) >= before + requests)
    assert gateway.answered(503) == before + requests
