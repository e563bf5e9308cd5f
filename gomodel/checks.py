"""The checks of the chain: whether a request is served, by its head alone.

Decides in which order a caller learns what is wrong: the message itself, then the key, then what the route refuses. A
head that came before and passed has passed. What a key opens is decided in `access.rights`, where the checks stand in
the chain in `middleware`.
"""

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterable
from time import monotonic
from urllib.parse import unquote

from .access.caller import Caller
from .access.callers import Callers
from .access.rights import LIMITED
from .config.keys_file import MASTER
from .config.settings import Secret
from .downstream.request import Handler, Reply, Request
from .errors import BadRequest, ClientError, MethodNotAllowed, Unauthorized, WebSocketNotServed
from .relay.tunnel import wants_websocket
from .routes.route import Kind
from .telemetry.record import Record

Check = Callable[[Request], Reply | None]

# How often, and for how long, another worker's decision about the same caller is waited for.
_AGAIN_S = 0.001
_ATTEMPTS = 500
# By a name of its own: to look a member up in its class takes CPython 3.11 ten times as long.
_INFERENCE = Kind.INFERENCE
# Given for a request whose caller's limits have still to be looked at.
_UNDECIDED = Reply(0)
# One echoes what it gets, credentials included; the other asks for a tunnel to anywhere.
_NEVER_SERVED = frozenset({"TRACE", "CONNECT"})


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
        fields, record = request.fields, request.record
        if fields.allowed is not self._callers.verdict or record.caller is not None:
            return self._look_closer(request)
        record.caller = caller = fields.caller
        if caller is None:
            return None
        caller.running += 1
        if not caller.limited:
            return None
        if request.route.kind is not _INFERENCE:
            return self._admitted(request, caller)
        added = caller.limits.admit(record, record.started)  # as `_admitted`, without a call more
        if added is None:
            return _UNDECIDED
        request.added = added
        return None

    def _look_closer(self, request: Request) -> Reply | None:
        """The same of a head that is not known, and of a request that was begun."""
        fields, verdict = request.fields, self._callers.verdict
        reply = None
        if fields.allowed is not verdict:
            try:
                reply = self._look(request, verdict)
            finally:
                self._meet(request.record, fields.caller)
        caller = fields.caller
        self._meet(request.record, caller)
        if caller is not None and caller.limited and reply is None and request.record not in caller.limits.held:
            return self._admitted(request, caller)
        return reply

    @staticmethod
    def _admitted(request: Request, caller: Caller) -> Reply | None:
        """None where the caller's limits let the request in, or are none for it."""
        kind = request.route.kind
        if kind is _INFERENCE or kind in LIMITED:  # an enum's hash is a call
            assert caller.limits is not None
            added = caller.limits.admit(request.record, request.record.started)
            if added is None:
                return _UNDECIDED
            request.added = added
        return None

    @staticmethod
    def _meet(record: Record, caller: Caller | None) -> None:
        if caller is not None and record.caller is None:
            record.caller = caller
            caller.running += 1

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
            limits = request.fields.caller.limits
            added = limits.admit(request.record, monotonic(), waiting=attempt + 1 < _ATTEMPTS)
            if added is not None:
                request.added = added
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
