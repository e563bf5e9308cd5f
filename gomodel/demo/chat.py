"""POST /v1/chat/completions.

Decides the fields of OpenAI's chat dialect as vLLM 0.33 reads and writes them, its repeated nulls included. Knows
nothing of what is said.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aiohttp import web

from .answer import Answer, Limits, choices_of, converse, limits_of, prompt_tokens
from .body import check_objects, optional, read_json, required
from .conversation import Conversation, Message, Tool, choose, plain_text, structured_text
from .engine import ENGINE, FINGERPRINT, Pace, pace, random_id, request_id
from .errors import BadRequest, bad_parameter
from .usage import UsageWanted, stream_usage, usage, usage_wanted
from .wire import DONE, error_events, event, send_json, send_stream

FIELDS = {
    "messages": required("list"),
    "model": optional("str"),
    "frequency_penalty": optional("float"),
    "ignore_eos": optional("bool"),
    "include_stop_str_in_output": optional("bool"),
    "max_completion_tokens": optional("int"),
    "max_tokens": optional("int"),
    "min_tokens": optional("int"),
    "n": optional("int"),
    "presence_penalty": optional("float"),
    "response_format": optional("dict"),
    "seed": optional("int"),
    "stop": optional("str", "list"),
    "stream": optional("bool"),
    "stream_options": optional("dict"),
    "structured_outputs": optional("dict"),
    "temperature": optional("float"),
    "tool_choice": optional("str", "dict"),
    "tools": optional("list"),
    "top_p": optional("float"),
}

_ROLES = {"system": "system", "developer": "system", "assistant": "assistant", "tool": "tool", "function": "tool"}


def conversation_of(body: dict[str, Any]) -> Conversation:
    """The checked body of a chat request in the neutral form; raises BadRequest and ValidationFailed."""
    turns = check_objects(body["messages"], {"role": required("str")}, "body.messages")
    if not turns:
        raise BadRequest("Cannot apply chat template to an empty conversation. Provide at least one message.")
    tools = tools_of(body.get("tools"))
    wanted = body.get("tool_choice")
    named = None
    if isinstance(wanted, dict):
        named = str((wanted.get("function") or {}).get("name", ""))
    choice, named = choose(tools, wanted if isinstance(wanted, str) else None, named)
    return Conversation(
        messages=tuple(Message(_ROLES.get(turn["role"], "user"), _turn_text(turn)) for turn in turns),
        tools=tools,
        choice=choice,
        named=named,
        structured=structured_text(body.get("response_format"), body.get("structured_outputs")),
    )


def _turn_text(turn: dict[str, Any]) -> str:
    """What was said, and what was called: both are part of the prompt."""
    parts = [plain_text(turn.get("content"))]
    for call in turn.get("tool_calls") or ():
        function = (call.get("function") or {}) if isinstance(call, dict) else {}
        parts.append(f"{function.get('name', '')}({function.get('arguments', '')})")
    return "\n".join(part for part in parts if part)


def tools_of(given: list[Any] | None) -> tuple[Tool, ...]:
    """The functions among `tools`; raises ValidationFailed."""
    if given == []:
        message = "`tools` must not be an empty array. Either provide at least one tool or omit the field entirely."
        raise bad_parameter(message, "tools")
    checked = check_objects(given or [], {"function": required("dict")}, "body.tools")
    functions = [tool["function"] for tool in checked]
    fields = {"name": required("str"), "description": optional("str"), "parameters": optional("dict")}
    return tuple(
        Tool(function["name"], function["description"] or "", function["parameters"])
        for function in check_objects(functions, fields, "body.tools.function")
    )


async def chat_completions(request: web.Request) -> web.StreamResponse:
    """One or several answers to a conversation, at once or as events."""
    body = await read_json(request, FIELDS)
    engine = request.app[ENGINE]
    model = engine.served(body["model"])
    given = body["max_tokens"] if body["max_completion_tokens"] is None else body["max_completion_tokens"]
    limits, n, wanted = limits_of(body, given), choices_of(body), usage_wanted(body)
    asked = conversation_of(body)
    speed = pace(request)
    prompt = prompt_tokens(asked.prompt)
    answers = _answers(asked, prompt, limits, n, body["seed"])
    identity = {"id": f"chatcmpl-{request_id(request)}", "created": int(time.time()), "model": model}
    with engine.running(prompt):
        if body["stream"]:
            events = _events(identity, asked, answers, speed, prompt, wanted)
            response = await send_stream(request, events, end=DONE, broken=error_events())
        else:
            await speed.advance([answer.tokens for answer in answers])
            response = await send_json(request, _completion(identity, asked, answers, prompt))
        for answer in answers:
            engine.finished[answer.finish] += 1
        return response


def _answers(asked: Conversation, prompt: int, limits: Limits, n: int, seed: int | None) -> list[Answer]:
    return [converse(asked, prompt, limits, variant=(seed, index)) for index in range(n)]


def _finish(asked: Conversation, answer: Answer) -> str:
    """A complete call finishes with tool_calls, but a named one with stop."""
    calls = answer.tool is not None and answer.finish == "stop" and asked.choice != "named"
    return "tool_calls" if calls else answer.finish


def _completion(
    identity: dict[str, Any], asked: Conversation, answers: Sequence[Answer], prompt: int
) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": _message(asked, answer),
            "logprobs": None,
            "finish_reason": _finish(asked, answer),
            "stop_reason": answer.stop_reason,
            "token_ids": None,
            "routed_experts": None,
        }
        for index, answer in enumerate(answers)
    ]
    return {
        "id": identity["id"],
        "object": "chat.completion",
        "created": identity["created"],
        "model": identity["model"],
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage(prompt, sum(answer.tokens for answer in answers)),
        "prompt_logprobs": None,
        "prompt_token_ids": None,
        "prompt_text": None,
        "kv_transfer_params": None,
        "ec_transfer_params": None,
    }


def _message(asked: Conversation, answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    message |= dict.fromkeys(("refusal", "annotations", "audio", "function_call"))
    if answer.tool is not None:
        message["content"] = None if asked.choice == "auto" else ""
        function = {"name": answer.tool.name, "arguments": answer.text}
        message["tool_calls"] = [{"id": f"chatcmpl-tool-{random_id()}", "type": "function", "function": function}]
    return {**message, "reasoning": None}


def _deltas(answer: Answer) -> list[tuple[dict[str, Any], int]]:
    """The deltas of one choice and the tokens of each; the last one will carry the finish reason."""
    if answer.tool is None:
        return [({"content": step.text}, step.tokens) for step in answer.steps] or [({"content": ""}, 0)]
    call = {"id": f"chatcmpl-tool-{random_id()}", "type": "function", "index": 0}
    named = {"content": None, "tool_calls": [{**call, "function": {"name": answer.tool.name}}]}
    pieces: list[tuple[dict[str, Any], int]] = [
        ({"content": None, "tool_calls": [{"index": 0, "function": {"arguments": step.text}}]}, step.tokens)
        for step in answer.steps
    ]
    return [(named, 0), *pieces, ({}, 0)]


async def _events(
    identity: dict[str, Any],
    asked: Conversation,
    answers: Sequence[Answer],
    speed: Pace,
    prompt: int,
    wanted: UsageWanted,
) -> AsyncGenerator[bytes, None]:
    """A role event for each choice, then the choices' words in turn, then the usage when it is wanted."""

    def chunk(choices: list[dict[str, Any]], completion: int | None, **more: Any) -> bytes:
        data = {"id": identity["id"], "object": "chat.completion.chunk", "created": identity["created"]}
        data |= {"model": identity["model"], "choices": choices}
        if completion is not None:
            data["usage"] = stream_usage(prompt, completion)
        return event({**data, **more})

    nulls = {"prompt_token_ids": None, "prompt_text": None, "kv_transfer_params": None}
    for index in range(len(answers)):
        choice = {"index": index, "delta": {"role": "assistant", "content": ""}}
        role = {**choice, "logprobs": None, "finish_reason": None}
        yield chunk([role], 0 if wanted.continuous else None, **nulls)

    deltas = [_deltas(answer) for answer in answers]
    done = [0] * len(answers)
    for position in range(max(map(len, deltas))):
        live = [index for index, words in enumerate(deltas) if position < len(words)]
        await speed.advance([deltas[index][position][1] for index in live])
        for index in live:
            delta, tokens = deltas[index][position]
            done[index] += tokens
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
            more: dict[str, Any] = {"kv_transfer_params": None}
            if position == len(deltas[index]) - 1:
                choice |= {"finish_reason": _finish(asked, answers[index]), "stop_reason": answers[index].stop_reason}
                if not wanted.at_end:
                    more = {"system_fingerprint": FINGERPRINT, **more}
            yield chunk([{**choice, "token_ids": None}], done[index] if wanted.continuous else None, **more)
    if wanted.at_end:
        yield chunk([], sum(done), system_fingerprint=FINGERPRINT)
