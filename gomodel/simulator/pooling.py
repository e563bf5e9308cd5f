"""Embeddings, scores and rankings: the routes of pooling models, all from one deterministic vector."""

import base64
import hashlib
import math
import struct
import time
from typing import Any

from aiohttp import web

from . import tokens
from .answer import prompt_tokens
from .body import Body, read_json
from .chat import conversation_of
from .completions import texts_of
from .engine import ENGINE, random_id
from .errors import ApiError, ValidationFailed, bad_parameter
from .wire import send_json

DIMENSIONS = 128
_DIMENSIONS_LIMIT = 4096


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A unit vector of 32-bit floats for `text`; texts that share words are near each other."""
    words = {token.strip() for token in tokens.split(text.lower())} or {""}
    noises = [hashlib.shake_128(word.encode("utf-8", "replace")).digest(dimensions) for word in sorted(words)]
    values = [sum(column) - 127.5 * len(noises) for column in zip(*noises, strict=True)]
    length = math.hypot(*values)
    return list(struct.unpack(f"{dimensions}f", struct.pack(f"{dimensions}f", *(value / length for value in values))))


def similarity(one: str, other: str) -> float:
    """Between 0 and 1; equal texts have 1."""
    cosine = sum(a * b for a, b in zip(vector(one), vector(other), strict=True))
    return min(1.0, max(0.0, (1.0 + cosine) / 2.0))


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /v1/embeddings, with the formats `float` and `base64`."""
    body = await read_json(request)
    if body["encoding_format"] not in (None, "float", "base64"):
        raise ValidationFailed("body.encoding_format", "literal_error", "Input should be 'float' or 'base64'")
    dimensions = DIMENSIONS if body["dimensions"] is None else body["dimensions"]
    if not 1 <= dimensions <= _DIMENSIONS_LIMIT:
        raise bad_parameter(f"dimensions must be between 1 and {_DIMENSIONS_LIMIT}.", "dimensions", dimensions)
    texts = _inputs(body)
    shown: list[Any] = [vector(text, dimensions) for text in texts]
    if body["encoding_format"] == "base64":
        shown = [base64.b64encode(struct.pack(f"<{dimensions}f", *values)).decode() for values in shown]
    data = [{"object": "embedding", "embedding": value} for value in shown]
    return await _send(request, body, "embd", data, texts)


async def pooling(request: web.Request) -> web.StreamResponse:
    """POST /pooling: the vector as such."""
    body = await read_json(request)
    texts = _inputs(body)
    return await _send(request, body, "pooling", [{"object": "pooling", "data": vector(text)} for text in texts], texts)


async def score(request: web.Request) -> web.StreamResponse:
    """POST /score and /v1/score: one text against one or many, or pairs of as many texts on both sides."""
    body = await read_json(request)
    left, right = ("text_1", "text_2") if body["text_1"] is not None else ("queries", "documents")
    ones, others = texts_of(body[left], left), texts_of(body[right], right)
    if len(ones) not in (1, len(others)):
        raise ApiError("Input lengths must be either 1:1, 1:N or N:N")
    ones = ones * len(others) if len(ones) == 1 else ones
    data = [{"object": "score", "score": similarity(*pair)} for pair in zip(ones, others, strict=True)]
    return await _send(request, body, "score", data, [*ones, *others])


async def rerank(request: web.Request) -> web.StreamResponse:
    """POST /rerank, /v1/rerank and /v2/rerank: documents by falling similarity, at most `top_n`."""
    body = await read_json(request, "query", "documents")
    documents = texts_of(body["documents"], "documents")
    scores = [(similarity(body["query"], text), index) for index, text in enumerate(documents)]
    results = [
        {"index": index, "document": {"text": documents[index]}, "relevance_score": score}
        for score, index in sorted(scores, reverse=True)
    ]
    head = {"id": f"score-{random_id()}", "model": request.app[ENGINE].model}
    counts = {"total_tokens": sum(map(prompt_tokens, [body["query"], *documents]))}
    return await send_json(request, {**head, "usage": counts, "results": results[: body["top_n"] or None]})


def _inputs(body: Body) -> list[str]:
    if body["messages"] is not None:
        return [conversation_of(body).prompt]
    if body["input"] is None:
        raise ValidationFailed("body.input", "missing", "Field required")
    return texts_of(body["input"], "input")


async def _send(
    request: web.Request, body: Body, prefix: str, data: list[dict[str, Any]], texts: list[str]
) -> web.StreamResponse:
    engine, used = request.app[ENGINE], sum(map(prompt_tokens, texts))
    head = {"id": f"{prefix}-{random_id()}", "object": "list", "created": int(time.time()), "model": engine.model}
    listed = [{"index": index, **item} for index, item in enumerate(data)]
    with engine.running(used, 0):
        return await send_json(request, {**head, "data": listed, "usage": tokens.usage(used, 0)})
