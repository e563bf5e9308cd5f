"""The tokens of a batch: the sums of what its answers say, in OpenAI's words for them. Pure."""

from typing import Any

_INPUT = ("input_tokens", "prompt_tokens")
_OUTPUT = ("output_tokens", "completion_tokens")


def add(total: dict[str, Any] | None, answer: Any) -> dict[str, Any] | None:
    """`total` and what the JSON of one answer says of its tokens; None as long as none has said anything."""
    said = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(said, dict):
        return total
    given, made = _number(said, _INPUT), _number(said, _OUTPUT)
    cached = _detail(said, ("input_tokens_details", "prompt_tokens_details"), "cached_tokens")
    reasoning = _detail(said, ("output_tokens_details", "completion_tokens_details"), "reasoning_tokens")
    old = total or {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    }
    return {
        "input_tokens": old["input_tokens"] + given,
        "input_tokens_details": {"cached_tokens": old["input_tokens_details"]["cached_tokens"] + cached},
        "output_tokens": old["output_tokens"] + made,
        "output_tokens_details": {"reasoning_tokens": old["output_tokens_details"]["reasoning_tokens"] + reasoning},
        "total_tokens": old["total_tokens"] + (_number(said, ("total_tokens",)) or given + made),
    }


def _number(said: dict[str, Any], names: tuple[str, ...]) -> int:
    return next((said[name] for name in names if type(said.get(name)) is int and said[name] >= 0), 0)


def _detail(said: dict[str, Any], parents: tuple[str, ...], name: str) -> int:
    return next((_number(said[each], (name,)) for each in parents if isinstance(said.get(each), dict)), 0)
