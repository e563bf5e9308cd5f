"""The chain every request passes, outermost first: record -> errors -> checks (sanity, master key) -> handler.

Each layer is called as `await layer(request, handler)`, aiohttp's own signature, and is composed once at start. A layer
stands outside those whose outcome it must see: the record sees every status, errors turn what the inner ones raise into
the one error shape, and nobody without the key learns whether a route exists. What needs no waiting in them is plain
methods, which `App.begin` calls for a request whose body is here, in the same order.
"""

import asyncio
import hmac
import logging
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from time import monotonic
from urllib.parse import unquote

from .access.callers import Callers
from .access.rights import LIMITED
from .balancing.instances import Providers
from .config.keys_file import MASTER
from .config.settings import Secret
from .dialects import anthropic_body, openai_body
from .downstream.request import Handler, Reply, Request
from .errors import (
    BadRequest,
    ClientError,
    GatewayError,
    InternalError,
    MethodNotAllowed,
    ModelNotFound,
    Unauthorized,
    WebSocketNotServed,
    why_aborted,
)
from .http1.forwarded import TrustedProxies
from .http1.request_fields import SESSION_NAMES, RequestFields, kinds_of_fields
from .relay.tunnel import wants_websocket
from .routes.route import Kind
from .routes.router import Router
from .telemetry.counters import Telemetry
from .telemetry.record import Record

_logger = logging.getLogger("gomodel")

Middleware = Callable[[Request, Handler], Awaitable[Reply | None]]
Check = Callable[[Request], Reply | None]

# nginx's word for a client that left before its answer; nobody reads it but logs and metrics.
CLIENT_LEFT = 499
# How often, and for how long, another worker's decision about the same caller is waited for.
_AGAIN_S = 0.001
_ATTEMPTS = 500
# Given for a request whose caller's limits have still to be looked at.
_UNDECIDED = Reply(0)
# One echoes what it gets, credentials included; the other asks for a tunnel to anywhere.
_NEVER_SERVED = frozenset({"TRACE", "CONNECT"})


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
    ) -> None:
        self._telemetry = telemetry
        self._running = telemetry.running.records
        self._resolve = router.resolve
        self._label = providers.label
        self._strip = strip
        self._kinds = kinds_of_fields((*SESSION_NAMES, *sessions))
        self._proxies = proxies
        self._new_id = telemetry.running.new_id

    def begin(self, request: Request) -> None:
        """The request runs from now on."""
        protocol = request.protocol
        request.fields = fields = request.known or RequestFields(request.message.raw_headers, self._strip, self._kinds)
        request.route = route = self._resolve(request.target)
        client = protocol.client if self._proxies is None else _client(self._proxies, request)
        request.record = entry = Record(request.method, client, monotonic())
        given = fields.request_id
        entry.id = given.decode() if given is not None else self._new_id()
        entry.route = route.template
        entry.target = request.target
        entry.trace = fields.trace.decode("latin-1")
        entry.task = protocol.task
        self._running.add(entry)
        request.recorded = True

    def end(self, request: Request) -> None:
        """It is over, and its record says how it ended."""
        entry = request.record
        if entry.place is not None:
            entry.place.leave()
        self._running.discard(entry)
        route, label = request.route, self._label(entry.instance, entry.model)
        self._telemetry.finish(entry, label, monotonic(), polled=route.polled, metered=route.metered)

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


class CallerRecording(Recording):
    """The same where callers are told apart: what a caller has running and what ended is counted with it."""

    def end(self, request: Request) -> None:
        """It is over, and its record says how it ended."""
        super().end(request)
        record = request.record
        if record.caller is not None:
            record.caller.leave(record)


async def errors(request: Request, handler: Handler) -> Reply | None:
    """The one place where a failure becomes a response; what is no GatewayError is a bug and says nothing of itself."""
    try:
        return await handler(request)
    except GatewayError as exc:
        error = exc
    except asyncio.CancelledError:
        task = request.record.task
        if not request.record.aborted or task is None:
            raise
        task.uncancel()
        error = why_aborted(request.record.aborted)
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


class Checks:
    """Whether a request is served, by its head alone: each check lets it pass, raises, or answers it.

    A head that came before on its connection and passed has passed; the configuration changing forgets it.
    """

    def __init__(self, checks: list[Check]) -> None:
        self._checks = checks

    def answer(self, request: Request) -> Reply | None:
        """None for a request that passes. Raises GatewayError."""
        return None if request.fields.allowed else self._look(request, verdict=True)

    def _look(self, request: Request, verdict: object) -> Reply | None:
        """`verdict` is what is remembered with a head that passes."""
        for check in self._checks:
            reply = check(request)
            if reply is not None:
                return reply
        request.fields.allowed = verdict
        return None

    def __call__(self, request: Request, handler: Handler) -> Awaitable[Reply | None]:
        refusal, request.refusal = request.refusal, None
        if refusal is not None:
            raise refusal
        reply = self.answer(request)
        return handler(request) if reply is None else _given(reply)


