"""Embeddings, scores, rankings and classes: the routes of pooling models, all from one deterministic vector.

Decides the vector (texts that share words are near each other) and the fields of the answers. Knows nothing of
generation.
"""

import base64
import hashlib
import json
import math
import struct
import time
from collections import Counter
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

from . import tokens
from .answer import prompt_tokens
from .body import Field, optional, read_json, required
from .chat import FIELDS as CHAT_FIELDS
from .chat import conversation_of
from .completions import texts_of
from .engine import ENGINE, random_id
from .errors import BadRequest, ValidationFailed, bad_parameter
from .usage import usage
from .wire import send_json, send_stream

DIMENSIONS = 128
_DIMENSIONS_LIMIT = 4096
_FORMATS = ("float", "base64", "bytes", "bytes_only")
_ENDIAN = {"native": "=", "little": "<", "big": ">"}
_LABELS = ("NEGATIVE", "POSITIVE")

INPUT_FIELDS: dict[str, Field] = {
    **CHAT_FIELDS,
    "messages": optional("list"),
    "input": optional("str", "list"),
    "dimensions": optional("int"),
    "encoding_format": optional("str"),
    "endianness": optional("str"),
}
SCORE_FIELDS = {
    "model": optional("str"),
    **dict.fromkeys(("text_1", "text_2", "queries", "documents", "data_1", "data_2"), optional("str", "list")),
}
RERANK_FIELDS = {
    "model": optional("str"),
    "query": required("str"),
    "documents": required("list"),
    "top_n": optional("int"),
}
COHERE_FIELDS = {
    "model": optional("str"),
    "texts": required("list"),
    "embedding_types": optional("list"),
    "output_dimension": optional("int"),
}


