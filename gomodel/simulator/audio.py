"""POST /v1/audio/transcriptions and /v1/audio/translations: an upload in, words about its size and hash out."""

import hashlib
import math
import time
from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from . import tokens
from .engine import ENGINE, Pace, request_id
from .errors import ApiError, Unparsable, ValidationFailed, bad_parameter
from .wire import event, fault_of, send_json, send_openai_stream

_FILE_LIMIT_BYTES = 25 * 1024 * 1024  # VLLM_MAX_AUDIO_CLIP_FILESIZE_MB
_BYTES_PER_SECOND = 32_000  # as if every file were 16-bit mono at 16 kHz


async def transcribe(request: web.Request) -> web.StreamResponse:
    """What the upload says, had anybody listened, at once or as events."""
    engine, task = request.app[ENGINE], "translation" if request.path.endswith("translations") else "transcription"
    form = await _read_form(request)
    file = form.pop("file", None)
    fields = {name: value.decode("utf-8", "replace") for name, value in form.items()}
    if file is None:
        raise ValidationFailed("body.file", "missing", "Field required")
    if len(file) > _FILE_LIMIT_BYTES:
        raise bad_parameter("Maximum file size exceeded", "audio_filesize_mb", len(file) / 1024**2)
    engine.check_model(fields.get("model"))
    if fields.get("response_format", "json") not in ("json", "text"):
        raise ApiError("The simulation only supports response_format: `text` or `json`")
    text = f"This is a simulated {task}: no model is running."
    text += f" The file has {len(file)} bytes, and its SHA-256 begins with {hashlib.sha256(file).hexdigest()[:16]}."
    seconds, speed = math.ceil(len(file) / _BYTES_PER_SECOND), Pace(request)
    with engine.running(seconds, tokens.count(text)):
        if fields.get("stream", "").lower() == "true":
            head = {"id": f"{task}-{request_id(request)}", "object": f"{task}.chunk", "created": int(time.time())}
            return await send_openai_stream(request, _events({**head, "model": engine.model}, text, speed))
        await speed.advance(tokens.count(text))
        return await send_json(request, {"text": text, "usage": {"type": "duration", "seconds": seconds}})


async def _read_form(request: web.Request) -> dict[str, bytes]:
    """The parts of a form, in any order; raises Unparsable."""
    fault_of(request)
    parts: dict[str, bytes] = {}
    if request.content_type == "multipart/form-data":
        try:
            async for part in await request.multipart():
                if isinstance(part, BodyPartReader):
                    parts[part.name or ""] = bytes(await part.read())
        except (ValueError, RuntimeError, HttpProcessingError):  # what aiohttp raises for a broken form
            raise Unparsable from None
    return parts


async def _events(head: dict[str, Any], text: str, speed: Pace) -> AsyncGenerator[bytes, None]:
    *words, last = tokens.split(text)
    for word in words:
        await speed.advance(1)
        yield event({**head, "choices": [{"delta": {"content": word}}]})
    yield event({**head, "choices": [{"delta": {"content": last}, "finish_reason": "stop", "stop_reason": None}]})
