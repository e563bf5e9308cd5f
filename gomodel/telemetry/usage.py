"""Token usage: what vLLM says in an answer of the prompt, of what the cache held of it, and of the completion.

Decides which `usage` is the answer's own, in a JSON answer or in the last events of a stream, and what its members
mean in each dialect. Text that looks like one does not count: within a string its quotes are escaped, so `"usage"`
that no backslash precedes is a name, and what follows it has to parse as the rest of the document. What vLLM did not
say, or what stands too far from both ends of an answer, is unknown and never guessed. Pure; called once per answer.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

# How much of its beginning an answer is remembered by, at most; its end is some tens of KiB, read in well under a
# millisecond. vLLM writes `usage` behind the choices, before what is `null` unless it was asked for; only a rerank has
# it in front, before its documents.
FIRST_BYTES = 4096
# In the end of an answer; further ones would be JSON that a model made, which stands before its usage.
_CANDIDATES = 4
_NAME = b'"usage"'
_BACKSLASH = ord("\\")
_MOST = 1 << 53  # a number that every reader of JSON and every metric keeps exact
# What holds the usage of an event that is no answer by itself: Responses, Anthropic's message_start, Cohere's end.
_HOLDERS = ("response", "message", "delta")
# How vLLM ends a JSON answer nearly always, at a fifth of the time that reading it takes.
_NULLS = rb'(?:,"[a-z_]{1,40}":null)*'
_COUNTS = rb'(?<!\\)"usage":\{"prompt_tokens":(\d{1,15}),"total_tokens":\d{1,15}(?:,"completion_tokens":(\d{1,15}))?'
_USUAL = re.compile(
    rb'%b(?:,"prompt_tokens_details":(?:null|\{"cached_tokens":(\d{1,15})%b\}))?%b\}%b\}\Z' % (_COUNTS, *(_NULLS,) * 3)
).match
_counts = re.compile(_COUNTS).match
# What stood behind the counts at such an end and names no more of them: a server writes the same each time.
_ends: set[bytes] = set()
_ENDS, _END_BYTES = 64, 512  # at most so many, and so long


class Usage(NamedTuple):
    """What one answer took."""

    prompt: int = 0  # tokens, those that came from the cache included
    completion: int = 0
    cached: int | None = None  # tokens of the prompt that came from the cache; None where vLLM does not say
    audio_s: float = 0.0  # seconds of sound, which is all that vLLM says of a transcription


def usage_of(first: bytes, last: bytes, *, events: bool) -> Usage | None:
    """The usage in an answer, of which this is the beginning and the end; both are all of it where it is short.

    `first` is no longer than FIRST_BYTES. `events` says that it is a stream of them. None where vLLM did not say,
    or what it said cannot be found.
    """
    if not events and (counts := _counts(last, max(0, last.rfind(_NAME)))):
        prompt, completion = counts.groups()
        end = last[counts.end() :]
        if end in _ends:
            return Usage(int(prompt), int(completion or 0))
        if usual := _USUAL(last, counts.start()):
            cached = usual[3]
            if cached is not None:
                return _plausible(Usage(int(prompt), int(completion or 0), int(cached)))
            if len(_ends) < _ENDS and len(end) <= _END_BYTES:
                _ends.add(end)
            return Usage(int(prompt), int(completion or 0))
    if events:
        found = next(_of_events(last), None)
        if found is not None and "output_tokens" in found and "input_tokens" not in found:
            found = next((each | found for each in _of_events(first) if "input_tokens" in each), None)
    else:
        found = _of_document(first, last)
    meant = None if found is None else _meaning(found)
    return None if meant is None else _plausible(meant)


def _of_document(first: bytes, last: bytes) -> dict[str, Any] | None:
    """The member of a JSON object whose beginning and end these are."""
    for at in _names(last):
        rest = _parsed(b"{" + last[at:])
        if rest is not None:
            return _object(rest.get("usage"))
    at = next(_names(first), -1)
    if at < 0 or _parsed(first[:at] + b'"usage":0}') is None:  # it stands in another member
        return None
    text = first[at + len(_NAME) :].decode(errors="replace").lstrip(": \t\r\n")
    try:
        return _object(json.JSONDecoder().raw_decode(text)[0])
    except (ValueError, RecursionError):
        return None


def _of_events(piece: bytes) -> Iterator[dict[str, Any]]:
    """The usages of the events in a piece of a stream, the last one first."""
    for at in _names(piece):
        begin = piece.rfind(b"\n", 0, at) + 1
        end = piece.find(b"\n", at)
        line = piece[begin : end if end >= 0 else len(piece)].strip()
        if line.startswith(b"data:"):
            event = _parsed(line[5:]) or {}
        elif begin:
            continue
        else:  # an event that began before the piece: the name stands at its top, or in what holds the answer
            rest = b"{" + piece[at : end if end >= 0 else len(piece)].strip()
            event = _parsed(rest) or _parsed(rest[:-1]) or {}
        for each in (event, *map(event.get, _HOLDERS)):
            found = _object(each.get("usage")) if isinstance(each, dict) else None
            if found is not None:
                yield found
                break


def _names(piece: bytes) -> Iterator[int]:
    """Where `"usage"` is the name of a member, as it may be, from the end; not where its first quote is escaped."""
    at, left = piece.rfind(_NAME), _CANDIDATES
    while at >= 0 and left:
        if not at or piece[at - 1] != _BACKSLASH:
            yield at
            left -= 1
        at = piece.rfind(_NAME, 0, at)


def _parsed(document: bytes) -> dict[str, Any] | None:
    """A JSON object; None for what is none."""
    try:
        return _object(json.loads(document))
    except (ValueError, RecursionError):
        return None


def _object(value: Any) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None


def _meaning(said: dict[str, Any]) -> Usage | None:
    """What the members of a `usage` mean; None where one is no number of tokens, or none is there."""
    if said.get("type") == "duration":
        seconds = said.get("seconds")
        return Usage(audio_s=seconds) if isinstance(seconds, int | float) and 0 <= seconds < _MOST else None
    try:
        if isinstance(said.get("tokens"), dict):  # Cohere
            tokens = said["tokens"]
            return Usage(_tokens(tokens["input_tokens"]), _tokens(tokens["output_tokens"]), _cached(said))
        if "input_tokens" in said:
            read = said.get("cache_read_input_tokens")
            prompt = _tokens(said["input_tokens"])
            if read is not None:  # Anthropic counts what the cache held beside the input
                made = _tokens(said.get("cache_creation_input_tokens") or 0)
                return Usage(prompt + _tokens(read) + made, _tokens(said["output_tokens"]), _tokens(read))
            return Usage(prompt, _tokens(said["output_tokens"]), _cached(said.get("input_tokens_details")))
        completion = _tokens(said.get("completion_tokens") or 0)
        total = said.get("prompt_tokens")
        prompt = _tokens(total) if total is not None else _tokens(said["total_tokens"]) - completion
        return Usage(_tokens(prompt), completion, _cached(said.get("prompt_tokens_details")))
    except (KeyError, ValueError):
        return None


def _plausible(usage: Usage) -> Usage:
    """What is cached of a prompt is no more than the prompt; a sum that falls is no counter."""
    return usage._replace(cached=None) if usage.cached is not None and usage.cached > usage.prompt else usage


def _cached(details: Any) -> int | None:
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return None if cached is None else _tokens(cached)


def _tokens(value: Any) -> int:
    """A number of tokens; Cohere's are 5.0. Raises ValueError."""
    if type(value) not in (int, float) or not 0 <= value < _MOST or value % 1:
        raise ValueError
    return int(value)
