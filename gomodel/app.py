"""Routes to handlers, in reading order; composes the chain once.

Decides what each kind of route does with a request. Knows nothing of sockets, signals or processes.
"""

import re
from collections.abc import Awaitable, Collection
from urllib.parse import parse_qs, unquote

from .balancing.choice import Choice
from .balancing.instances import Providers
from .balancing.model_lists import ModelLists
from .balancing.stored_responses import Affinity
from .config.load import Config
from .cross_origin import own_pages, preflights, sharing
from .downstream.body import RequestBody
from .downstream.request import Handler, Reply, Request
from .errors import ClientError, ModelRequired, NotFound, Overloaded
from .http1.forwarded import TrustedProxies
from .http1.origins import Origins, is_loopback
from .middleware import allowed, compose, errors, master_key, recording, sanity
from .operations.handlers import Operations
from .operations.status_page import status_page
from .relay.forward import Forwarder
from .relay.inference import Inference
from .relay.outgoing import Outgoing
from .relay.tunnel import UPGRADE, Tunnel, require_websocket, wants_websocket
from .routes.router import Kind, Router
from .selector.realtime_event import SessionUpdate
from .telemetry.counters import Telemetry
from .upstream.instance import Instance
from .upstream.network import Network

_UNLIMITED = 1 << 62
_QUERY_FIELDS = 1000  # each costs a microsecond
_SLASH = re.compile("/|%2[Ff]")
# Served to the end of a drain, since whoever waits for it wants to know what it waits for, and where clients are turned
# away: a process that is alive must not be restarted for having many of them.
_OPERATORS = frozenset({Kind.HEALTH, Kind.READY, Kind.METRICS, Kind.ADMIN_REQUESTS, Kind.STATUS_PAGE})