def vector(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A unit vector of 32-bit floats for `text`: the sum of pseudo-random vectors, one per token."""
    values = [0.0] * dimensions
    words = Counter(token.strip() for token in tokens.split(text.lower())) or Counter([""])
    for word, times in words.items():
        noise = hashlib.shake_128(word.encode("utf-8", "replace")).digest(dimensions)
        for place, byte in enumerate(noise):
            values[place] += times * (byte - 127.5)
    length = math.sqrt(sum(value * value for value in values))
    unit = [value / length for value in values]
    return list(struct.unpack(f"{dimensions}f", struct.pack(f"{dimensions}f", *unit)))


def similarity(one: str, other: str) -> float:
    """Between 0 and 1; equal texts have 1."""
    cosine = sum(a * b for a, b in zip(vector(one), vector(other), strict=True))
    return min(1.0, max(0.0, (1.0 + cosine) / 2.0))


def _inputs(body: dict[str, Any]) -> list[str]:
    if body["input"] is not None:
        return texts_of(body["input"], "input")
    if body["messages"] is not None:
        return [conversation_of(body).prompt]
    raise ValidationFailed(
        [
            {"type": "missing", "loc": f"body.{name}", "msg": "Field required", "input": body}
            for name in ("input", "messages")
        ]
    )


def _dimensions(asked: int | None, name: str) -> int:
    if asked is not None and not 1 <= asked <= _DIMENSIONS_LIMIT:
        raise bad_parameter(f"{name} must be between 1 and {_DIMENSIONS_LIMIT}, got {asked}.", name, asked)
    return asked or DIMENSIONS


def _one_of(body: dict[str, Any], name: str, allowed: tuple[str, ...]) -> str:
    given = body[name] or allowed[0]
    if given not in allowed:
        expected = ", ".join(f"'{value}'" for value in allowed[:-1]) + f" or '{allowed[-1]}'"
        problem = {"type": "literal_error", "loc": f"body.{name}", "msg": f"Input should be {expected}"}
        raise ValidationFailed([{**problem, "input": given, "ctx": {"expected": expected}}])
    return str(given)


async def embeddings(request: web.Request) -> web.StreamResponse:
    """POST /v1/embeddings. The formats `bytes` and `bytes_only` answer with one chunk of raw floats per input; the
    former with a `metadata` header that grows by about 113 bytes per input, as vLLM does it.
    """
    body = await read_json(request, INPUT_FIELDS)
    model = request.app[ENGINE].served(body["model"], pooling=True)
    encoding = _one_of(body, "encoding_format", _FORMATS)
    endianness = _one_of(body, "endianness", tuple(_ENDIAN))
    dimensions = _dimensions(body["dimensions"], "dimensions")
    texts = _inputs(body)
    used = sum(map(prompt_tokens, texts))
    head = {"id": f"embd-{random_id()}", "object": "list", "created": int(time.time()), "model": model}
    vectors = [vector(text, dimensions) for text in texts]
    packed = [struct.pack(f"{_ENDIAN[endianness]}{dimensions}f", *values) for values in vectors]
    with request.app[ENGINE].running(used):
        if encoding.startswith("bytes"):
            headers = {"Content-Type": "application/octet-stream"}
            if encoding == "bytes":
                headers["metadata"] = _metadata(head, packed, endianness, dimensions, used)
            return await send_stream(request, _raw(packed), headers=headers)
        shown: list[Any] = vectors
        if encoding == "base64":
            shown = [base64.b64encode(data).decode() for data in packed]
        data = [{"index": i, "object": "embedding", "embedding": value} for i, value in enumerate(shown)]
        return await send_json(request, {**head, "data": data, "usage": usage(used, 0)})


def _metadata(head: dict[str, Any], packed: list[bytes], endianness: str, dimensions: int, used: int) -> str:
    items = []
    start = 0
    for index, data in enumerate(packed):
        item = {"index": index, "embed_dtype": "float32", "endianness": endianness, "start": start}
        items.append({**item, "end": start + len(data), "shape": [dimensions]})
        start += len(data)
    known = {key: head[key] for key in ("id", "created", "model")}
    return json.dumps({**known, "data": items, "usage": {"prompt_tokens": used, "total_tokens": used}})


async def _raw(packed: list[bytes]) -> AsyncGenerator[bytes, None]:
    for data in packed:
        yield data


async def pooling(request: web.Request) -> web.StreamResponse:
    """POST /pooling: the vector as such."""
    body = await read_json(request, INPUT_FIELDS)
    model = request.app[ENGINE].served(body["model"], pooling=True)
    texts = _inputs(body)
    data = [{"index": index, "object": "pooling", "data": vector(text)} for index, text in enumerate(texts)]
    head = {"id": f"pooling-{random_id()}", "object": "list", "created": int(time.time()), "model": model}
    return await send_json(request, {**head, "data": data, "usage": usage(sum(map(prompt_tokens, texts)), 0)})


async def classify(request: web.Request) -> web.StreamResponse:
    """POST /classify: two classes whose probabilities depend on the text only."""
    body = await read_json(request, INPUT_FIELDS)
    model = request.app[ENGINE].served(body["model"], pooling=True)
    texts = _inputs(body)
    data = []
    for index, text in enumerate(texts):
        positive = similarity(text, "good")
        label = _LABELS[positive >= 0.5]
        data.append({"index": index, "label": label, "probs": [1.0 - positive, positive], "num_classes": 2})
    head = {"id": f"classify-{random_id()}", "object": "list", "created": int(time.time()), "model": model}
    return await send_json(request, {**head, "data": data, "usage": usage(sum(map(prompt_tokens, texts)), 0)})


async def score(request: web.Request) -> web.StreamResponse:
    """POST /score and /v1/score: one text against one or many, or pairs of as many texts on both sides."""
    body = await read_json(request, SCORE_FIELDS)
    model = request.app[ENGINE].served(body["model"], pooling=True)
    for left, right in (("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")):
        if body[left] is not None and body[right] is not None:
            ones, others = texts_of(body[left], left), texts_of(body[right], right)
            break
    else:
        raise ValidationFailed([{"type": "missing", "loc": "body.queries", "msg": "Field required", "input": body}])
    if len(ones) not in (1, len(others)):
        raise BadRequest("Input lengths must be either 1:1, 1:N or N:N")
    ones = ones * len(others) if len(ones) == 1 else ones
    pairs = list(zip(ones, others, strict=True))
    data = [{"index": i, "object": "score", "score": similarity(*pair)} for i, pair in enumerate(pairs)]
    used = sum(prompt_tokens(one) + prompt_tokens(other) for one, other in pairs)
    head = {"id": f"score-{random_id()}", "object": "list", "created": int(time.time()), "model": model}
    return await send_json(request, {**head, "data": data, "usage": usage(used, 0)})


async def rerank(request: web.Request) -> web.StreamResponse:
    """POST /rerank, /v1/rerank and /v2/rerank: documents by falling similarity, at most `top_n`."""
    body = await read_json(request, RERANK_FIELDS)
    model = request.app[ENGINE].served(body["model"], pooling=True)
    query, documents = body["query"], texts_of(body["documents"], "documents")
    scores = [similarity(query, document) for document in documents]
    order = sorted(range(len(documents)), key=lambda index: -scores[index])[: body["top_n"] or None]
    results = [
        {
            "index": index,
            "document": {"text": documents[index], "multi_modal": None},
            "relevance_score": scores[index],
        }
        for index in order
    ]
    used = sum(prompt_tokens(query) + prompt_tokens(document) for document in documents)
    head = {"id": f"score-{random_id()}", "model": model}
    counts = {"prompt_tokens": used, "total_tokens": used}
    return await send_json(request, {**head, "usage": counts, "results": results})


async def cohere_embed(request: web.Request) -> web.StreamResponse:
    """POST /v2/embed: Cohere's dialect, with the types `float` and `base64`."""
    body = await read_json(request, COHERE_FIELDS)
    request.app[ENGINE].served(body["model"], pooling=True)
    kinds = body["embedding_types"] or ["float"]
    if any(kind not in ("float", "base64") for kind in kinds):
        raise bad_parameter("The simulation knows the embedding types float and base64.", "embedding_types")
    texts = texts_of(body["texts"], "texts")
    dimensions = _dimensions(body["output_dimension"], "output_dimension")
    vectors = [vector(text, dimensions) for text in texts]
    shown: dict[str, list[Any]] = {}
    if "float" in kinds:
        shown["float"] = vectors
    if "base64" in kinds:
        shown["base64"] = [base64.b64encode(struct.pack(f"<{dimensions}f", *v)).decode() for v in vectors]
    billed = {"input_tokens": sum(map(prompt_tokens, texts)), "image_tokens": 0}
    meta = {"api_version": {"version": "2"}, "billed_units": billed}
    head = {"id": f"embd-{random_id()}", "embeddings": shown, "texts": body["texts"], "meta": meta}
    return await send_json(request, {**head, "response_type": "embeddings_by_type"})
