"""The answer to a conversation, token by token: words or a tool call, its length limits and stop strings."""

from collections.abc import Iterator
from dataclasses import dataclass

from . import tokens
from .body import Body
from .conversation import Conversation, Tool
from .engine import MAX_MODEL_LEN
from .errors import bad_parameter
from .text import sentences


@dataclass(frozen=True)
class Limits:
    """What ends an answer. `max_tokens` None is the rest of the context; `stop` strings are not part of the answer."""

    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """Tokens in order, one per stream event. With a `tool` they are its JSON arguments."""

    words: tuple[str, ...]
    finish: str
    stop_reason: str | None = None
    tool: Tool | None = None

    @property
    def text(self) -> str:
        return "".join(self.words)

    @property
    def tokens(self) -> int:
        return len(self.words)


def limits_of(body: Body, max_tokens: int | None, *, param: str = "max_tokens", stop: str = "stop") -> Limits:
    """The limits in a request body; `param` and `stop` are the dialect's names. Raises ApiError."""
    if max_tokens is not None and not 1 <= max_tokens <= MAX_MODEL_LEN:
        raise bad_parameter(f"{param} must be at least 1 and at most {MAX_MODEL_LEN}.", param, max_tokens)
    if (body["temperature"] or 0) < 0:
        raise bad_parameter("temperature must be non-negative.", "temperature", body["temperature"])
    stops = [body[stop]] if isinstance(body[stop], str) else body[stop] or []
    min_tokens = MAX_MODEL_LEN if body["ignore_eos"] else body["min_tokens"] or 0
    return Limits(max_tokens, min_tokens, tuple(str(each) for each in stops if each))


def prompt_tokens(prompt: str) -> int:
    """The length of `prompt`; raises ApiError when it leaves no room for an answer."""
    length = tokens.count(prompt)
    if length >= MAX_MODEL_LEN:
        message = f"This model's maximum context length is {MAX_MODEL_LEN} tokens. However, your prompt contains"
        message += f" {length} input tokens. Please reduce the length of the input prompt."
        raise bad_parameter(message, "input_tokens", length)
    return length


def converse(asked: Conversation, used: int, limits: Limits, *, variant: object = 0) -> Answer:
    """The answer to `asked`, whose prompt has `used` tokens; `variant` tells the choices of one request apart."""
    if asked.dictated is not None:
        return _limited(tokens.split(asked.dictated), used, limits, asked.called)
    return continue_text(asked.prompt, asked.messages[-1].text, used, limits, variant=variant)


def continue_text(prompt: str, last: str, used: int, limits: Limits, *, variant: object = 0) -> Answer:
    """Sentences after `prompt`, of which `last` is the part that they refer to."""

    def words() -> Iterator[str]:
        """Until the usual length, or for ever when the limits alone shall end the answer."""
        usual, written = 4 + len(last) % 6, 0
        for number, sentence in enumerate(sentences(prompt, last, variant)):
            if number >= usual and written >= limits.min_tokens:
                return
            for word in tokens.split(sentence):
                yield word
                written += 1

    return _limited(words(), used, limits)


def _limited(words: Iterator[str], used: int, limits: Limits, tool: Tool | None = None) -> Answer:
    room = MAX_MODEL_LEN - used
    budget = room if limits.max_tokens is None else min(limits.max_tokens, room)
    reach = max(map(len, limits.stop), default=1) - 1
    taken: list[str] = []
    text = ""
    for word in words:
        if len(taken) == budget:
            return Answer(tuple(taken), "length", tool=tool)
        start = max(0, len(text) - reach)
        taken.append(word)
        text += word
        found = [(at, stop) for stop in limits.stop if (at := text.find(stop, start)) >= 0]
        if found:
            at, stop = min(found)
            return Answer(tuple(tokens.split(text[:at])), "stop", stop, tool)
    return Answer(tuple(taken), "stop", tool=tool)
