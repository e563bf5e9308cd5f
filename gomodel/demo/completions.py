"""POST /v1/completions.

Decides the fields of the older text dialect: prompts as text or token ids, one or many, with `n` answers each. Knows
nothing of what is said.
"""

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from aiohttp import web

from . import tokens
from .answer import Answer, choices_of, continue_text, limits_of, prompt_tokens
from .body import optional, read_json
from .engine import ENGINE, FINGERPRINT, Pace, pace, request_id
from .errors import ValidationFailed, bad_parameter
from .tokens import Step
from .usage import UsageWanted, stream_usage, usage, usage_wanted
from .wire import DONE, error_events, event, send_json, send_stream

FIELDS = {
    "prompt": optional("str", "list"),
    "model": optional("str"),
    "echo": optional("bool"),
    "ignore_eos": optional("bool"),
    "include_stop_str_in_output": optional("bool"),
    "max_tokens": optional("int"),
    "min_tokens": optional("int"),
    "n": optional("int"),
    "seed": optional("int"),
    "stop": optional("str", "list"),
    "stream": optional("bool"),
    "stream_options": optional("dict"),
    "suffix": optional("str"),
    "temperature": optional("float"),
    "top_p": optional("float"),
}

_MAX_TOKENS = 16  # OpenAI's default for this route, kept by vLLM


def texts_of(value: Any, name: str) -> list[str]:
    """A string, strings, token ids or lists of them, as a list of texts; raises ValidationFailed."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return value
        if _is_ids(value):
            return [tokens.decode(value)]
        if all(_is_ids(item) for item in value):
            return [tokens.decode(item) for item in value]
    message = "Input should be a valid string, a list of strings, or token ids"
    raise ValidationFailed([{"type": "string_type", "loc": f"body.{name}", "msg": message, "input": value}])


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


async def completions(request: web.Request) -> web.StreamResponse:
    """Text that follows each prompt, at once or as events."""
    body = await read_json(request, FIELDS)
    engine = request.app[ENGINE]
    if not body["prompt"]:
        raise bad_parameter("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    if body["suffix"]:
        raise bad_parameter("suffix is not currently supported", "suffix")
    model = engine.served(body["model"])
    limits = limits_of(body, _MAX_TOKENS if body["max_tokens"] is None else body["max_tokens"])
    n, wanted, speed = choices_of(body), usage_wanted(body), pace(request)
    answers: list[Answer] = []
    prompt = 0
    for text in texts_of(body["prompt"], "prompt"):
        length = prompt_tokens(text)
        prompt += length
        for index in range(n):
            answer = continue_text(text, text, length, limits, variant=(body["seed"], index))
            answers.append(_echoing(text, answer) if body["echo"] else answer)
    identity = {"id": f"cmpl-{request_id(request)}", "created": int(time.time()), "model": model}
    with engine.running(prompt):
        if body["stream"]:
            events = _events(identity, answers, speed, prompt, wanted)
            response = await send_stream(request, events, end=DONE, broken=error_events())
        else:
            await speed.advance([answer.tokens for answer in answers])
            response = await send_json(request, _completion(identity, answers, prompt))
        for answer in answers:
            engine.finished[answer.finish] += 1
        return response


def _echoing(prompt: str, answer: Answer) -> Answer:
    """With `echo` the prompt is the beginning of the first event; it was not generated, so it adds no tokens."""
    first, *rest = answer.steps or (Step("", 0),)
    return Answer((Step(prompt + first.text, first.tokens), *rest), answer.finish, answer.stop_reason)


def _completion(identity: dict[str, Any], answers: Sequence[Answer], prompt: int) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "text": answer.text,
            "logprobs": None,
            "finish_reason": answer.finish,
            "stop_reason": answer.stop_reason,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }
        for index, answer in enumerate(answers)
    ]
    return {
        "id": identity["id"],
        "object": "text_completion",
        "created": identity["created"],
        "model": identity["model"],
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage(prompt, sum(answer.tokens for answer in answers)),
        "kv_transfer_params": None,
        "ec_transfer_params": None,
    }


async def _events(
    identity: dict[str, Any], answers: Sequence[Answer], speed: Pace, prompt: int, wanted: UsageWanted
) -> AsyncGenerator[bytes, None]:
    """The words of all choices in turn; unlike chat, no event comes before the first word."""

    def chunk(choices: list[dict[str, Any]], completion: int | None, **more: Any) -> bytes:
        data = {"id": identity["id"], "object": "text_completion", "created": identity["created"]}
        data |= {"model": identity["model"], "choices": choices}
        if completion is not None:
            data["usage"] = stream_usage(prompt, completion)
        return event({**data, **more})

    words = [answer.steps or (Step("", 0),) for answer in answers]
    done = [0] * len(answers)
    for position in range(max(map(len, words))):
        live = [index for index, steps in enumerate(words) if position < len(steps)]
        await speed.advance([words[index][position].tokens for index in live])
        for index in live:
            step = words[index][position]
            done[index] += step.tokens
            last = position == len(words[index]) - 1
            choice = {
                "index": index,
                "text": step.text,
                "logprobs": None,
                "finish_reason": answers[index].finish if last else None,
                "stop_reason": answers[index].stop_reason if last else None,
                "prompt_token_ids": None,
                "token_ids": None,
            }
            more = {"system_fingerprint": FINGERPRINT} if last and not wanted.at_end else {}
            yield chunk([choice], done[index] if wanted.continuous else None, **more)
    if wanted.at_end:
        yield chunk([], sum(done), system_fingerprint=FINGERPRINT)