class App:
    """Everything one configuration makes; a reload builds another and lets this one's requests end."""

    def __init__(
        self, config: Config, telemetry: Telemetry, previous: "App | None" = None, network: Network | None = None
    ) -> None:
        """`previous` is the app that this one replaces at a reload; what is known of servers that stay stays known."""
        self.config = config
        self.draining = False  # not ready any more
        self.refusing = False  # draining for so long that what comes now gets 503
        self.providers: Providers = Providers(config, previous.providers if previous is not None else None, network)
        self.models: ModelLists = ModelLists(self.providers, config, previous.models if previous is not None else None)
        self._forwarder = Forwarder(self.providers, telemetry, config.retry, self.models.reread)
        self._affinity: Affinity = Affinity(self.providers, previous._affinity if previous is not None else None)
        self._inference = Inference(
            self.providers, self.models, self._forwarder, self._affinity, config.body_limit_bytes
        )
        self._operations = Operations(telemetry, self.providers, self.models, lambda: self.draining)
        router = Router(
            base_path=config.base_path or "/",
            passthrough=config.passthrough,
            passthrough_v1_alias=config.passthrough_v1_alias,
            passthrough_admin=config.passthrough_admin,
            metrics_path=config.metrics_path if config.metrics_enabled else None,
            metrics_public=config.metrics_public,
        )
        self._handlers: dict[Kind, Handler] = {
            Kind.INFERENCE: self._inference.handle,
            Kind.RESPONSES: self._inference.stored_response,
            Kind.UNKNOWN: self._inference.unknown,
            Kind.SERVER: self._inference.server,
            Kind.PASSTHROUGH: self.passthrough,
            Kind.REALTIME: self.realtime,
            Kind.MODELS: self.model_list,
            Kind.MODEL: self.model,
            Kind.HEALTH: self.health,
            Kind.STATUS_PAGE: status_page(config.metrics_path if config.metrics_enabled else None),
            **self._operations.handlers,
        }
        strip = frozenset(name.encode() for name in config.strip_request_headers)
        proxies = TrustedProxies(config.forwarded_allow_ips) if config.forwarded_allow_ips else None
        origins = Origins(config.cors_allow_origins) if config.cors_allow_origins else None
        if config.master_key is not None:
            door = master_key(config.master_key)
        else:
            door = own_pages(origins, loopback=config.port is not None and is_loopback(config.host))
        layers = [
            recording(telemetry, router, self.providers, strip, proxies),
            *([sharing(origins)] if origins is not None else []),
            errors,
            sanity,
            *([preflights(origins)] if origins is not None else []),
            door,
            allowed,
        ]
        self.serve = compose(self._dispatch, layers)
        self.refuse = compose(self._refuse, layers)  # for clients there is no room for

    def _refuse(self, request: Request) -> Awaitable[Reply | None]:
        if request.route.kind not in _OPERATORS:
            raise Overloaded("The gateway has too many clients.", code="connection_limit", retry_after_s=1)
        return self._dispatch(request)

    def _dispatch(self, request: Request) -> Awaitable[Reply | None]:
        if self.refusing and request.route.kind not in _OPERATORS:
            raise Overloaded("The gateway is shutting down.", code="draining", retry_after_s=5)
        handler = self._handlers.get(request.route.kind)
        if handler is None:
            raise NotFound("No such route.")
        return handler(request)

    async def passthrough(self, request: Request) -> None:
        """To the instance in the path, whatever it is (contract section 6)."""
        provider = request.route.provider
        if "vllm" not in self.config.passthrough_types:
            raise NotFound("Passthrough to vLLM is disabled: ENABLED_PASSTHROUGH_PROVIDERS does not name vllm.")
        instance: Instance | None = self.providers.by_type(provider, self.config.passthrough_types)
        if instance is None:
            names = ", ".join(self.providers.instances)
            raise NotFound(f"No instance is named {provider!r}; there are: {names}.")
        choice = Choice([instance], "", bound=True)
        if wants_websocket(request):
            await self._forwarder.forward(Outgoing(request, choice, b"", relay=Tunnel, upgrade=UPGRADE))
            return
        body = RequestBody(request, _UNLIMITED)
        held = body.held()
        rest = None if body.exhausted else body
        replayable = request.route.replayable or request.method in ("GET", "HEAD", "OPTIONS")
        outgoing = Outgoing(request, choice, held, rest, replayable=replayable)
        del held  # `outgoing` lets go of it when it is sent
        await self._forwarder.forward(outgoing)

    async def realtime(self, request: Request) -> None:
        """The WebSocket /v1/realtime, by the `model` of its query (contract section 5).

        Where the session's first event may name an instance, which has to be cut off there, no extension is offered to
        vLLM: compressed (RFC 7692) the event could not be read. With a bare model in the query nothing is cut.
        """
        require_websocket(request)
        path, _, query = request.route.tail.partition("?")
        selectors = _selectors(query)
        only = self.providers.only
        if selectors:
            choice = await self._inference.choose(selectors[0])
        elif only is not None:
            choice = Choice([only], "", bound=False)
        else:
            raise ModelRequired("Name the model in the query: /v1/realtime?model=<instance>/<model>.")
        request.record.model = choice.model
        if choice.bound:
            query = _without_prefix(query)
        if choice.bound or not selectors:
            fields = request.fields
            fields.forwarded = [each for each in fields.forwarded if each[0].lower() != b"sec-websocket-extensions"]
        outgoing = Outgoing(request, choice, b"", relay=_realtime_tunnel, upgrade=UPGRADE)
        outgoing.tail = f"{path}?{query}" if query else path
        await self._forwarder.forward(outgoing)

    async def model_list(self, request: Request) -> Reply:
        """GET /v1/models."""
        return Reply(200, await self.models.merged())

    async def model(self, request: Request) -> Reply:
        """GET /v1/models/{id}."""
        return Reply(200, await self.models.one(request.route.id))

    async def health(self, request: Request) -> Reply:
        """Alive; says nothing of instances. A probe of our own that comes back here is told so (RFC 5842 7.2)."""
        if request.fields.request_id == self.providers.network.mark:
            return Reply(508)
        return Reply(200, b'{"status":"ok"}')

    def start(self) -> None:
        """Begin what goes on in the background."""
        self._operations.start()

    def stop(self) -> None:
        """End what goes on in the background; another app serves from now on."""
        self._operations.stop()

    async def close(self, shared: Collection[Instance] = ()) -> None:
        """Give back what it holds, but for the instances in `shared`, which another app goes on with."""
        await self._operations.close()
        await self.models.close()
        await self.providers.close(shared)


def _selectors(query: str) -> list[str]:
    """The `model` of a query, its name escaped or not, or nothing. Raises ClientError for a second one."""
    try:
        given = parse_qs(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS).get("model", [])
    except ValueError:
        raise ClientError(f"The query has more than {_QUERY_FIELDS} fields.") from None
    if len(given) > 1:
        raise ClientError("The query has a second `model`: servers disagree on which one counts.")
    return [each for each in given if each]


def _without_prefix(query: str) -> str:
    """The query without the instance in the `model` that was read, its first; every other byte stays as it is."""
    parts = query.split("&")
    for at, part in enumerate(parts):
        name, _, value = part.partition("=")
        slash = _SLASH.search(value)
        if slash and unquote(name) == "model":
            parts[at] = f"{name}={value[slash.end() :]}"
            break
    return "&".join(parts)


def _realtime_tunnel(request: Request, instance: Instance) -> Tunnel:
    return Tunnel(request, instance, SessionUpdate(instance.name))
