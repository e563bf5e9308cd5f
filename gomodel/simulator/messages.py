"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's dialect as vLLM 0.33 writes it.

Ids begin with chatcmpl-, and there is neither `ping` nor [DONE].
"""

import json
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

from . import tokens
from .answer import Answer, converse, limits_of, prompt_tokens
from .body import Body, objects, read_json
from .conversation import Conversation, Message, choose, dictated, plain_text, read_tools
from .engine import ENGINE, Pace, random_id, request_id
from .errors import ApiError, engine_failure
from .wire import event, send_json, send_stream


async def create(request: web.Request) -> web.StreamResponse:
    """One answer to a conversation, at once or as events."""
    body = await read_json(request, "model", "messages", "max_tokens")
    engine = request.app[ENGINE]
    limits, asked = limits_of(body, body["max_tokens"], stop="stop_sequences"), _conversation(body)
    prompt, speed = prompt_tokens(asked.prompt), Pace(request)
    answer = converse(asked, prompt, limits)
    head = {"id": f"chatcmpl-{request_id(request)}", "type": "message", "role": "assistant", "model": engine.model}
    with engine.running(prompt, answer.tokens):
        if body["stream"]:
            # An engine failure in the middle of a block, after which the stream ends cleanly.
            broken = [_typed("content_block_stop", index=0), event(engine_failure().anthropic_body(), "error")]
            return await send_stream(request, _events(head, answer, speed, prompt), broken=broken)
        await speed.advance(answer.tokens)
        message = {**head, "content": [_block(answer)], **_stop(answer), "usage": _usage(prompt, answer.tokens)}
        return await send_json(request, message)


async def count_tokens(request: web.Request) -> web.StreamResponse:
    """How many tokens a conversation has: the `input_tokens` that an answer to it would report."""
    body = await read_json(request, "model", "messages")
    return await send_json(request, {"input_tokens": tokens.count(_conversation(body).prompt)})


def _conversation(body: Body) -> Conversation:
    messages = [Message("system", plain_text(body["system"]))] if body["system"] else []
    for turn in objects(body["messages"], "body.messages", "role"):
        messages += _turns(turn["role"], turn["content"])
    if not body["messages"] or not messages:
        raise ApiError("Cannot apply chat template to an empty conversation. Provide at least one message.")
    tools = read_tools(body["tools"], "body.tools", "input_schema")
    (wanted,) = objects([body["tool_choice"] or {}], "body.tool_choice")
    kind = {"any": "required", "tool": None}.get(wanted["type"], wanted["type"])
    called = choose(tools, kind, str(wanted["name"]) if wanted["type"] == "tool" else None, messages[-1])
    return Conversation(tuple(messages), called, dictated(called, None))


def _turns(role: str, content: Any) -> list[Message]:
    """A turn of the user may hold results of tools, which the neutral form has as turns of their own."""
    if not isinstance(content, list):
        return [Message(role, plain_text(content))]
    results, said = [], []
    for block in content:
        match block.get("type") if isinstance(block, dict) else None:
            case "tool_result":
                results.append(Message("tool", plain_text(block.get("content"))))
            case "tool_use":
                said.append({"text": f"{block.get('name')}({json.dumps(block.get('input'))})"})
            case _:
                said.append(block)
    return [*results, *([Message(role, plain_text(said))] if said else [])]


def _stop(answer: Answer) -> dict[str, str | None]:
    reason = "end_turn" if answer.tool is None else "tool_use"
    if answer.finish == "length":
        reason = "max_tokens"
    elif answer.stop_reason is not None:
        reason = "stop_sequence"
    return {"stop_reason": reason, "stop_sequence": answer.stop_reason}


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"input_tokens": prompt, "output_tokens": completion}


def _block(answer: Answer) -> dict[str, Any]:
    """The content of the answer; arguments that were cut off are no JSON any more and come as text."""
    if answer.tool is None or answer.finish == "length" or answer.stop_reason is not None:
        return {"type": "text", "text": answer.text}
    return {**_tool_use(answer.tool.name), "input": json.loads(answer.text)}


def _tool_use(name: str) -> dict[str, Any]:
    return {"type": "tool_use", "id": f"chatcmpl-tool-{random_id()}", "name": name, "input": {}}


def _typed(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


async def _events(head: dict[str, Any], answer: Answer, speed: Pace, prompt: int) -> AsyncGenerator[bytes, None]:
    """message_start, one content block, message_delta with the reason and the usage, message_stop."""
    start = {**head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(prompt, 0)}
    yield _typed("message_start", message=start)
    block: dict[str, Any] = {"type": "text", "text": ""}
    kind, key = "text_delta", "text"
    if answer.tool is not None:
        block = _tool_use(answer.tool.name)
        kind, key = "input_json_delta", "partial_json"
    yield _typed("content_block_start", content_block=block, index=0)
    for word in answer.words:
        await speed.advance(1)
        yield _typed("content_block_delta", delta={"type": kind, key: word}, index=0)
    yield _typed("content_block_stop", index=0)
    yield _typed("message_delta", delta=_stop(answer), usage=_usage(prompt, answer.tokens))
    yield _typed("message_stop")
