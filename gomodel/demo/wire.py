"""How an answer leaves: one chunk per event, or one JSON body, and the faults that can be ordered for both.

Decides framing and the faults of the `x-demo-fault` request header. Knows nothing of what is answered. The caller
must be served by a runner with `handler_cancellation=True`: a client that leaves then cancels the handler at once,
also in the middle of a silence.

Faults:
    cut            the connection ends after the third event, or half a JSON body, without a terminator
    error-event    vLLM's error event after the third event, then the usual clean end; 500 for a JSON body
    stall          silence after the third event, or half a JSON body
    sleep          the head of a stream and then silence; for a JSON body, silence without a head
    503            the queue is full
    500-shutdown   what vLLM says to new requests while it drains
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import NoReturn

from aiohttp import web

from .errors import Busy, EngineFailure, ShuttingDown, bad_parameter, dumps

FAULT_HEADER = "x-demo-fault"
FAULTS = ("cut", "error-event", "stall", "sleep", "503", "500-shutdown")
DONE = b"data: [DONE]\n\n"
EVENT_STREAM = "text/event-stream; charset=utf-8"

_EVENTS_BEFORE_FAULT = 3


def fault_of(request: web.Request) -> str | None:
    """The fault that this request orders, if any; raises BadRequest for one that does not exist."""
    fault = request.headers.get(FAULT_HEADER)
    if fault is not None and fault not in FAULTS:
        raise bad_parameter(f"{FAULT_HEADER} must be one of {', '.join(FAULTS)}.", FAULT_HEADER, fault)
    return fault


def refuse_if_ordered(request: web.Request) -> None:
    """Raise the faults that come before any work: 503 and 500-shutdown."""
    match fault_of(request):
        case "503":
            raise Busy
        case "500-shutdown":
            raise ShuttingDown


def event(data: object, name: str | None = None) -> bytes:
    """One server-sent event: a `data:` line, after an `event:` line on the routes that have typed events."""
    prefix = b"" if name is None else f"event: {name}\n".encode()
    return prefix + b"data: " + dumps(data) + b"\n\n"


def error_events() -> list[bytes]:
    """What vLLM's chat and completions streams say when the engine fails: one event with an error."""
    return [b"data: " + json.dumps(EngineFailure().body()).encode() + b"\n\n"]


async def send_stream(
    request: web.Request,
    events: AsyncGenerator[bytes, None],
    *,
    end: bytes = b"",
    broken: Iterable[bytes] | None = None,
    headers: Mapping[str, str] | None = None,
) -> web.StreamResponse:
    """Send the head at once and then each of `events` as its own chunk, then `end`.

    `broken` are the events of an engine failure, sent before `end`; None means that this route has none and is cut
    (vLLM's /v1/responses).
    """
    response = web.StreamResponse(headers={"Content-Type": EVENT_STREAM, **(headers or {})})
    fault = fault_of(request)
    await response.prepare(request)
    if fault == "sleep":
        await _silence()
    sent = 0
    async with aclosing(events):
        async for data in events:
            await response.write(data)
            sent += 1
            if fault is not None and sent == _EVENTS_BEFORE_FAULT:
                break
        if fault == "stall":
            await _silence()
    if fault == "cut" or (fault == "error-event" and broken is None):
        return _cut(request, response)
    if fault == "error-event":
        for data in broken or ():
            await response.write(data)
    if end:
        await response.write(end)
    await response.write_eof()
    return response


async def send_json(request: web.Request, payload: object) -> web.StreamResponse:
    """Send `payload` as one JSON body, or what the ordered fault leaves of it."""
    body = dumps(payload)
    match fault_of(request):
        case "sleep":
            await _silence()
        case "error-event":
            raise EngineFailure
        case "cut" | "stall" as fault:
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.content_length = len(body)
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            if fault == "stall":
                await _silence()
            return _cut(request, response)
    return web.Response(body=body, content_type="application/json")


def _cut(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    """End the connection where it is. What was written still goes out: closing flushes, aborting might not."""
    if request.transport is not None:
        request.transport.close()
    return response


async def _silence() -> NoReturn:
    await asyncio.Event().wait()
    raise AssertionError("nobody sets this event")
