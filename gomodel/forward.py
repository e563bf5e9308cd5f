"""One client request to one of its candidate instances: breaker, connection, the safe retries, the relay.

Decides what may be tried again (contract section 7): a connect failure, since nothing was sent; and once, on a fresh
connection, a request whose reused connection died before any response byte, if all of it is still held and its route
may be repeated. What may not be repeated never gets a reused connection, so that race cannot hit it.

What an instance that shuts down refuses goes to another candidate if all of the body is here, held or in a spool. A
body that streams through is not kept, so the refusal of an upload that came in several pieces is the client's answer.
"""

import asyncio
import random
from collections.abc import Callable
from time import monotonic

from .config import Retry
from .errors import (
    CircuitOpen,
    ConnectError,
    InstanceDraining,
    Overloaded,
    StaleConnection,
    UpstreamError,
    UpstreamTimeout,
)
from .headers import request_head
from .health import DRAINING
from .message import Request
from .providers import Choice, Instance, Providers
from .record import Phase
from .relay import INSTANCE_FAILURES, Relay
from .spool import Source, Spool
from .telemetry import Telemetry
from .upstream import Channel


class Outgoing:
    """What is to be sent, and how its answer is to be taken."""

    __slots__ = (
        "body",
        "choice",
        "parts",
        "relay",
        "removed_bytes",
        "replayable",
        "request",
        "spool",
        "tail",
        "upgrade",
    )

    def __init__(
        self,
        request: Request,
        choice: Choice,
        held: bytes | bytearray,
        body: Source | None = None,
        *,
        removed_bytes: int = 0,
        replayable: bool = False,
        relay: Callable[[Request, Instance], Relay] = Relay,
        upgrade: bytes = b"",
    ) -> None:
        """`held` is the body as far as it was read, already without the `removed_bytes` of the selector's prefix.

        `body` brings the rest, None when `held` is all; `replayable` says that the route may be repeated; `upgrade` is
        the lines that ask for another protocol.
        """
        self.request = request
        self.choice = choice
        self.body = body
        self.removed_bytes = removed_bytes
        self.replayable = replayable and body is None
        self.spool: Spool | None = None  # where all of `body` waits, so that it can be read again
        self.relay = relay
        self.upgrade = upgrade
        self.tail: str = request.route.tail
        self.parts: tuple[bytes | bytearray, ...] = (held,)
        if request.fields.chunked:
            end = b"\r\n" if held else b""
            self.parts = (b"%x\r\n" % len(held) if held else b"", held, end if body else end + b"0\r\n\r\n")


