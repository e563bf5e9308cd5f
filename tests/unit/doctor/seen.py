"""Exchanges and observations as a test writes them down: a well one, and what differs from it."""

import json
from typing import Any

from gomodel.doctor.exchange import Exchange
from gomodel.doctor.observed import Left, Observed

JSON = [("Content-Type", "application/json"), ("Vary", "Origin")]
EVENTS = [("Content-Type", "text/event-stream; charset=utf-8"), ("Vary", "Origin")]


def compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def exchange(body: object = b"", status: int = 200, **more: Any) -> Exchange:
    """A complete one; `body` is bytes, or what becomes JSON."""
    raw = body if isinstance(body, bytes) else compact(body)
    made = {"status": status, "fields": JSON, "framing": "length", "end": "complete", "kept": True} | more
    made.setdefault("arrivals", [(1.0, raw)])
    return Exchange(**made)


def chat(**more: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": "one two", "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    usage = {"prompt_tokens": 25, "total_tokens": 33, "completion_tokens": 8}
    return {"id": "chatcmpl-1", "created": 7, "model": "m", "choices": [choice], "usage": usage} | more


def chunk(content: str | None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if content is None else {"content": content}
    choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
    return b"data: " + compact({"id": "c-1", "created": 7, "model": "m", "choices": choices} | more) + b"\n\n"


USAGE = (
    b"data: "
    + compact({"id": "c-1", "created": 7, "model": "m", "choices": [], "usage": {"total_tokens": 9}})
    + b"\n\n"
)
DONE = b"data: [DONE]\n\n"
STREAM = [chunk("a"), chunk("b"), chunk("c"), chunk("d"), chunk("e"), chunk("f", "length"), USAGE, DONE]


def stream(events: list[bytes] | None = None, *, gap_s: float = 0.02, at: float = 1.0, **more: Any) -> Exchange:
    """Events, each by itself, `gap_s` apart; 0 is all in one read."""
    events = STREAM if events is None else events
    arrivals = (
        [(at + number * gap_s, event) for number, event in enumerate(events)] if gap_s else [(at, b"".join(events))]
    )
    return exchange(**({"fields": EVENTS, "framing": "chunked", "arrivals": arrivals, "asked_at": 0.9} | more))


REFUSED = {"error": {"message": "max_tokens must be at least 1, got -3.", "type": "BadRequestError", "code": 400}}
ABSENT = {"error": {"message": "The model `none` does not exist. Valid aliases: m.", "code": 404}}
MISTYPED = {
    "error": {
        "message": "2 validation errors:\n"
        "  {'type': 'int_parsing', 'loc': 'body.max_tokens', 'msg': 'no', 'input': 'seven'}"
        "\n  {'type': 'float_parsing', 'loc': 'body.temperature', 'msg': 'no', 'input': 'warm'}"
    }
}
MISSING = {"error": {"message": "1 validation error:\n  {'loc': 'body.messages', 'input': '<dict of 4 items>'}"}}


def observed(**more: Any) -> Observed:
    """All well, with what differs in `more`."""
    made: dict[str, Any] = {
        "shown": "http://here",
        "model": "m",
        "answers": [exchange(chat()), exchange(chat())],
        "second": exchange(chat()),
        "streams": [stream(), stream()],
        "fields": [exchange(chat(prompt_token_ids=[1, 2]))] * 2,
        "mistyped": exchange(MISTYPED, 400),
        "missing": exchange(MISSING, 400),
        "refused": exchange(REFUSED, 400),
        "unknown": exchange(ABSENT, 404),
        "chunked": exchange(chat()),
        "large": exchange(chat()),
        "websocket": exchange(b"\x81\x02{}", 101, end="timeout", framing="close"),
        "left": Left(0.05),
        "left_whole": Left(0.05),
    }
    return Observed(**made | more)