class CallerChecks(Checks):
    """The same where callers are told apart: what is remembered of a head holds as long as the keys do."""

    def __init__(self, checks: list[Check], callers: Callers) -> None:
        super().__init__(checks)
        self._callers = callers

    def answer(self, request: Request) -> Reply | None:
        """As Checks; the record knows the caller then, even where it may not what it asks."""
        fields, record, verdict = request.fields, request.record, self._callers.verdict
        try:
            reply = None if fields.allowed is verdict else self._look(request, verdict)
        finally:
            caller = fields.caller
            if caller is not None and record.caller is None:
                record.caller = caller
                caller.enter()
        if reply is None and caller is not None and caller.limited and request.route.kind in LIMITED:
            return None if self._admitted(request) else _UNDECIDED
        return reply

    @staticmethod
    def _admitted(request: Request, *, waiting: bool = True) -> bool:
        """Whether the caller's limits let the request in, once; False when that cannot be said at this moment."""
        limits = request.caller.limits
        if not limits.holds(request.record):
            added = limits.admit(request.record, waiting=waiting)
            if added is None:
                return False
            request.added = added
        return True

    def __call__(self, request: Request, handler: Handler) -> Awaitable[Reply | None]:
        refusal, request.refusal = request.refusal, None
        if refusal is not None:
            raise refusal
        reply = self.answer(request)
        if reply is _UNDECIDED:
            return self._undecided(request, handler)
        return handler(request) if reply is None else _given(reply)

    async def _undecided(self, request: Request, handler: Handler) -> Reply | None:
        """Ask again until no other worker is in the middle of deciding, and Redis has answered where it was asked."""
        for attempt in range(_ATTEMPTS):
            await asyncio.sleep(_AGAIN_S)
            if self._admitted(request, waiting=attempt + 1 < _ATTEMPTS):
                break
        return await handler(request)


class LineChecks(Checks):
    """Those of the lines of batches, which the gateway itself sends: the record knows their batch."""

    def answer(self, request: Request) -> Reply | None:
        """As Checks."""
        request.record.batch = request.fields.batch.decode("latin-1")
        return super().answer(request)


class CallerLineChecks(LineChecks, CallerChecks):
    """The same where callers are told apart: a line is held to what the key that made its batch is held to."""


async def _given(reply: Reply) -> Reply:
    return reply


def sanity(request: Request) -> None:
    """Refuse messages that aiohttp accepts and another server may read differently (RFC 9112)."""
    if request.error is not None:
        raise request.error
    version = request.message.version
    if version not in ((1, 1), (1, 0)):
        raise BadRequest("Send HTTP/1.1.", status=505, code="http_version_not_supported")
    request.fields.check(request.http_10)


def on_behalf(callers: Callers) -> Check:
    """Know the caller in whose name the gateway itself asks. Raises Unauthorized once that key is not good any more."""

    def check(request: Request) -> None:
        fields = request.fields
        fields.caller = callers.named(unquote(fields.owner.decode("latin-1")) or MASTER)
        if fields.caller is None:
            raise Unauthorized

    return check


def master_key(keys: Iterable[Secret]) -> Check:
    """Let in who presents one of the keys; missing, wrong and doubled keys read the same (contract section 2).

    Compared in constant time, as bytes.
    """
    expected = [key.reveal().encode() for key in keys]

    def authenticate(request: Request) -> None:
        if not request.route.open and not any(
            hmac.compare_digest(key, each) for key in request.fields.presented() for each in expected
        ):
            raise Unauthorized

    return authenticate


def allowed(request: Request) -> Reply | None:
    """Refuse, now that the caller has shown the key, what the route refuses: method, target, closed route."""
    route, method = request.route, request.method
    if method not in route.methods and (route.kind is not Kind.PASSTHROUGH or method in _NEVER_SERVED):
        allow = ", ".join(sorted(route.methods))
        if method in _NEVER_SERVED:
            raise MethodNotAllowed(f"{method} is not served here.", allow or "GET, POST")
        if route.refusal is not None:
            if route.template == "*" and method == "OPTIONS":
                return _options("GET, HEAD, POST, DELETE, OPTIONS")
            raise route.refusal()
        if method == "OPTIONS":
            return _options(f"{allow}, OPTIONS")
        if route.kind is Kind.INFERENCE and wants_websocket(request):
            raise WebSocketNotServed
        raise MethodNotAllowed(f"{method} is not allowed here; use {allow.replace(', ', ' or ')}.", allow)
    if route.refusal is not None:
        raise route.refusal()
    expect = request.fields.expect
    if expect and expect.lower() != b"100-continue" and not request.http_10:
        raise ClientError("The only expectation served is 100-continue.", status=417, code="expectation_failed")
    return None


def _options(allow: str) -> Reply:
    """What a route, or the server as a whole, can do (RFC 9110 9.3.7). A balancer may ask so whether it lives."""
    return Reply(204, headers={"Allow": allow})
