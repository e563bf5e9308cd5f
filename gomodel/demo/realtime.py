"""WebSocket /v1/realtime: audio in, words about it out.

Decides the events of vLLM's realtime transcription: the model comes in `session.update`, `commit` starts a
transcription of what was and will be appended, `commit` with `final` ends it. Knows nothing of sound.
"""

import asyncio
import base64
import binascii
import json
import time
from typing import Any

from aiohttp import WSMsgType, web

from . import tokens
from .engine import ENGINE, Engine, Pace, pace, random_id
from .errors import ModelNotFound
from .usage import usage

_FRAME_LIMIT_BYTES = 16 * 1024 * 1024  # uvicorn's


async def realtime(request: web.Request) -> web.StreamResponse:
    """One session. A plain GET is 404, since vLLM has this path for WebSockets only."""
    socket = web.WebSocketResponse(max_msg_size=_FRAME_LIMIT_BYTES)
    if not socket.can_prepare(request).ok:
        raise web.HTTPNotFound
    speed = pace(request)
    await socket.prepare(request)
    session = _Session(socket, request.app[ENGINE], speed)
    await session.send(type="session.created", id=f"sess-{random_id()}", created=int(time.time()))
    try:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await session.receive(message.data)
    finally:
        await session.close()
    return socket


class _Session:
    def __init__(self, socket: web.WebSocketResponse, engine: Engine, speed: Pace) -> None:
        self._socket = socket
        self._engine = engine
        self._speed = speed
        self._model: str | None = None
        self._audio: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def send(self, **data: Any) -> None:
        await self._socket.send_str(json.dumps(data, separators=(",", ":")))

    async def receive(self, text: str) -> None:
        try:
            event = json.loads(text)
        except ValueError:
            await self._refuse("Invalid JSON", "invalid_json")
            return
        if not isinstance(event, dict):
            await self._refuse("An event must be an object", "processing_error")
            return
        match event.get("type"):
            case "session.update":
                await self._update(event.get("model"))
            case "input_audio_buffer.append":
                await self._append(event.get("audio"))
            case "input_audio_buffer.commit":
                await self._commit(final=bool(event.get("final")))
            case other:
                await self._refuse(f"Unknown event type: {other}", "unknown_event")

    async def close(self) -> None:
        """Stop a transcription that nobody reads any more."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _refuse(self, message: str, code: str) -> None:
        await self.send(type="error", error=message, code=code)

    async def _update(self, model: Any) -> None:
        if model is None:
            await self._refuse("Missing required field: model", "invalid_event")
            return
        try:
            self._model = self._engine.served(str(model), pooling=True)
        except ModelNotFound as error:
            await self._refuse(error.message, "model_not_found")

    async def _append(self, audio: Any) -> None:
        try:
            data = base64.b64decode(audio)
        except (binascii.Error, TypeError, ValueError):
            data = b""
        if not data or len(data) % 2:  # samples have two bytes
            await self._refuse("Invalid audio data", "invalid_audio")
            return
        self._audio.put_nowait(data)

    async def _commit(self, *, final: bool) -> None:
        if self._model is None:
            message = "Model not validated. Make sure to validate the model by sending a session.update event."
            await self._refuse(message, "model_not_validated")
        elif final:
            self._audio.put_nowait(None)
        elif self._task is None or self._task.done():
            self._task = asyncio.create_task(self._transcribe())

    async def _transcribe(self) -> None:
        said, heard, written = "", 0, 0
        with self._engine.running(0):
            sentence = "This is a simulated transcription: no model is running."
            while True:
                for step in tokens.steps(sentence):
                    await self._speed.advance([step.tokens])
                    await self.send(type="transcription.delta", delta=step.text)
                    said += step.text
                    written += step.tokens
                data = await self._audio.get()
                if data is None:
                    break
                heard += len(data) // 2
                sentence = f" {len(data)} bytes of audio arrived."
            await self.send(type="transcription.done", text=said, usage=usage(heard, written))
