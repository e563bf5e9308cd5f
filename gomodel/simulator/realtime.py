"""WebSocket /v1/realtime: audio in, words about it out.

As in vLLM the model comes in `session.update`, `commit` starts a transcription of what was and will be appended, and
`commit` with `final` ends it.
"""

import asyncio
import base64
import json
import time

from aiohttp import WSMsgType, web

from . import tokens
from .engine import ENGINE, Pace, random_id
from .errors import ApiError


async def realtime(request: web.Request) -> web.StreamResponse:
    """One session. A plain GET is 404, since vLLM has this path for WebSockets only."""
    socket = web.WebSocketResponse(max_msg_size=16 * 1024 * 1024)  # uvicorn's limit
    if not socket.can_prepare(request).ok:
        raise web.HTTPNotFound
    session = _Session(request, socket)
    await socket.prepare(request)
    await socket.send_json({"type": "session.created", "id": f"sess-{random_id()}", "created": int(time.time())})
    try:
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                try:
                    session.receive(message.data)
                except ApiError as error:  # the session goes on
                    await socket.send_json({"type": "error", "error": error.message, "code": error.type})
    finally:
        await session.close()
    return socket


class _Session:
    def __init__(self, request: web.Request, socket: web.WebSocketResponse) -> None:
        self._socket = socket
        self._engine = request.app[ENGINE]
        self._speed = Pace(request)
        self._ready = False
        self._audio: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    def receive(self, text: str) -> None:
        """Act on an event; raises ApiError for one that is wrong."""
        try:
            event = json.loads(text)
            kind, audio = event["type"], base64.b64decode(event.get("audio", ""))
        except (AttributeError, LookupError, TypeError, ValueError):
            raise ApiError("Invalid JSON, event or audio", type="processing_error") from None
        if kind == "session.update":
            self._engine.check_model(event.get("model"))
            self._ready = True
        elif kind == "input_audio_buffer.append":
            self._audio.put_nowait(audio)
        elif kind != "input_audio_buffer.commit":
            raise ApiError(f"Unknown event type: {kind}", type="unknown_event")
        elif not self._ready:
            raise ApiError("Validate the model by sending a session.update event.", type="model_not_validated")
        elif event.get("final"):
            self._audio.put_nowait(None)
        elif self._task is None or self._task.done():
            self._task = asyncio.create_task(self._transcribe())

    async def close(self) -> None:
        """Stop a transcription that nobody reads any more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _transcribe(self) -> None:
        said, heard = "", 0
        sentence = "This is a simulated transcription: no model is running."
        with self._engine.running(0, 0):
            while True:
                for word in tokens.split(sentence):
                    await self._speed.advance(1)
                    await self._socket.send_json({"type": "transcription.delta", "delta": word})
                    said += word
                data = await self._audio.get()
                if data is None:
                    break
                heard += len(data) // 2  # samples have two bytes
                sentence = f" {len(data)} bytes of audio arrived."
            counts = tokens.usage(heard, tokens.count(said))
            await self._socket.send_json({"type": "transcription.done", "text": said, "usage": counts})
