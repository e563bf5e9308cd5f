"""POST /v1/responses, GET /v1/responses/{id} and POST /v1/responses/{id}/cancel.

OpenAI's responses dialect as vLLM 0.33 has it with VLLM_ENABLE_RESPONSES_API_STORE=1: what is stored lives in the
memory of one process.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from itertools import count
from typing import Any

from aiohttp import web

from .answer import Answer, converse, limits_of, prompt_tokens
from .body import Body, objects, read_json
from .conversation import Conversation, Message, choose, dictated, plain_text, read_tools
from .engine import ENGINE, Engine, Pace, random_id
from .errors import ApiError, bad_parameter
from .wire import event, send_json, send_stream

_KEPT = 1000  # vLLM evicts nothing; a demo that runs for weeks has to
_ECHOED = ("instructions", "max_output_tokens", "metadata", "previous_response_id", "temperature", "text", "top_p")


@dataclass
class _Record:
    """One response: its JSON so far, the turns that a later request continues, the task that makes it, if any."""

    response: dict[str, Any]
    turns: tuple[Message, ...]
    task: asyncio.Task[None] | None = None


_STORE = web.AppKey("responses", OrderedDict[str, _Record])


async def store_context(app: web.Application) -> AsyncIterator[None]:
    """Owns the responses, and the tasks that make some of them, for as long as the application runs."""
    app[_STORE] = OrderedDict()
    yield
    for record in app[_STORE].values():
        await _stop(record)


async def create(request: web.Request) -> web.StreamResponse:
    """One answer to text or items, at once, as events, or in the background."""
    body = await read_json(request, "input")
    engine, store = request.app[ENGINE], request.app[_STORE]
    limits = limits_of(body, body["max_output_tokens"], param="max_output_tokens")
    if body["background"] and (body["store"] is False or body["stream"]):
        raise bad_parameter("The simulation can only store a background response, not stream it.", "background")
    earlier = _find(request, body["previous_response_id"]).turns if body["previous_response_id"] is not None else ()
    asked, speed = _conversation(body, earlier), Pace(request)
    prompt = prompt_tokens(asked.prompt)
    answer = converse(asked, prompt, limits)
    turns = tuple(turn for turn in asked.messages if turn.role != "system")
    record = _Record(_new_response(body, engine.model), (*turns, Message("assistant", answer.text)))
    events = _events(record.response, answer, speed, prompt)
    if body["store"] is not False:
        store[record.response["id"]] = record
        if len(store) > _KEPT:
            await _stop(store.popitem(last=False)[1])
    if body["background"]:
        record.response["status"] = "queued"
        record.task = asyncio.create_task(_make(engine, events, prompt, answer))
        return await send_json(request, record.response)
    if body["stream"]:
        with engine.running(prompt, answer.tokens):
            return await send_stream(request, events)
    await _make(engine, events, prompt, answer)
    return await send_json(request, record.response)


async def _make(engine: Engine, events: AsyncGenerator[bytes, None], prompt: int, answer: Answer) -> None:
    with engine.running(prompt, answer.tokens):
        async for _ in events:
            pass


async def retrieve(request: web.Request) -> web.StreamResponse:
    """A remembered response, as far as it is made."""
    return await send_json(request, _find(request, request.match_info["id"]).response)


async def cancel(request: web.Request) -> web.StreamResponse:
    """Stops a background response and answers with what it is now."""
    record = _find(request, request.match_info["id"])
    if record.task is None or record.task.done():
        message = "Cannot cancel a synchronous response."
        raise ApiError(message, param="response_id", type="invalid_request_error")
    await _stop(record)
    if record.task.cancelled():
        record.response["status"] = "cancelled"
    return await send_json(request, record.response)


def _find(request: web.Request, identity: str) -> _Record:
    record = request.app[_STORE].get(identity)
    if record is None:
        message = f"Response with id '{identity}' not found."
        raise ApiError(message, status=404, param="response_id", type="invalid_request_error")
    return record


async def _stop(record: _Record) -> None:
    if record.task is not None:
        record.task.cancel()
        await asyncio.gather(record.task, return_exceptions=True)


def _new_response(body: Body, model: str) -> dict[str, Any]:
    """The response object before anything was generated."""
    response = {"id": f"resp_{random_id()}", "object": "response", "created_at": int(time.time()), "model": model}
    response |= {"status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    response |= {"tools": body["tools"] or [], "tool_choice": body["tool_choice"] or "auto"}
    return {**response, **{name: body[name] for name in _ECHOED}, "background": bool(body["background"])}


def _conversation(body: Body, earlier: tuple[Message, ...]) -> Conversation:
    given = body["input"]
    system = (Message("system", body["instructions"]),) if body["instructions"] else ()
    items = [Body(role="user", content=given)] if isinstance(given, str) else objects(given, "body.input")
    turns = (*system, *earlier, *map(_turn, items))
    if not turns:
        raise bad_parameter("Provide at least one input item.", "input")
    functions = [tool for tool in objects(body["tools"], "body.tools") if tool["type"] == "function"]
    tools, wanted = read_tools(functions, "body.tools"), body["tool_choice"]
    named = str(wanted.get("name")) if isinstance(wanted, dict) else None
    called = choose(tools, None if named else wanted, named, turns[-1])
    return Conversation(turns, called, dictated(called, (body["text"] or {}).get("format")))


def _turn(item: Body) -> Message:
    """An input item: a message, a call that was made, or what it returned."""
    role = {"function_call": "assistant", "function_call_output": "tool"}.get(item["type"], item["role"] or "user")
    return Message(role, plain_text(item["content"] or item["arguments"] or item["output"]))


async def _events(response: dict[str, Any], answer: Answer, speed: Pace, prompt: int) -> AsyncGenerator[bytes, None]:
    """Typed and numbered, without a [DONE] at the end. `response` is complete when the last one comes."""
    numbers = count()

    def typed(what: str, /, **fields: Any) -> bytes:
        kind = f"response.{what}"
        return event({**fields, "sequence_number": next(numbers), "type": kind}, kind)

    response["status"] = "in_progress"
    yield typed("created", response=response)
    yield typed("in_progress", response=response)
    part = {"type": "output_text", "text": answer.text, "annotations": []}
    item: dict[str, Any] = {"id": f"msg_{random_id()}", "type": "message", "role": "assistant", "content": []}
    at: dict[str, Any] = {"item_id": item["id"], "output_index": 0, "content_index": 0, "logprobs": []}
    field = "output_text"
    whole: dict[str, Any] = {"text": answer.text}
    done: dict[str, Any] = {"content": [part]}
    if answer.tool is not None:
        item = {"id": f"fc_{random_id()}", "type": "function_call", "name": answer.tool.name, "arguments": ""}
        item |= {"call_id": f"chatcmpl-tool-{random_id()}"}
        at = {"item_id": item["id"], "output_index": 0}
        field = "function_call_arguments"
        whole = done = {"arguments": answer.text}
    yield typed("output_item.added", output_index=0, item={**item, "status": "in_progress"})
    if answer.tool is None:
        yield typed("content_part.added", **at, part={**part, "text": ""})
    for word in answer.words:
        await speed.advance(1)
        yield typed(f"{field}.delta", **at, delta=word)
    yield typed(f"{field}.done", **at, **whole)
    if answer.tool is None:
        yield typed("content_part.done", **at, part=part)
    item |= {**done, "status": "completed"}
    yield typed("output_item.done", output_index=0, item=item)
    response |= {"output": [item], "usage": _usage(prompt, answer.tokens), "status": "completed"}
    if answer.finish == "length":
        response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    yield typed(response["status"], response=response)


def _usage(prompt: int, completion: int) -> dict[str, Any]:
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion, **details}