class Forwarder:
    """Carries requests to instances."""

    def __init__(self, providers: Providers, telemetry: Telemetry, retry: Retry) -> None:
        self._providers = providers
        self._telemetry = telemetry
        self._retry = retry

    async def forward(self, outgoing: Outgoing) -> None:
        """Send the request and relay the answer; returns when the answer is over, whole or aborted.

        Raises GatewayError when no response head went out.
        """
        request, choice = outgoing.request, outgoing.choice
        record = request.record
        left = self._retry.max_retries
        fresh = not outgoing.replayable
        failed: Instance | None = None
        refused: ConnectError | None = None
        while True:
            try:
                instance = self._providers.admitted(choice)
            except CircuitOpen:
                if refused is None:
                    raise
                record.blame("upstream", refused.code)
                raise refused from None  # this request opened the breaker itself, and knows more than that it is open
            if failed is not None:
                record.retries += 1
                self._telemetry.retries[failed.name] += 1
            relay = outgoing.relay(request, instance)
            relay.probe = not instance.breaker.closed
            record.instance = instance.name
            instance.in_flight += 1
            failures = instance.health.failures
            verdict = False
            try:
                channel = None if fresh else instance.pool.take()
                if channel is None:
                    channel = await self._connect(request, instance)
                # Another instance may still take it as long as all of it is here and it was not bound to this one.
                relay.failover = (
                    left > 0 and len(choice.instances) > 1 and (outgoing.body is None or outgoing.spool is not None)
                )
                error = await relay.run(channel, (self._head(outgoing, instance), *outgoing.parts), outgoing.body)
                if isinstance(error, ConnectError):
                    raise error
                verdict = True
                self._judge(instance, relay, error, failures, sent=channel.sent)
                if error is None:
                    return
                if left <= 0 or not isinstance(error, (StaleConnection, InstanceDraining)):
                    if isinstance(error, StaleConnection):
                        record.blame("upstream", error.code)
                    raise error
                if isinstance(error, StaleConnection):
                    fresh = True
                else:
                    choice.instances.remove(instance)
                    if outgoing.spool is not None:
                        outgoing.spool.rewind()
            except ConnectError as exc:
                verdict = True
                instance.breaker.failure(monotonic(), probe=relay.probe)
                instance.health.failed(exc.code)
                if left <= 0:
                    record.blame("upstream", exc.code)
                    raise
                refused = exc
                # Another candidate first; the same instance when it is the only one.
                choice.instances.append(choice.instances.pop(choice.instances.index(instance)))
                await self._back_off(request, self._retry.max_retries - left)
            except UpstreamTimeout as exc:
                if not verdict:  # the connect timed out
                    verdict = True
                    instance.breaker.failure(monotonic(), probe=relay.probe)
                    instance.health.failed(exc.code)
                record.blame("upstream", exc.code)
                raise
            finally:
                instance.in_flight -= 1
                if not verdict:
                    instance.breaker.abandon(probe=relay.probe)
            left -= 1
            failed = instance

    @staticmethod
    def _head(outgoing: Outgoing, instance: Instance) -> bytes:
        request, route = outgoing.request, outgoing.request.route
        return request_head(
            request.method,
            (instance.base_path if route.below_base else instance.root_path) + outgoing.tail,
            request.fields,
            instance.own_fields + outgoing.upgrade if outgoing.upgrade else instance.own_fields,
            request.record.id.encode(),
            outgoing.removed_bytes,
        )

    async def _connect(self, request: Request, instance: Instance) -> Channel:
        request.record.enter(Phase.CONNECT, monotonic(), None)
        connects = self._telemetry.connects
        try:
            channel = await instance.pool.connect()
        except (UpstreamError, Overloaded) as exc:
            connects[instance.name, exc.code] += 1
            raise
        connects[instance.name, "ok"] += 1
        return channel

    def _judge(self, instance: Instance, relay: Relay, error: object, failures: int, *, sent: bool) -> None:
        if relay.draining:
            instance.health.failed(DRAINING)
        if isinstance(error, (StaleConnection, InstanceDraining)):
            # Closing an idle connection, or going away in good order, is no failure.
            instance.breaker.abandon(probe=relay.probe)
        elif isinstance(error, UpstreamError) and error.code == "connection_terminated" and not sent:
            # It closed on an upload that was still coming, which may be how it refuses one: over TLS its answer is lost
            # with the reset. One client's uploads must not shut it for all.
            instance.breaker.abandon(probe=relay.probe)
        elif relay.failed or isinstance(error, UpstreamError) or relay.status in INSTANCE_FAILURES:
            instance.breaker.failure(monotonic(), probe=relay.probe)
        elif relay.status:
            instance.breaker.success(probe=relay.probe)
            if not instance.health.settled:
                instance.health.ok(failures)
        else:
            instance.breaker.abandon(probe=relay.probe)  # the client's upload was at fault

    async def _back_off(self, request: Request, attempt: int) -> None:
        retry = self._retry
        request.record.enter(Phase.QUEUE, monotonic(), None)
        delay_s = min(retry.max_backoff_s, retry.initial_backoff_s * retry.backoff_factor**attempt)
        await asyncio.sleep(delay_s * (1 + retry.jitter_factor * random.uniform(-1, 1)))
