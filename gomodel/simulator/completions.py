"""POST /v1/completions, the older text dialect, and what chat shares with it: choices, whole or as events."""

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from aiohttp import web

from . import tokens
from .answer import Answer, continue_text, limits_of, prompt_tokens
from .body import Body, read_json
from .engine import ENGINE, Pace, request_id
from .errors import ValidationFailed, bad_parameter
from .wire import event, send_json, send_openai_stream

_MAX_TOKENS = 16  # OpenAI's default for this route, kept by vLLM
_CHOICES_LIMIT = 16  # all are held in memory


@dataclass(frozen=True)
class Choice:
    """One answer in its dialect: the fields of the `whole` one and those of its events. `finish` is the reason."""

    answer: Answer
    finish: str
    whole: dict[str, Any]
    deltas: Sequence[dict[str, Any]]

    def end(self) -> dict[str, Any]:
        return {"finish_reason": self.finish, "stop_reason": self.answer.stop_reason}


async def completions(request: web.Request) -> web.StreamResponse:
    """Text that follows each prompt, at once or as events."""
    body = await read_json(request)
    if not body["prompt"]:
        raise bad_parameter("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    limits = limits_of(body, _MAX_TOKENS if body["max_tokens"] is None else body["max_tokens"])
    prompt, choices = 0, []
    for text in texts_of(body["prompt"], "prompt"):
        length = prompt_tokens(text)
        prompt += length
        for index in range(number_of_choices(body)):
            answer = continue_text(text, text, length, limits, variant=(body["seed"], index))
            deltas = [{"text": word} for word in answer.words] or [{"text": ""}]
            choices.append(Choice(answer, answer.finish, {"text": answer.text}, deltas))
    return await send_choices(request, body, prompt, choices, ("cmpl", "text_completion", "text_completion"))


def texts_of(value: Any, name: str) -> list[str]:
    """A string, strings, token ids or lists of them, as a list of texts; raises ValidationFailed."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return value
        if _is_ids(value):
            return [tokens.decode(value)]
        if all(map(_is_ids, value)):
            return [tokens.decode(item) for item in value]
    raise ValidationFailed(f"body.{name}", "string_type", "Input should be a valid string, strings or token ids")


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


def number_of_choices(body: Body) -> int:
    """`n`; raises ApiError."""
    n: int = 1 if body["n"] is None else body["n"]
    if not 1 <= n <= _CHOICES_LIMIT:
        raise bad_parameter(f"n must be between 1 and {_CHOICES_LIMIT}, got {n}.", "n", n)
    return n


async def send_choices(
    request: web.Request, body: Body, prompt: int, choices: Sequence[Choice], kinds: tuple[str, str, str]
) -> web.StreamResponse:
    """Send the answers to `prompt` tokens. `kinds`: what its id begins with, `object` of an answer and of an event.

    Raises ApiError.
    """
    engine, speed, options = request.app[ENGINE], Pace(request), body["stream_options"]
    if options is not None and not body["stream"]:
        raise bad_parameter("Stream options can only be defined when `stream=True`.", "stream_options")
    prefix, kind, event_kind = kinds
    head: dict[str, Any] = {"id": f"{prefix}-{request_id(request)}", "object": event_kind if body["stream"] else kind}
    head |= {"created": int(time.time()), "model": engine.model}
    lengths = [choice.answer.tokens for choice in choices]
    counts = tokens.usage(prompt, sum(lengths))
    with engine.running(prompt, sum(lengths)):
        if body["stream"]:
            last = {"choices": [], "usage": counts} if (options or {}).get("include_usage") else None
            return await send_openai_stream(request, _events(head, choices, speed, last))
        await speed.advance(max(lengths))
        listed = [
            {"index": index, **choice.whole, "logprobs": None, **choice.end()} for index, choice in enumerate(choices)
        ]
        return await send_json(request, {**head, "choices": listed, "usage": counts})


async def _events(
    head: dict[str, Any], choices: Sequence[Choice], speed: Pace, last: dict[str, Any] | None
) -> AsyncGenerator[bytes, None]:
    """The deltas of all choices in turn, then the `last` event, if there is one more."""
    for position, deltas in enumerate(zip_longest(*(choice.deltas for choice in choices))):
        await speed.advance(min(position, 1))
        for index, (choice, delta) in enumerate(zip(choices, deltas, strict=True)):
            if delta is not None:
                listed = {"index": index, **delta, "logprobs": None, "finish_reason": None}
                end = choice.end() if position == len(choice.deltas) - 1 else {}
                yield event({**head, "choices": [{**listed, **end}]})
    if last is not None:
        yield event({**head, **last})
