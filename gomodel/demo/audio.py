"""POST /v1/audio/transcriptions and /v1/audio/translations.

Decides how an upload is read (piece by piece, fields in any order, hashed and thrown away) and what the text about
it says. Knows nothing of sound.
"""

import hashlib
import math
import time
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from . import tokens
from .body import check, optional
from .engine import ENGINE, Pace, pace, request_id
from .errors import ApiError, BadRequest, Unparsable, ValidationFailed, bad_parameter
from .tokens import Step
from .usage import stream_usage
from .wire import DONE, error_events, event, send_json, send_stream

FIELDS = {
    "language": optional("str"),
    "model": optional("str"),
    "prompt": optional("str"),
    "response_format": optional("str"),
    "stream": optional("bool"),
    "stream_include_usage": optional("bool"),
    "temperature": optional("float"),
}

_FILE_LIMIT_BYTES = 25 * 1024 * 1024  # VLLM_MAX_AUDIO_CLIP_FILESIZE_MB
_FIELD_LIMIT_BYTES = 1024 * 1024  # Starlette's limit for a part that is not a file
_PIECE_BYTES = 64 * 1024
_BYTES_PER_SECOND = 32_000  # as if every file were 16-bit mono at 16 kHz


@dataclass
class Upload:
    """What is left of a form: its fields, and size and hash of its file."""

    fields: dict[str, str] = field(default_factory=dict)
    file_bytes: int | None = None
    digest: str = ""


async def read_form(request: web.Request) -> Upload:
    """Reads the form to its end without keeping the file; raises ValidationFailed, BadRequest or Unparsable."""
    upload = Upload()
    if not request.headers.get("Content-Type", "").lower().startswith("multipart/form-data"):
        return upload
    try:
        async for part in await request.multipart():
            if isinstance(part, BodyPartReader):
                await _read_part(part, upload)
    except (ValueError, RuntimeError, HttpProcessingError):  # what aiohttp raises for a broken form
        raise Unparsable from None
    return upload


async def _read_part(part: BodyPartReader, upload: Upload) -> None:
    if part.filename is None:
        value = b""
        while piece := await part.read_chunk(_PIECE_BYTES):
            value += piece
            if len(value) > _FIELD_LIMIT_BYTES:
                raise BadRequest(f"Part exceeded maximum size of {_FIELD_LIMIT_BYTES // 1024}KB.")
        if part.name == "file":
            message = "Expected 'file' to be a file-like object, not 'str'."
            raise ApiError(message, status=422, type="Unprocessable Entity")
        upload.fields[part.name or ""] = value.decode("utf-8", "replace")
        return
    size, digest = 0, hashlib.sha256()
    while piece := await part.read_chunk(_PIECE_BYTES):
        size += len(piece)
        digest.update(piece)
    if part.name == "file":
        upload.file_bytes, upload.digest = size, digest.hexdigest()


def handler(task: str) -> Callable[[web.Request], Coroutine[Any, Any, web.StreamResponse]]:
    """The handler for `task`, which is transcription or translation."""

    async def handle(request: web.Request) -> web.StreamResponse:
        return await _handle(request, task)

    return handle


async def _handle(request: web.Request, task: str) -> web.StreamResponse:
    engine = request.app[ENGINE]
    upload = await read_form(request)
    if upload.file_bytes is None:
        raise ValidationFailed(
            [{"type": "missing", "loc": "body.file", "msg": "Field required", "input": upload.fields}]
        )
    body = check(upload.fields, FIELDS)
    if upload.file_bytes > _FILE_LIMIT_BYTES:
        size = upload.file_bytes / 1024**2
        raise bad_parameter("Maximum file size exceeded", "audio_filesize_mb", size)
    model = engine.served(body["model"])
    form = body["response_format"] or "json"
    if form not in ("json", "text", "verbose_json"):
        raise BadRequest("Currently only support response_format: `text`, `json` or `verbose_json`")
    if form == "verbose_json" and body["stream"]:
        raise BadRequest("verbose_json format doesn't support streaming case")
    text = (
        f"This is a simulated {task}: no model is running. "
        f"The file has {upload.file_bytes} bytes, and its SHA-256 begins with {upload.digest[:16]}."
    )
    seconds = math.ceil(upload.file_bytes / _BYTES_PER_SECOND)
    words, speed = tokens.steps(text), pace(request)
    with engine.running(seconds):
        if body["stream"]:
            identity = {"id": f"{task}-{request_id(request)}", "object": f"{task}.chunk", "created": int(time.time())}
            events = _events({**identity, "model": model}, words, speed, seconds, bool(body["stream_include_usage"]))
            return await send_stream(request, events, end=DONE, broken=error_events())
        await speed.advance([sum(step.tokens for step in words)])
        return await send_json(request, _result(task, form, text, seconds, body["language"]))


def _result(task: str, form: str, text: str, seconds: int, language: str | None) -> dict[str, Any]:
    if form == "verbose_json":
        return {"duration": float(seconds), "language": language, "text": text, "segments": [], "words": None}
    if task == "translation":
        return {"text": text}
    return {"text": text, "usage": {"type": "duration", "seconds": seconds}}


async def _events(
    head: dict[str, Any], words: list[Step], speed: Pace, prompt: int, with_usage: bool
) -> AsyncGenerator[bytes, None]:
    for position, step in enumerate(words):
        await speed.advance([step.tokens])
        choice: dict[str, Any] = {"delta": {"content": step.text}}
        if position == len(words) - 1:
            choice |= {"finish_reason": "stop", "stop_reason": None}
        yield event({**head, "choices": [choice]})
    if with_usage:
        counts = stream_usage(prompt, sum(step.tokens for step in words))
        yield event({**head, "choices": [], "usage": counts})
