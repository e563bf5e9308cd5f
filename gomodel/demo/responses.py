"""POST /v1/responses, GET /v1/responses/{id}, POST /v1/responses/{id}/cancel.

Decides what OpenAI's responses dialect asks for, as vLLM 0.33 reads it with VLLM_ENABLE_RESPONSES_API_STORE=1.
Knows nothing of what is said nor of the fields of an answer.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from aiohttp import web

from .answer import converse, limits_of, prompt_tokens
from .body import check_objects, optional, read_json, required
from .conversation import Conversation, Message, Tool, choose, plain_text, structured_text
from .engine import ENGINE, Engine, pace
from .errors import bad_parameter
from .response_events import new_response, response_events
from .response_store import STORE, Record
from .wire import send_json, send_stream

FIELDS = {
    "input": required("str", "list"),
    "model": optional("str"),
    "background": optional("bool"),
    "instructions": optional("str"),
    "max_output_tokens": optional("int"),
    "metadata": optional("dict"),
    "parallel_tool_calls": optional("bool"),
    "previous_response_id": optional("str"),
    "store": optional("bool"),
    "stream": optional("bool"),
    "temperature": optional("float"),
    "text": optional("dict"),
    "tool_choice": optional("str", "dict"),
    "tools": optional("list"),
    "top_p": optional("float"),
    "user": optional("str"),
}


async def create(request: web.Request) -> web.StreamResponse:
    """One answer to text or items, at once, as events, or in the background."""
    body = await read_json(request, FIELDS)
    engine, store = request.app[ENGINE], request.app[STORE]
    model = engine.served(body["model"])
    limits = limits_of(body, body["max_output_tokens"], "max_output_tokens")
    earlier: tuple[Message, ...] = ()
    if body["previous_response_id"] is not None:
        earlier = store.find(body["previous_response_id"]).turns
    kept = body["store"] is not False
    if body["background"] and not kept:
        raise bad_parameter("background can only be used when `store` is true.", "background")
    asked = _conversation(body, earlier)
    speed = pace(request)
    prompt = prompt_tokens(asked.prompt)
    answer = converse(asked, prompt, limits)
    turns = tuple(turn for turn in asked.messages if turn.role != "system")
    record = Record(new_response(body, model), (*turns, Message("assistant", answer.text)))
    events = response_events(engine, record, answer, speed, prompt, store if kept else None)
    if body["background"]:
        record.response["status"] = "queued"
        queued = dict(record.response)
        store.keep(record)
        store.run(record, _counted(engine, events, prompt))
        return await (send_stream(request, record.follow(0)) if body["stream"] else send_json(request, queued))
    with engine.running(prompt):
        if body["stream"]:
            return await send_stream(request, events)
        async for _ in events:
            pass
        return await send_json(request, record.response)


async def _counted(engine: Engine, events: AsyncGenerator[bytes, None], prompt: int) -> AsyncGenerator[bytes, None]:
    """`events`, while which the request counts as running, although no client waits for them."""
    with engine.running(prompt):
        async with aclosing(events):
            async for data in events:
                yield data


async def retrieve(request: web.Request) -> web.StreamResponse:
    """A remembered response; with `stream=true` the events of a background one, after `starting_after`."""
    record = request.app[STORE].find(request.match_info["id"])
    if request.query.get("stream", "").lower() not in ("true", "1"):
        return await send_json(request, record.response)
    if record.task is None:
        raise bad_parameter("Only background responses can be streamed again.", "stream")
    after = request.query.get("starting_after", "-1")
    try:
        start = int(after) + 1
    except ValueError:
        raise bad_parameter("starting_after must be an integer.", "starting_after", after) from None
    return await send_stream(request, record.follow(max(0, start)))


async def cancel(request: web.Request) -> web.StreamResponse:
    """Stops a background response and answers with what it is now."""
    record = await request.app[STORE].cancel(request.match_info["id"])
    return await send_json(request, record.response)


def _conversation(body: dict[str, Any], earlier: tuple[Message, ...]) -> Conversation:
    given = body["input"]
    system = (Message("system", body["instructions"]),) if body["instructions"] else ()
    items = [{"role": "user", "content": given}] if isinstance(given, str) else check_objects(given, {}, "body.input")
    turns = (*system, *earlier, *map(_turn, items))
    if not turns:
        raise bad_parameter("Provide at least one input item.", "input")
    flat = [tool for tool in check_objects(body["tools"] or [], {}, "body.tools") if tool.get("type") == "function"]
    fields = {"name": required("str"), "description": optional("str"), "parameters": optional("dict")}
    tools = tuple(
        Tool(tool["name"], tool["description"] or "", tool["parameters"])
        for tool in check_objects(flat, fields, "body.tools")
    )
    wanted = body["tool_choice"]
    named = str(wanted.get("name", "")) if isinstance(wanted, dict) else None
    choice, named = choose(tools, wanted if isinstance(wanted, str) else None, named)
    structured = structured_text((body["text"] or {}).get("format"))
    return Conversation(turns, tools=tools, choice=choice, named=named, structured=structured)


def _turn(item: dict[str, Any]) -> Message:
    """An input item: a message, a call that was made, or what it returned."""
    match item.get("type"):
        case "function_call_output":
            return Message("tool", plain_text(item.get("output")))
        case "function_call":
            return Message("assistant", f"{item.get('name', '')}({item.get('arguments', '')})")
    role = {"developer": "system", "system": "system", "assistant": "assistant"}.get(str(item.get("role")), "user")
    return Message(role, plain_text(item.get("content")))
