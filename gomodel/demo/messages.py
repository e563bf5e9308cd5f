"""POST /v1/messages and /v1/messages/count_tokens.

Decides the fields and the typed events of Anthropic's dialect as vLLM 0.33 writes them: ids that begin with
chatcmpl-, no `ping` and no [DONE]. Knows nothing of what is said.
"""

import json
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

from . import tokens
from .answer import Answer, converse, limits_of, prompt_tokens
from .body import check_objects, optional, read_json, required
from .conversation import Conversation, Message, Tool, choose, plain_text
from .engine import ENGINE, Pace, pace, random_id, request_id
from .errors import BadRequest, EngineFailure
from .wire import event, send_json, send_stream

COUNT_FIELDS = {
    "model": required("str"),
    "messages": required("list"),
    "system": optional("str", "list"),
    "tool_choice": optional("dict"),
    "tools": optional("list"),
}
FIELDS = {
    **COUNT_FIELDS,
    "max_tokens": required("int"),
    "stop_sequences": optional("list"),
    "stream": optional("bool"),
    "temperature": optional("float"),
    "top_k": optional("int"),
    "top_p": optional("float"),
}

_CHOICES = {"any": "required", "auto": "auto", "none": "none"}


async def create(request: web.Request) -> web.StreamResponse:
    """One answer to a conversation, at once or as events."""
    body = await read_json(request, FIELDS)
    engine = request.app[ENGINE]
    model = engine.served(body["model"])
    limits = limits_of({**body, "stop": body["stop_sequences"]}, body["max_tokens"])
    asked, speed = _conversation(body), pace(request)
    prompt = prompt_tokens(asked.prompt)
    answer = converse(asked, prompt, limits)
    head = {"id": f"chatcmpl-{request_id(request)}", "type": "message", "role": "assistant"}
    with engine.running(prompt):
        if body["stream"]:
            response = await send_stream(request, _events(head, model, answer, speed, prompt), broken=_failure())
        else:
            await speed.advance([answer.tokens])
            reason, sequence = _stop(answer)
            message = {**head, "content": [_block(answer)], "model": model, "stop_reason": reason}
            if sequence is not None:
                message["stop_sequence"] = sequence
            response = await send_json(request, {**message, "usage": _usage(prompt, answer.tokens)})
        engine.finished[answer.finish] += 1
        return response


async def count_tokens(request: web.Request) -> web.StreamResponse:
    """How many tokens a conversation has: the `input_tokens` that an answer to it would report."""
    body = await read_json(request, COUNT_FIELDS)
    request.app[ENGINE].served(body["model"])
    length = tokens.count(_conversation(body).prompt)
    return await send_json(request, {"input_tokens": length, "context_management": {"original_input_tokens": length}})


def _conversation(body: dict[str, Any]) -> Conversation:
    turns = check_objects(body["messages"], {"role": required("str")}, "body.messages")
    if not turns:
        raise BadRequest("Cannot apply chat template to an empty conversation. Provide at least one message.")
    messages = [Message("system", plain_text(body["system"]))] if body["system"] else []
    for turn in turns:
        messages += _turns(turn["role"], turn.get("content"))
    fields = {"name": required("str"), "description": optional("str"), "input_schema": required("dict")}
    tools = tuple(
        Tool(tool["name"], tool["description"] or "", {"type": "object", **tool["input_schema"]})
        for tool in check_objects(body["tools"] or [], fields, "body.tools")
    )
    wanted = body["tool_choice"] or {}
    named = str(wanted.get("name", "")) if wanted.get("type") == "tool" else None
    kind = wanted.get("type")
    choice, named = choose(tools, None if named is not None or kind is None else _CHOICES.get(kind, str(kind)), named)
    return Conversation(tuple(messages), tools=tools, choice=choice, named=named)


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


def _stop(answer: Answer) -> tuple[str, str | None]:
    if answer.finish == "length":
        return "max_tokens", None
    if answer.stop_reason is not None:
        return "stop_sequence", answer.stop_reason
    return ("end_turn" if answer.tool is None else "tool_use"), None


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"input_tokens": prompt, "output_tokens": completion}


def _block(answer: Answer) -> dict[str, Any]:
    """The content of the answer; arguments that were cut off are no JSON any more and come as text."""
    if answer.tool is not None:
        try:
            given = json.loads(answer.text)
        except json.JSONDecodeError:
            return {"type": "text", "text": answer.text}
        return {"type": "tool_use", "id": f"chatcmpl-tool-{random_id()}", "name": answer.tool.name, "input": given}
    return {"type": "text", "text": answer.text}


def _typed(kind: str, **fields: Any) -> bytes:
    return event({"type": kind, **fields}, kind)


def _failure() -> list[bytes]:
    """An engine failure in the middle of a block, after which the stream ends cleanly."""
    return [_typed("content_block_stop", index=0), event(EngineFailure().anthropic_body(), "error")]


async def _events(
    head: dict[str, Any], model: str, answer: Answer, speed: Pace, prompt: int
) -> AsyncGenerator[bytes, None]:
    """message_start, one content block, message_delta with the reason and the usage, message_stop."""
    start = {**head, "content": [], "model": model, "stop_reason": None, "stop_sequence": None}
    yield _typed("message_start", message={**start, "usage": _usage(prompt, 0)})
    if answer.tool is None:
        block: dict[str, Any] = {"type": "text", "text": ""}
        kind, key = "text_delta", "text"
    else:
        block = {"type": "tool_use", "id": f"chatcmpl-tool-{random_id()}", "name": answer.tool.name, "input": {}}
        kind, key = "input_json_delta", "partial_json"
    yield _typed("content_block_start", content_block=block, index=0)
    for step in answer.steps:
        await speed.advance([step.tokens])
        yield _typed("content_block_delta", delta={"type": kind, key: step.text}, index=0)
    yield _typed("content_block_stop", index=0)
    reason, sequence = _stop(answer)
    delta = {"stop_reason": reason, "stop_sequence": sequence}
    yield _typed("message_delta", delta=delta, usage=_usage(prompt, answer.tokens))
    yield _typed("message_stop")
