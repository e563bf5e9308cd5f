"""How an answer leaves, one chunk per event or as one JSON body, and the faults that can be ordered for both.

The server must run with `handler_cancellation=True`: a client that leaves then cancels the handler at once, also in
the middle of a silence. The header `x-demo-fault` orders one of

    cut            the connection ends after the third event, or half a JSON body, without a terminator
    error-event    vLLM's error event after the third event, then the usual clean end; 500 for a JSON body
    stall          silence after the third event, or half a JSON body
    sleep          the head of a stream and then silence; for a JSON body, silence without a head
    503            the queue is full
    500-shutdown   what vLLM says to new requests while it drains
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing

from aiohttp import web

from .errors import ApiError, bad_parameter, dumps, engine_failure

FAULT_HEADER = "x-demo-fault"
FAULTS = ("cut", "error-event", "stall", "sleep", "503", "500-shutdown")

_EVENTS_BEFORE_FAULT = 3


def fault_of(request: web.Request) -> str | None:
    """The fault that this request orders, if any. Raises those that come before any work, 503 and 500-shutdown."""
    fault = request.headers.get(FAULT_HEADER)
    if fault == "503":
        message = "The engine is currently busy and cannot accept new requests."
        message += " Please try again later or on a different instance."
        raise ApiError(message, status=503, type="Service Unavailable")
    if fault == "500-shutdown":
        raise ApiError("cannot schedule new futures after shutdown", status=500, type="InternalServerError")
    if fault is not None and fault not in FAULTS:
        raise bad_parameter(f"{FAULT_HEADER} must be one of {', '.join(FAULTS)}.", FAULT_HEADER, fault)
    return fault


def event(data: object, name: str | None = None) -> bytes:
    """One server-sent event: a `data:` line, after an `event:` line on the routes that have typed events."""
    prefix = b"" if name is None else f"event: {name}\n".encode()
    return prefix + b"data: " + dumps(data) + b"\n\n"


async def send_stream(
    request: web.Request,
    events: AsyncGenerator[bytes, None],
    *,
    end: bytes = b"",
    broken: Iterable[bytes] | None = None,
) -> web.StreamResponse:
    """Send the head at once and then each of `events` as its own chunk, then `end`.

    `broken` are the events of an engine failure, sent before `end`; None means that this route has none and is cut
    (vLLM's /v1/responses).
    """
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    fault = fault_of(request)
    await response.prepare(request)
    if fault == "sleep":
        await _silence()
    try:
        return await _send(request, response, events, fault, end, broken)
    except ConnectionResetError:
        return response  # the client has left, and the cancellation of this handler is on its way


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    events: AsyncGenerator[bytes, None],
    fault: str | None,
    end: bytes,
    broken: Iterable[bytes] | None,
) -> web.StreamResponse:
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
    await response.write_eof(end)
    return response


async def send_openai_stream(request: web.Request, events: AsyncGenerator[bytes, None]) -> web.StreamResponse:
    """`send_stream` for the routes that end with [DONE] and tell of a failure in an event of their usual kind."""
    return await send_stream(request, events, end=b"data: [DONE]\n\n", broken=[event(engine_failure().body())])


async def send_json(request: web.Request, payload: object) -> web.StreamResponse:
    """Send `payload` as one JSON body, or what the ordered fault leaves of it."""
    body = dumps(payload)
    match fault_of(request):
        case "sleep":
            await _silence()
        case "error-event":
            raise engine_failure()
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


async def _silence() -> None:
    await asyncio.Event().wait()
