"""Routes to handlers, behind the chain: all that one configuration makes.

Decides what each kind of route does with a request. Knows nothing of sockets, signals or processes.
"""

from collections.abc import Awaitable, Callable, Collection
from typing import Any

from .access.callers import Callers
from .access.leases import Leases
from .access.slots import Slots
from .balancing.instances import Providers
from .balancing.model_lists import ModelLists
from .balancing.replica_guard import ReplicaGuard, forget
from .balancing.stored_responses import StoredResponses
from .chain import Chain
from .config.settings import Config
from .downstream.request import Handler, Reply, Request
from .errors import NotFound, Overloaded
from .operations.handlers import Operations
from .operations.status_page import status_page
from .relay.batch_calls import BatchCalls
from .relay.forward import Forwarder
from .relay.inference import Inference
from .relay.passthrough import Passthrough
from .relay.permitted import PermittedForwarder
from .relay.queueing import Queueing
from .relay.realtime import Realtime
from .relay.wedged import WedgedWatch
from .routes.route import Kind
from .routes.router import Router
from .telemetry.counters import Telemetry
from .upstream.network import Network
from .upstream.replica import Replica

# By a name of its own: to look a member up in its class takes CPython 3.11 ten times as long.
_INFERENCE = Kind.INFERENCE
# Served to the end of a drain, since whoever waits for it wants to know what it waits for, and where clients are turned
# away: a process that is alive must not be restarted for having many of them.
_OPERATORS = frozenset(
    {
        *(Kind.HEALTH, Kind.READY, Kind.METRICS, Kind.STATUS_PAGE),
        *(Kind.ADMIN_REQUESTS, Kind.ADMIN_INSTANCES, Kind.ADMIN_USAGE, Kind.ADMIN_KEYS),
        *(Kind.ADMIN_HISTORY, Kind.ADMIN_ENGINES, Kind.ADMIN_FAILURES, Kind.ADMIN_CONFIGURATION),
    }
)


