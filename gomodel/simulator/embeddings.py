"""POST /v1/embeddings: a deterministic vector for each text, as numbers or base64."""

import base64
import hashlib
import math
import struct
import time
from typing import Any

from aiohttp import web

from . import tokens
from .answer import prompt_tokens
from .body import read_json
from .completions import texts_of
from .engine import ENGINE, random_id
from .errors import ValidationFailed, bad_parameter
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


async def embeddings(request: web.Request) -> web.StreamResponse:
    """One vector for each input."""
    body, engine = await read_json(request), request.app[ENGINE]
    if body["encoding_format"] not in (None, "float", "base64"):
        raise ValidationFailed("body.encoding_format", "literal_error", "Input should be 'float' or 'base64'")
    dimensions = DIMENSIONS if body["dimensions"] is None else body["dimensions"]
    if not 1 <= dimensions <= _DIMENSIONS_LIMIT:
        raise bad_parameter(f"dimensions must be between 1 and {_DIMENSIONS_LIMIT}.", "dimensions", dimensions)
    if body["input"] is None:
        raise ValidationFailed("body.input", "missing", "Field required")
    texts = texts_of(body["input"], "input")
    used = sum(map(prompt_tokens, texts))
    shown: list[Any] = [vector(text, dimensions) for text in texts]
    if body["encoding_format"] == "base64":
        shown = [base64.b64encode(struct.pack(f"<{dimensions}f", *values)).decode() for values in shown]
    data = [{"index": index, "object": "embedding", "embedding": value} for index, value in enumerate(shown)]
    head = {"id": f"embd-{random_id()}", "object": "list", "created": int(time.time()), "model": engine.model}
    with engine.running(used, 0):
        return await send_json(request, {**head, "data": data, "usage": tokens.usage(used, 0)})
