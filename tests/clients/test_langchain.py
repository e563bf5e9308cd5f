"""LangChain's OpenAI integration.

llm = ChatOpenAI(base_url="http://localhost:8080/v1", api_key=GOMODEL_MASTER_KEY, model="vllm/<model id>")
for chunk in llm.stream("Hello"):
    print(chunk.content, end="", flush=True)
"""

import asyncio
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, SecretStr

from .conftest import Gateway

QUESTION = "Tell me about streams."


@tool
def get_weather(city: Literal["Rome", "Oslo"]) -> str:
    """The weather in a city."""
    return f"It is sunny in {city}."


class Verdict(BaseModel):
    """What a structured answer is parsed into."""

    good: bool


def chat_model(gateway: Gateway, **options: Any) -> ChatOpenAI:
    given: Any = {"model": gateway.model, "api_key": SecretStr(gateway.key), "max_retries": 0, "timeout": 30, **options}
    return ChatOpenAI(base_url=f"{gateway.url}/v1", **given)


def test_invoke_and_stream_say_the_same(gateway: Gateway) -> None:
    llm = chat_model(gateway, max_tokens=30, temperature=0)
    whole = llm.invoke(QUESTION)
    assert whole.content
    assert whole.response_metadata["model_name"] == gateway.model_id
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] <= 30
    pieces = list(llm.stream(QUESTION))
    assert len(pieces) > 5
    assert "".join(str(piece.content) for piece in pieces) == whole.content


def test_a_stream_ends_with_the_usage_that_was_asked_for(gateway: Gateway) -> None:
    pieces = list(chat_model(gateway, max_tokens=12, stream_usage=True).stream(QUESTION))
    used = [piece.usage_metadata for piece in pieces if isinstance(piece.usage_metadata, dict)]
    assert [each["output_tokens"] for each in used if each["output_tokens"]] == [12]


def test_a_bound_tool_is_called_and_its_result_answered(gateway: Gateway) -> None:
    llm = chat_model(gateway, max_tokens=200)
    called: Any = llm.bind_tools([get_weather], tool_choice="get_weather").invoke(QUESTION)
    call = called.tool_calls[0]
    assert call["name"] == "get_weather"
    result: ToolMessage = get_weather.invoke(call)
    assert "sunny in" in str(result.content)
    assert llm.invoke([HumanMessage(QUESTION), called, result]).content


def test_the_pieces_of_a_streamed_tool_call_add_up(gateway: Gateway) -> None:
    bound = chat_model(gateway, max_tokens=200).bind_tools([get_weather], tool_choice="get_weather")
    first, *rest = list(bound.stream(QUESTION))
    whole: Any = sum(rest, start=first)
    assert whole.tool_calls[0]["args"]["city"] in ("Rome", "Oslo")


def test_a_structured_answer_is_parsed(gateway: Gateway) -> None:
    llm = chat_model(gateway, max_tokens=200, temperature=0).with_structured_output(Verdict, method="json_schema")
    assert isinstance(llm.invoke(QUESTION), Verdict)


@pytest.mark.serves("/v1/embeddings")
def test_texts_are_embedded(gateway: Gateway) -> None:
    # Without the check LangChain sends strings; with it, token ids of OpenAI's own tokenizer, which means nothing here.
    embeddings = OpenAIEmbeddings(
        base_url=f"{gateway.url}/v1",
        api_key=SecretStr(gateway.key),
        model=gateway.model,
        check_embedding_ctx_length=False,
    )
    one, other = embeddings.embed_documents(["streams", "rivers"])
    assert one == embeddings.embed_query("streams") != other


def test_the_responses_api_streams_too(gateway: Gateway) -> None:
    llm = chat_model(gateway, max_tokens=400, use_responses_api=True)
    pieces = list(llm.stream("Hello"))
    assert len(pieces) > 5
    assert "".join(piece.text for piece in pieces)


def test_errors_are_those_of_the_openai_sdk(gateway: Gateway) -> None:
    with pytest.raises(openai.AuthenticationError):
        chat_model(gateway, api_key=SecretStr("wrong")).invoke(QUESTION)
    with pytest.raises(openai.NotFoundError):
        chat_model(gateway, model="vllm/nobody").invoke(QUESTION)
    with pytest.raises(openai.InternalServerError, match="502"):
        chat_model(gateway, model=gateway.dead_model).invoke(QUESTION)


@pytest.mark.simulated
@pytest.mark.parametrize(("responses_api", "raises"), [(False, openai.APIError), (True, ValueError)])
def test_a_stream_that_vllm_cuts_raises_instead_of_ending(
    gateway: Gateway, responses_api: bool, raises: type[Exception]
) -> None:
    llm = chat_model(gateway, default_headers={"x-demo-fault": "cut"}, use_responses_api=responses_api)
    with pytest.raises(raises, match="was interrupted before it was complete"):
        list(llm.stream(QUESTION))
    assert gateway.frees_the_slot()


@pytest.mark.simulated
def test_a_chain_that_is_cancelled_frees_the_slot(gateway: Gateway) -> None:
    llm = chat_model(
        gateway, max_tokens=7500, extra_body={"ignore_eos": True}, default_headers={"x-demo-tokens-per-s": "20"}
    )

    async def cancel() -> None:
        streaming = asyncio.Event()

        async def listen() -> None:
            async for _ in llm.astream(QUESTION):
                streaming.set()

        task = asyncio.create_task(listen())
        await streaming.wait()
        task.cancel()
        await asyncio.wait([task])
        assert await asyncio.to_thread(gateway.frees_the_slot)

    asyncio.run(cancel())