class App:
    """Everything one configuration makes; a reload builds another and lets this one's requests end."""

    def __init__(
        self,
        config: Config,
        telemetry: Telemetry,
        slots: Slots,
        previous: "App | None" = None,
        network: Network | None = None,
    ) -> None:
        """`previous` is the app that this one replaces at a reload; what is known of servers that stay stays known."""
        self.config = config
        self.draining = False  # not ready any more
        self.refusing = False  # draining for so long that what comes now gets 503
        known = previous.providers if previous is not None else None
        self.providers: Providers = Providers(config, known, network, telemetry.gaps)
        self.models: ModelLists = ModelLists(self.providers, config, previous.models if previous is not None else None)
        self.providers.on_change = self._follow
        self._wedged = WedgedWatch(self.providers, telemetry)
        self._guard: ReplicaGuard | None = None
        if config.replica_guard == "off":
            forget(self.providers.replicas)
        else:
            self._guard = ReplicaGuard(
                self.models,
                telemetry,
                lambda: self.draining,
                previous._guard if previous is not None else None,
                exclude=config.replica_guard == "exclude",
                generate=config.replica_guard_generates,
            )
        self.callers: Callers | None = _callers(config, slots, previous.callers if previous is not None else None)
        # A keys file may come to name a limit that is waited for while the process runs.
        limited = any(each.max_in_flight is not None for each in config.instances)
        queueing = None
        if limited or config.keys is not None:
            queueing = Queueing(slots, telemetry, config.queue_timeout_s, limited=limited)
        forwarder = Forwarder if self.callers is None else PermittedForwarder
        self._forwarder = forwarder(telemetry, config.retry, self.models.reread, queueing)
        self._stored: StoredResponses = StoredResponses(
            self.providers, previous._stored if previous is not None else None
        )
        self._inference = Inference(
            self.providers,
            self.models,
            self._forwarder,
            self._stored,
            config.body_limit_bytes,
            affinity=config.routing == "affinity",
        )
        self._at_once = self._inference.at_once
        self._operations = Operations(
            telemetry,
            self.providers,
            self.models,
            lambda: self.draining,
            slots,
            self.callers,
            addresses=not (config.metrics_public and config.needs_key),
            batches=config.batches.on,
            said=config.said,
        )
        router = Router(
            base_path=config.base_path or "/",
            passthrough=config.passthrough,
            passthrough_v1_alias=config.passthrough_v1_alias,
            passthrough_admin=config.passthrough_admin,
            metrics_path=config.metrics_path if config.metrics_enabled else None,
            metrics_public=config.metrics_public,
            batches=config.batches.on,
        )
        passthrough = Passthrough(self.providers, self._forwarder, config.passthrough_types, keyed=config.needs_key)
        self._handlers: dict[Kind, Handler] = {
            Kind.INFERENCE: self._inference.handle,
            Kind.RESPONSES: self._inference.stored_response,
            Kind.UNKNOWN: self._inference.unknown,
            Kind.SERVER: self._inference.server,
            Kind.PASSTHROUGH: passthrough.handle,
            Kind.REALTIME: Realtime(
                self.providers, self._forwarder, self._inference.choose, self._inference.placement
            ).handle,
            Kind.MODELS: self.model_list,
            Kind.MODEL: self.model,
            Kind.HEALTH: self.health,
            Kind.STATUS_PAGE: status_page,
            **self._operations.handlers,
        }
        self._batch_calls: BatchCalls | None = None
        if config.batches.on:
            self._batch_calls = BatchCalls(config, self.providers, telemetry)
            self._handlers[Kind.BATCHES] = self._operations.kept_usage = self._batch_calls.handle
        chain = Chain(config, telemetry, router, self.providers, self.callers)
        self._recording, self._checks, self._shared = chain.recording, chain.checks, chain.shared
        self.serve = chain.around(self._dispatch)
        self.serve_line = chain.around_lines(self._dispatch) if config.batches.on else self.serve
        self.refuse = chain.around(self._refuse)  # for clients there is no room for

    def begin(self, request: Request) -> bool:
        """Do at once what the chain does with a request: all that needs no waiting but for its body, in its order.

        True when it was sent to an instance, or will be when more of its body comes; `end` is for its answer then.
        Otherwise, and where `end` says so, `serve` goes on with what was begun, and there a refusal becomes an answer.
        """
        request.app = self
        self._recording.begin(request)
        if self.refusing or self._shared or request.route.kind is not _INFERENCE:
            return False
        try:
            if self._checks.answer(request) is not None:
                return False
            return self._at_once.begin(request)
        except Exception as exc:  # a bug as well
            request.refusal, request.reading = exc, None  # with which nobody goes on
            return False

    def end(self, request: Request) -> bool:
        """The answer to a request that was sent by `begin` is over; False when more has to follow."""
        if not self._forwarder.end(request.outgoing):
            return False
        self._recording.end(request)
        request.outgoing = None  # each knows the other
        return True

    def _refuse(self, request: Request) -> Awaitable[Reply | None]:
        if request.route.kind not in _OPERATORS:
            raise Overloaded("The gateway has too many clients.", code="connection_limit", retry_after_s=1)
        return self._dispatch(request)

    def _dispatch(self, request: Request) -> Awaitable[Reply | None]:
        outgoing, request.outgoing = request.outgoing, None
        if outgoing is not None:
            return self._forwarder.go_on(outgoing)
        if self.refusing and request.route.kind not in _OPERATORS:
            raise Overloaded("The gateway is shutting down.", code="draining", retry_after_s=5)
        handler = self._handlers.get(request.route.kind)
        if handler is None:
            raise NotFound("No such route.")
        return handler(request)

    async def model_list(self, request: Request) -> Reply:
        """GET /v1/models."""
        return Reply(200, await self.models.merged(_allows(request)))

    async def model(self, request: Request) -> Reply:
        """GET /v1/models/{id}."""
        return Reply(200, await self.models.one(request.route.id, _allows(request)))

    def counted(self) -> dict[str, Any]:
        """All numbers of this process, as a snapshot of the metrics."""
        return self._operations.counted()

    async def health(self, request: Request) -> Reply:
        """Alive; says nothing of instances. A probe of our own that comes back here is told so (RFC 5842 7.2)."""
        if request.fields.request_id == self.providers.network.mark:
            return Reply(508)
        return Reply(200, b'{"status":"ok"}')

    async def prepare(self) -> None:
        """Find the servers behind names before the first request, if that takes no longer than a moment."""
        await self.providers.discovery.first_answers()

    def start(self) -> None:
        """Begin what goes on in the background."""
        self.providers.discovery.start()
        self._wedged.start()
        if self._guard is not None:
            self._guard.start()
        self._operations.start()
        if self.callers is not None:
            self.callers.start()

    def _follow(self) -> None:
        self.models.follow()
        self._operations.follow()

    def stop(self) -> None:
        """End what goes on in the background; another app serves from now on."""
        self.providers.discovery.stop()
        self._wedged.stop()
        if self._guard is not None:
            self._guard.stop()
        self._operations.stop()
        if self.callers is not None:
            self.callers.stop()

    async def close(self, shared: Collection[Replica] = ()) -> None:
        """Give back what it holds, but for the replicas in `shared`, which another app goes on with."""
        if self.callers is not None:
            await self.callers.close()
        await self._wedged.close()
        if self._guard is not None:
            await self._guard.close()
        await self._operations.close()
        if self._batch_calls is not None:
            await self._batch_calls.close()
        await self.models.close()
        await self.providers.close(shared)


def _callers(config: Config, slots: Slots, previous: Callers | None) -> Callers | None:
    """Who is told apart by a key of their own; None where nobody is."""
    if config.keys is None:
        return None
    leases = None
    if config.redis_url is not None:
        earlier = previous.leases if previous is not None else None
        leases = Leases(config.redis_url, config.limits_without_redis, earlier, slots.renewed)
    return Callers(config.keys, config.master_keys, previous, leases)


def _allows(request: Request) -> Callable[[str, str], bool] | None:
    """What may be asked for, where that is not everything."""
    caller = request.caller
    return caller.allows if caller is not None and caller.entry.models else None
