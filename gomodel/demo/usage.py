"""Token counts as OpenAI's routes report them, and when a stream does.

Decides the fields. Knows nothing of what is counted.
"""

from dataclasses import dataclass
from typing import Any

from .errors import bad_parameter


def usage(prompt: int, completion: int) -> dict[str, Any]:
    """The counts as they stand in JSON bodies, where vLLM repeats nulls."""
    details = {"prompt_tokens_details": None, "completion_tokens_details": None}
    return {**stream_usage(prompt, completion), **details}


def stream_usage(prompt: int, completion: int) -> dict[str, Any]:
    """The counts as they stand in events, where it does not."""
    return {"prompt_tokens": prompt, "total_tokens": prompt + completion, "completion_tokens": completion}


@dataclass(frozen=True)
class UsageWanted:
    """What `stream_options` asks for: a last event with the usage, and the usage so far in every event."""

    at_end: bool = False
    continuous: bool = False


def usage_wanted(body: dict[str, Any]) -> UsageWanted:
    """Reads `stream_options`; raises BadRequest when it stands in a request that does not stream."""
    options = body["stream_options"]
    if options is None:
        return UsageWanted()
    if not body["stream"]:
        raise bad_parameter("Stream options can only be defined when `stream=True`.", "stream_options")
    at_end = bool(options.get("include_usage"))
    return UsageWanted(at_end, at_end and bool(options.get("continuous_usage_stats")))
