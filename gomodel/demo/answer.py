"""The answer to a conversation: its words, where they stop and why.

Decides text or tool call, limits, stop strings and the number of tokens. Knows nothing of any dialect's JSON.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import tokens
from .conversation import Conversation, Tool
from .engine import MAX_MODEL_LEN
from .errors import BadRequest, bad_parameter
from .text import sentences, usual_length
from .tokens import Step


@dataclass(frozen=True)
class Limits:
    """What ends an answer. `max_tokens` None is the rest of the context; `stop` strings are not part of the answer."""

    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    include_stop: bool = False


@dataclass(frozen=True)
class Answer:
    """Words in order, one per stream event. With a `tool` they are its JSON arguments."""

    steps: tuple[Step, ...]
    finish: str
    stop_reason: str | None = None
    tool: Tool | None = None

    @property
    def text(self) -> str:
        return "".join(step.text for step in self.steps)

    @property
    def tokens(self) -> int:
        return sum(step.tokens for step in self.steps)


def limits_of(body: dict[str, Any], max_tokens: int | None, param: str = "max_tokens") -> Limits:
    """The limits in a checked body of one of the OpenAI routes; raises BadRequest in vLLM's words."""
    if max_tokens is not None and max_tokens < 1:
        raise bad_parameter(f"max_tokens must be at least 1, got {max_tokens}.", param, max_tokens)
    if max_tokens is not None and max_tokens > MAX_MODEL_LEN:
        message = f"{param}={max_tokens} cannot be greater than max_model_len={MAX_MODEL_LEN}."
        raise bad_parameter(f"{message} Please request fewer output tokens.", param, max_tokens)
    temperature = body.get("temperature")
    if temperature is not None and temperature < 0:
        raise bad_parameter(f"temperature must be non-negative, got {temperature}.", "temperature", temperature)
    stop = body.get("stop") or ()
    return Limits(
        max_tokens=max_tokens,
        min_tokens=body.get("min_tokens") or 0,
        ignore_eos=bool(body.get("ignore_eos")),
        stop=(stop,) if isinstance(stop, str) else tuple(str(item) for item in stop if item),
        include_stop=bool(body.get("include_stop_str_in_output")),
    )


def choices_of(body: dict[str, Any], limit: int = 128) -> int:
    """`n`, the number of choices; raises BadRequest. All are held in memory, hence the limit."""
    n = 1 if body.get("n") is None else int(body["n"])
    if n < 1:
        raise BadRequest(f"n must be at least 1, got {n}.")
    if n > limit:
        raise bad_parameter(f"n must be at most {limit}, got {n}.", "n", n)
    return n


def prompt_tokens(prompt: str) -> int:
    """The length of `prompt`; raises BadRequest when it leaves no room for an answer."""
    length = tokens.count(prompt)
    if length >= MAX_MODEL_LEN:
        raise bad_parameter(
            f"This model's maximum context length is {MAX_MODEL_LEN} tokens. However, your prompt contains {length} "
            "input tokens, which exceeds this limit even without any output tokens. Please reduce the length of the "
            "input prompt.",
            "input_tokens",
            length,
        )
    return length


def converse(asked: Conversation, used: int, limits: Limits, *, variant: object = 0) -> Answer:
    """The answer to `asked`, whose prompt has `used` tokens; `variant` tells the choices of one request apart."""
    tool = asked.tool()
    if tool is not None:
        return _limited(iter(tokens.steps(tool.arguments())), used, limits, tool)
    if asked.structured is not None:
        return _limited(iter(tokens.steps(asked.structured)), used, limits, None)
    after_tool = asked.last.role == "tool"
    return continue_text(asked.prompt, asked.last.text, used, limits, after_tool=after_tool, variant=variant)


def continue_text(
    prompt: str, last: str, used: int, limits: Limits, *, after_tool: bool = False, variant: object = 0
) -> Answer:
    """Sentences after `prompt`, of which `last` is the part that they refer to."""
    usual = usual_length(prompt, variant)
    return _limited(_words(prompt, last, limits, usual, after_tool, variant), used, limits, None)


def _words(prompt: str, last: str, limits: Limits, usual: int, after_tool: bool, variant: object) -> Iterator[Step]:
    """Words until the usual length, or for ever when the limits alone shall end the answer."""
    written = 0
    for number, sentence in enumerate(sentences(prompt, last, after_tool=after_tool, variant=variant)):
        if number >= usual and written >= limits.min_tokens and not limits.ignore_eos:
            return
        for step in tokens.steps(sentence):
            yield step
            written += step.tokens


def _limited(words: Iterator[Step], used: int, limits: Limits, tool: Tool | None) -> Answer:
    room = MAX_MODEL_LEN - used
    budget = room if limits.max_tokens is None else min(limits.max_tokens, room)
    taken: list[Step] = []
    reach = max((len(stop) for stop in limits.stop), default=1) - 1
    tail, length, finish = "", 0, "stop"
    for step in words:
        if step.tokens > budget:
            taken.append(Step(tokens.head(step.text, budget), budget))
            finish = "length"
            break
        taken.append(step)
        budget -= step.tokens
        if found := _first_stop(tail + step.text, limits.stop):
            where, stop = found
            keep = length - len(tail) + where + (len(stop) if limits.include_stop else 0)
            return Answer(_cut(taken, keep), "stop", stop, tool)
        length += len(step.text)
        tail = (tail + step.text)[-reach:] if reach else ""
        if budget == 0:
            finish = "stop" if next(words, None) is None else "length"
            break
    return Answer(tuple(step for step in taken if step.tokens), finish, None, tool)


def _first_stop(text: str, stops: tuple[str, ...]) -> tuple[int, str] | None:
    """Where the first of `stops` begins in `text`, and which one it is."""
    found = [(at, stop) for stop in stops if (at := text.find(stop)) >= 0]
    return min(found) if found else None


def _cut(taken: list[Step], keep: int) -> tuple[Step, ...]:
    """The first `keep` characters; the tokens that were generated for the rest still count, in the last step."""
    kept: list[Step] = []
    spare = 0
    for step in taken:
        text = step.text[: max(0, keep)]
        keep -= len(step.text)
        if text:
            kept.append(Step(text, step.tokens))
        else:
            spare += step.tokens
    last = kept.pop() if kept else Step("", 0)
    return (*kept, Step(last.text, last.tokens + spare))
