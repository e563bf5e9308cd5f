"""The chain every request passes, outermost first: record -> errors -> checks (sanity, master key) -> handler.

Each layer is called as `await layer(request, handler)`, aiohttp's own signature, and is composed once at start. A layer
stands outside those whose outcome it must see: the record sees every status, errors turn what the inner ones raise into
the one error shape, and nobody without the key learns whether a route exists. What needs no waiting in them is plain
methods, which `App.begin` calls for a request whose body is here, in the same order.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from time import monotonic

from .balancing.instances import Providers
from .dialects import anthropic_body, openai_body
from .downstream.request import Handler, Reply, Request
from .errors import (
    BadRequest,
    GatewayError,
    InternalError,
    ModelNotFound,
    why_aborted,
)
from .http1.field_kinds import SESSION_NAMES, kinds_of_fields
from .http1.forwarded import TrustedProxies
from .http1.request_fields import RequestFields
from .routes.router import Router
from .telemetry.counters import Telemetry
from .telemetry.record import Record

_logger = logging.getLogger("gomodel")

Middleware = Callable[[Request, Handler], Awaitable[Reply | None]]

# nginx's word for a client that left before its answer; nobody reads it but logs and metrics.
CLIENT_LEFT = 499


def compose(handler: Handler, layers: list[Middleware]) -> Handler:
    """The handler wrapped in `layers`, the first one outermost."""
    for layer in reversed(layers):
        handler = partial(layer, handler=handler)  # type: ignore[call-arg]
    return handler


class Recording:
    """Know the request: its fields, route, client and id; count it and log it when it ends, however it ends."""

    def __init__(
        self,
        telemetry: Telemetry,
        router: Router,
        providers: Providers,
        strip: frozenset[bytes],
        sessions: Iterable[str] = (),
        proxies: TrustedProxies | None = None,
        sample: Callable[[Request], None] | None = None,
    ) -> None:
        """`sample` begins a digest of the request where it is to have one."""
        self._telemetry = telemetry
        self._running = telemetry.running.records
        self._resolve = router.resolve
        self._label = providers.label
        self._strip = strip
        self._kinds = kinds_of_fields((*SESSION_NAMES, *sessions))
        self._proxies = proxies
        self._sample = sample
        self._new_id = telemetry.running.new_id
        self._finish = telemetry.finish if telemetry.spans is None else telemetry.spans.after(telemetry.finish)

    def begin(self, request: Request) -> None:
        """The request runs from now on."""
        protocol, fields, target = request.protocol, request.known, request.target
        if fields is None:
            fields = RequestFields(request.message.raw_headers, self._strip, self._kinds)
            fields.route = self._resolve(target)
        request.fields = fields
        request.route = route = fields.route
        client = protocol.client if self._proxies is None else _client(self._proxies, request)
        given = fields.request_id
        number = given.decode() if given is not None else self._new_id()
        request.record = entry = Record(
            request.method, client, monotonic(), number, route.template, target, protocol.task
        )
        if fields.trace:
            entry.trace = fields.trace.decode("latin-1")
        self._running.add(entry)
        request.recorded = True
        if self._sample is not None:
            self._sample(request)

    def end(self, request: Request) -> None:
        """It is over, and its record says how it ended."""
        entry = request.record
        if entry.place is not None:
            entry.place.leave()
        self._running.discard(entry)
        entry.task = None  # whose last error may have the request in its traceback
        if request.digest is not None:
            self._compare(request)
        route, label = request.route, self._label(entry.instance, entry.model)
        self._finish(entry, label, monotonic(), route.polled, route.metered)

    def _compare(self, request: Request) -> None:
        """Whether the bytes that went out are those that came in."""
        digest, request.digest = request.digest, None  # each knows the other
        for direction in digest.compare():
            self._telemetry.mismatches[direction] += 1
            _logger.error("The %s body of request %s is not the one that came in", direction, request.record.id)

    async def __call__(self, request: Request, handler: Handler) -> Reply | None:
        if not request.recorded:
            self.begin(request)
        entry = request.record
        try:
            reply = await handler(request)
            if reply is not None:
                entry.status = reply.status
                entry.bytes_out = len(reply.body) if request.method != "HEAD" else 0
                reply.headers["X-Request-Id"] = entry.id
            return reply
        except asyncio.CancelledError:
            entry.blame("client" if request.protocol.transport is None else "gomodel", "disconnected")
            entry.status = entry.status or CLIENT_LEFT
            raise
        finally:
            self.end(request)


def _client(proxies: TrustedProxies, request: Request) -> str:
    """Whom a request is from; what a head that came before on its connection said of it is kept with its fields."""
    fields = request.fields
    if request.known is None:
        chain = request.message.headers.getall("X-Forwarded-For", ())
        fields.client = proxies.client(request.protocol.client, chain)
    return fields.client


async def errors(request: Request, handler: Handler) -> Reply | None:
    """The one place where a failure becomes a response; what is no GatewayError is a bug and says nothing of itself."""
    try:
        return await handler(request)
    except GatewayError as exc:
        error = exc
        error.__traceback__ = None  # its frames have the request, and the error: nobody but the collector would free it
    except asyncio.CancelledError:
        record = request.record
        if not record.aborted or record.task is None:
            raise
        record.task.uncancel()
        error = why_aborted(record.aborted)
    except Exception:
        _logger.exception("Request %s failed inside the gateway", request.record.id)
        error = InternalError()
    if request.started:
        # A head is out: whatever happened, a second status line would be part of the body.
        request.record.blame("gomodel", error.code)
        request.keep_alive = False
        transport = request.protocol.transport
        if transport is not None and not transport.is_closing():  # otherwise the relay has said so where it could
            request.protocol.truncate(close_delimited=True)
        return None
    request.record.reason = request.record.reason or error.code
    if isinstance(error, ModelNotFound):
        request.record.model = error.selector
        caller = request.caller
        if caller is not None and caller.entry.models:  # others' models are not for it to learn of
            error = ModelNotFound(
                f"There is no such model, or the key '{caller.name}' is not good for it; GET /v1/models lists those "
                "that it is good for."
            )
    body = anthropic_body(error) if request.route.anthropic else openai_body(error)
    headers = dict(error.headers)
    if request.record.instance:
        headers["X-GoModel-Provider"] = request.record.instance
    return Reply(error.status, body, headers, close=isinstance(error, BadRequest))
