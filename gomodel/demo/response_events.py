"""The fields of a response object and the typed events that tell of its making.

Decides both as vLLM 0.33 writes them: numbered events, no [DONE], and no event for an engine failure. Knows nothing
of requests.
"""

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from .answer import Answer
from .engine import Engine, Pace, random_id
from .response_store import Record, Store
from .wire import event


def new_response(body: dict[str, Any], model: str) -> dict[str, Any]:
    """The response object before anything was generated, in vLLM's order of fields."""
    tools = [{"name": None, "parameters": None, "strict": None, "description": None, **t} for t in body["tools"] or ()]
    return {
        "id": f"resp_{random_id()}",
        "created_at": int(time.time()),
        "incomplete_details": None,
        "instructions": body["instructions"],
        "metadata": body["metadata"],
        "model": model,
        "object": "response",
        "output": [],
        "parallel_tool_calls": body["parallel_tool_calls"] is not False,
        "temperature": 1.0 if body["temperature"] is None else body["temperature"],
        "tool_choice": body["tool_choice"] or ("auto" if tools else "none"),
        "tools": tools,
        "top_p": 1.0 if body["top_p"] is None else body["top_p"],
        "background": bool(body["background"]),
        "max_output_tokens": body["max_output_tokens"],
        "max_tool_calls": None,
        "previous_response_id": body["previous_response_id"],
        "prompt": None,
        "reasoning": None,
        "service_tier": "auto",
        "status": "in_progress",
        "text": body["text"],
        "top_logprobs": None,
        "truncation": "disabled",
        "usage": None,
        "user": body["user"],
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
        "input_messages": None,
        "output_messages": None,
    }


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    read: dict[str, Any] = {
        "cached_tokens": 0,
        "cache_write_tokens": 0,
        "input_tokens_per_turn": [],
        "cached_tokens_per_turn": [],
    }
    written: dict[str, Any] = {"reasoning_tokens": 0, "tool_output_tokens": 0}
    written |= {"output_tokens_per_turn": [], "tool_output_tokens_per_turn": []}
    return {
        "input_tokens": prompt,
        "input_tokens_details": read,
        "output_tokens": completion,
        "output_tokens_details": written,
        "total_tokens": prompt + completion,
    }


async def response_events(
    engine: Engine, record: Record, answer: Answer, speed: Pace, prompt: int, store: Store | None
) -> AsyncGenerator[bytes, None]:
    """The typed events of the response, which makes `record.response` complete on the way and, at last, kept."""
    response = record.response
    number = -1

    def typed(kind: str, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        return event({**fields, "sequence_number": number, "type": kind}, kind)

    response["status"] = "in_progress"
    yield typed("response.created", response=response)
    yield typed("response.in_progress", response=response)
    output = _message_events if answer.tool is None else _call_events
    async with aclosing(output(typed, answer, speed)) as parts:
        async for data, item in parts:
            if item is not None:
                response["output"] = [item]
            yield data
    incomplete = answer.finish == "length"
    response["incomplete_details"] = {"reason": "max_output_tokens"} if incomplete else None
    response["status"] = "incomplete" if incomplete else "completed"
    response["usage"] = _usage(prompt, answer.tokens)
    engine.finished[answer.finish] += 1
    if store is not None:
        store.keep(record)
    yield typed(f"response.{response['status']}", response=response)


_Typed = Callable[..., bytes]
_Parts = AsyncGenerator[tuple[bytes, dict[str, Any] | None], None]


async def _message_events(typed: _Typed, answer: Answer, speed: Pace) -> _Parts:
    """The events of a message item; the finished item comes with the last."""
    identity = f"msg_{random_id()}"
    at = {"item_id": identity, "output_index": 0, "content_index": 0}
    item: dict[str, Any] = {
        "id": identity,
        "content": [],
        "role": "assistant",
        "status": "in_progress",
        "type": "message",
    }
    yield typed("response.output_item.added", item={**item, "phase": None}, output_index=0), None
    part: dict[str, Any] = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
    yield typed("response.content_part.added", **at, part=part), None
    for step in answer.steps:
        await speed.advance([step.tokens])
        yield typed("response.output_text.delta", **at, delta=step.text, logprobs=[]), None
    yield typed("response.output_text.done", **at, text=answer.text, logprobs=[]), None
    part |= {"text": answer.text, "logprobs": None}
    yield typed("response.content_part.done", **at, part=part), None
    item |= {"content": [part], "status": "completed", "phase": None}
    yield typed("response.output_item.done", item=item, output_index=0), item


async def _call_events(typed: _Typed, answer: Answer, speed: Pace) -> _Parts:
    """The events of a function call item; the finished item comes with the last."""
    assert answer.tool is not None
    at = {"item_id": f"fc_{random_id()}", "output_index": 0}
    call = {"call_id": f"chatcmpl-tool-{random_id()}", "name": answer.tool.name, "type": "function_call"}
    item = {"arguments": "", **call, "id": at["item_id"], "status": "in_progress"}
    yield typed("response.output_item.added", item=item, output_index=0), None
    for step in answer.steps:
        await speed.advance([step.tokens])
        yield typed("response.function_call_arguments.delta", **at, delta=step.text), None
    name = answer.tool.name
    yield typed("response.function_call_arguments.done", **at, arguments=answer.text, name=name), None
    item = {**item, "arguments": answer.text, "status": "completed"}
    yield typed("response.output_item.done", item=item, output_index=0), item
