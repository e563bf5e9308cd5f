"""POST /v1/chat/completions: OpenAI's chat dialect as vLLM 0.33 reads and writes it."""

from typing import Any

from aiohttp import web

from .answer import Answer, converse, limits_of, prompt_tokens
from .body import Body, objects, read_json
from .completions import Choice, number_of_choices, send_choices
from .conversation import Conversation, Message, choose, dictated, plain_text, read_tools
from .engine import random_id
from .errors import ApiError, bad_parameter, dumps

_ROLES = {"developer": "system", "function": "tool"}


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """One or several answers to a conversation, at once or as events."""
    body = await read_json(request, "messages")
    given = body["max_tokens"] if body["max_completion_tokens"] is None else body["max_completion_tokens"]
    limits, asked = limits_of(body, given), conversation_of(body)
    prompt, named = prompt_tokens(asked.prompt), isinstance(body["tool_choice"], dict)
    choices = [
        _choice(converse(asked, prompt, limits, variant=(body["seed"], index)), body["tool_choice"], named=named)
        for index in range(number_of_choices(body))
    ]
    kinds = ("chatcmpl", "chat.completion", "chat.completion.chunk")
    return await send_choices(request, body, prompt, choices, kinds)


def conversation_of(body: Body) -> Conversation:
    """The body of a chat request in the neutral form; raises ApiError."""
    given = objects(body["messages"], "body.messages", "role")
    turns = [Message(_ROLES.get(turn["role"], turn["role"]), _said(turn)) for turn in given]
    if not turns:
        raise ApiError("Cannot apply chat template to an empty conversation. Provide at least one message.")
    if body["tools"] == []:
        message = "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely."
        raise bad_parameter(message, "tools")
    functions = [tool["function"] for tool in objects(body["tools"], "body.tools", "function")]
    tools, wanted = read_tools(functions, "body.tools.function"), body["tool_choice"]
    named = None
    if isinstance(wanted, dict):
        (choice,) = objects([wanted], "body.tool_choice", "function")
        wanted, named = None, str(choice["function"].get("name"))
    called = choose(tools, wanted, named, turns[-1])
    return Conversation(tuple(turns), called, dictated(called, body["response_format"]))


def _said(turn: Body) -> str:
    """What was said, and what was called: both are part of the prompt."""
    calls = objects(turn["tool_calls"], "body.messages.tool_calls", "function")
    return "\n".join([plain_text(turn["content"]), *(dumps(call["function"]).decode() for call in calls)])


def _choice(answer: Answer, wanted: Any, *, named: bool) -> Choice:
    """`wanted` is the tool choice. A complete call finishes with tool_calls, but a `named` one with stop."""
    role = {"role": "assistant", "content": ""}
    if answer.tool is None:
        words = [{"content": word} for word in answer.words] or [{"content": ""}]
        return _made(answer, answer.finish, {**role, "content": answer.text}, [role, *words])
    call = {"id": f"chatcmpl-tool-{random_id()}", "type": "function"}
    name = {"name": answer.tool.name}
    content = None if wanted in (None, "auto") else ""
    message = {**role, "content": content, "tool_calls": [{**call, "function": {**name, "arguments": answer.text}}]}
    first = {"content": None, "tool_calls": [{**call, "index": 0, "function": name}]}
    pieces = [{"index": 0, "function": {"arguments": word}} for word in answer.words]
    deltas = [{"content": None, "tool_calls": [piece]} for piece in pieces]
    finish = "tool_calls" if answer.finish == "stop" and not named else answer.finish
    return _made(answer, finish, message, [role, first, *deltas, {}])


def _made(answer: Answer, finish: str, message: dict[str, Any], deltas: list[dict[str, Any]]) -> Choice:
    return Choice(answer, finish, {"message": message}, [{"delta": delta} for delta in deltas])
