"""What the OpenAI SDK for Python raises when something goes wrong, and what stops when its caller stops."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from .conftest import Gateway
from .servers import base_url, closed_port, gomodel, simulated_vllm, until

MESSAGES: Any = [{"role": "user", "content": "Tell me about streams."}]
# An answer that outlasts the test; a real vLLM does not know the header.
ENDLESS: Any = {"max_tokens": 7500, "extra_body": {"ignore_eos": True}, "extra_headers": {"x-demo-tokens-per-s": "20"}}


def fault(name: str) -> Any:
    """The simulated vLLM breaks this request on order."""
    return {"extra_headers": {"x-demo-fault": name}}


def open_client(gateway: Gateway, **options: Any) -> OpenAI:
    given: Any = {"api_key": gateway.key, "max_retries": 0, "timeout": 30, **options}
    return OpenAI(base_url=f"{gateway.url}/v1", **given)


@pytest.fixture
def client(gateway: Gateway) -> Iterator[OpenAI]:
    with open_client(gateway) as client:
        yield client


def chat(client: OpenAI, model: str, **more: Any) -> Any:
    return client.chat.completions.create(model=model, messages=MESSAGES, **{"max_tokens": 10, **more})


@pytest.mark.parametrize("key", ["wrong", "clients-master-key-and-more"])
def test_a_wrong_key_is_an_authentication_error(gateway: Gateway, key: str) -> None:
    with open_client(gateway, api_key=key) as client, pytest.raises(openai.AuthenticationError) as raised:
        chat(client, gateway.model)
    assert (raised.value.status_code, raised.value.code) == (401, "invalid_api_key")
    assert raised.value.type == "authentication_error"
    assert key not in str(raised.value)


def test_a_model_that_no_instance_has_is_not_found(client: OpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        chat(client, f"vlm/{gateway.model_id}")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert gateway.model in raised.value.message
    with pytest.raises(openai.NotFoundError) as raised:
        client.models.retrieve("vllm/nobody")
    assert raised.value.code == "model_not_found"


def test_a_model_that_the_named_instance_has_not_is_not_found_in_vllms_words(client: OpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError, match="`nobody` does not exist") as raised:
        chat(client, "vllm/nobody")
    assert raised.value.response.headers["x-gomodel-provider"] == "vllm"


def test_a_route_that_does_not_exist_is_not_found(client: OpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.NotFoundError):  # in vLLM's words, since gomodel has no list of its routes
        client.images.generate(model=gateway.model, prompt="a cat")
    with pytest.raises(openai.NotFoundError) as raised:
        client.with_options(base_url=gateway.url).get("/nothing", cast_to=object)
    assert raised.value.code == "not_found"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "."),
        ({"model": ""}, "model"),
        ({"extra_body": {"model": 7}}, "model"),
    ],
)
def test_what_cannot_be_served_is_a_bad_request(client: OpenAI, gateway: Gateway, more: Any, said: str) -> None:
    with pytest.raises(openai.BadRequestError, match=said) as raised:
        client.chat.completions.create(**{"model": gateway.model, "messages": MESSAGES, "max_tokens": 10, **more})
    assert raised.value.status_code == 400


@pytest.mark.parametrize("size", [1_100_000, 8_000_000, 60_000_000])
def test_a_body_over_the_limit_is_refused_as_such(client: OpenAI, gateway: Gateway, size: int) -> None:
    with pytest.raises(openai.APIStatusError) as raised:
        client.chat.completions.create(model=gateway.model, messages=[{"role": "user", "content": "x" * size}])
    assert (raised.value.status_code, raised.value.code) == (413, "body_too_large")


@pytest.mark.simulated
@pytest.mark.parametrize(
    ("order", "status", "said"),
    [("503", 503, "currently busy"), ("500-shutdown", 500, "after shutdown"), ("error-event", 500, "had an error")],
)
def test_an_error_of_vllm_passes_as_it_is(client: OpenAI, gateway: Gateway, order: str, status: int, said: str) -> None:
    with pytest.raises(openai.InternalServerError, match=said) as raised:
        chat(client, gateway.model, **fault(order))
    assert raised.value.status_code == status


def test_an_instance_that_is_not_there_is_a_bad_gateway(client: OpenAI, gateway: Gateway) -> None:
    for more in ({}, {"stream": True}):
        with pytest.raises(openai.InternalServerError) as raised:
            chat(client, gateway.dead_model, **more)
        assert (raised.value.status_code, raised.value.code) == (502, "connection_refused")
        assert "127.0.0.1" not in str(raised.value)


def test_an_open_breaker_says_when_to_come_back(strict_gateway: Gateway) -> None:
    with open_client(strict_gateway) as client, pytest.raises(openai.InternalServerError) as raised:
        chat(client, strict_gateway.dead_model)
    assert (raised.value.status_code, raised.value.code) == (503, "circuit_open")
    assert 500 < int(raised.value.response.headers["retry-after"]) <= 600


@pytest.mark.simulated
def test_an_instance_that_says_nothing_is_a_gateway_timeout(strict_gateway: Gateway) -> None:
    with open_client(strict_gateway) as client, pytest.raises(openai.InternalServerError) as raised:
        chat(client, strict_gateway.model, **fault("sleep"))
    assert (raised.value.status_code, raised.value.code) == (504, "http_response_timeout")


@pytest.mark.simulated
@pytest.mark.parametrize(
    "ask",
    [
        lambda client, model: client.chat.completions.create(
            model=model, messages=MESSAGES, stream=True, **fault("cut")
        ),
        lambda client, model: client.completions.create(
            model=model, prompt="Hello", max_tokens=50, stream=True, **fault("cut")
        ),
        lambda client, model: client.responses.create(model=model, input="Hello", stream=True, **fault("cut")),
    ],
    ids=["chat", "completions", "responses"],
)
def test_a_stream_that_vllm_cuts_raises_instead_of_ending(
    client: OpenAI, gateway: Gateway, ask: Callable[[OpenAI, str], Any]
) -> None:
    events: list[Any] = []
    with ask(client, gateway.model) as stream, pytest.raises(openai.APIError) as raised:
        events.extend(stream)
    assert len(events) >= 3
    codes = [raised.value.code, *(getattr(event, "code", None) for event in events)]
    assert "stream_interrupted" in codes
    assert gateway.frees_the_slot()


@pytest.mark.simulated
def test_a_stream_that_falls_silent_raises_instead_of_ending(strict_gateway: Gateway) -> None:
    with open_client(strict_gateway) as client, chat(client, strict_gateway.model, stream=True, **fault("stall")) as s:
        with pytest.raises(openai.APIError) as raised:
            list(s)
        assert raised.value.code == "stream_interrupted"
    assert strict_gateway.frees_the_slot()


@pytest.mark.simulated
def test_an_error_event_of_vllm_raises_with_vllms_words(client: OpenAI, gateway: Gateway) -> None:
    with (
        pytest.raises(openai.APIError, match="had an error while processing"),
        chat(client, gateway.model, stream=True, **fault("error-event")) as stream,
    ):
        list(stream)


@pytest.mark.simulated
def test_half_a_json_answer_is_a_connection_error(client: OpenAI, gateway: Gateway) -> None:
    with pytest.raises(openai.APIConnectionError):
        chat(client, gateway.model, **fault("cut"))


@pytest.mark.parametrize("leave", ["break", "close"])
def test_leaving_a_stream_frees_the_slot(client: OpenAI, gateway: Gateway, leave: str) -> None:
    if leave == "break":
        with chat(client, gateway.model, stream=True, **ENDLESS) as stream:
            for _ in stream:
                assert gateway.running() == 1
                break
    else:
        stream = chat(client, gateway.model, stream=True, **ENDLESS)
        next(iter(stream))
        assert gateway.running() == 1
        stream.close()
    assert gateway.frees_the_slot()


def test_a_client_that_waits_no_longer_frees_the_slot(gateway: Gateway) -> None:
    with open_client(gateway, timeout=1) as client, pytest.raises(openai.APITimeoutError):
        chat(client, gateway.model, **ENDLESS)
    assert gateway.frees_the_slot()


def test_cancelling_a_task_of_the_asynchronous_client_frees_the_slot(gateway: Gateway) -> None:
    async def cancel() -> None:
        async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
            streaming = asyncio.Event()

            async def listen() -> None:
                async for _ in await client.chat.completions.create(
                    model=gateway.model, messages=MESSAGES, stream=True, **ENDLESS
                ):
                    streaming.set()

            task = asyncio.create_task(listen())
            await streaming.wait()
            assert await asyncio.to_thread(gateway.running) == 1
            task.cancel()
            await asyncio.wait([task])
            assert await asyncio.to_thread(gateway.frees_the_slot)

    asyncio.run(cancel())


@pytest.mark.simulated
def test_a_cut_stream_raises_in_the_asynchronous_client(gateway: Gateway) -> None:
    async def listen() -> None:
        async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
            stream = await client.chat.completions.create(
                model=gateway.model, messages=MESSAGES, stream=True, **fault("cut")
            )
            with pytest.raises(openai.APIError) as raised:
                async for _ in stream:
                    pass
            assert raised.value.code == "stream_interrupted"

    asyncio.run(listen())


@pytest.mark.simulated
@pytest.mark.parametrize(("options", "requests"), [({"max_retries": 0}, 1), ({}, 3)], ids=["none", "the default"])
def test_the_sdk_repeats_what_is_worth_repeating(gateway: Gateway, options: Any, requests: int) -> None:
    before = gateway.answered(503)
    with (
        OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, timeout=30, **options) as client,
        pytest.raises(openai.InternalServerError),
    ):
        chat(client, gateway.model, **fault("503"))
    until("all requests are counted", lambda: gateway.answered(503) >= before + requests)
    assert gateway.answered(503) == before + requests


def test_the_sdk_repeats_nothing_that_would_fail_again(gateway: Gateway) -> None:
    before = gateway.answered(404), gateway.answered(401)
    for key in (gateway.key, "wrong"):
        with OpenAI(base_url=f"{gateway.url}/v1", api_key=key) as client, pytest.raises(openai.APIStatusError):
            chat(client, "vllm/nobody")
    until("both are counted", lambda: gateway.answered(401) > before[1] and gateway.answered(404) > before[0])
    assert (gateway.answered(404), gateway.answered(401)) == (before[0] + 1, before[1] + 1)


def test_the_sdk_outlasts_a_restart_by_coming_back_when_it_is_told_to(tmp_path: Any) -> None:
    settings = {"RETRY_MAX_RETRIES": "0", "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1", "CIRCUIT_BREAKER_TIMEOUT": "1s"}
    with closed_port() as port, gomodel(tmp_path, {"VLLM_BASE_URL": base_url(port), **settings}) as url:
        with OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client:
            with pytest.raises(openai.InternalServerError, match="502"):
                chat(client, "vllm/late")
            with pytest.raises(openai.InternalServerError, match="503") as raised:
                chat(client, "vllm/late")
            assert raised.value.response.headers["retry-after"] == "1"
        with simulated_vllm(port, "late"), OpenAI(base_url=f"{url}/v1", api_key="unused") as client:
            assert chat(client, "vllm/late").model == "late"
