"""The chain that every request passes, as one configuration composes it: record -> errors -> checks -> handler.

Decides who stands at the door, and which checks there are in which order; what each layer does is in `middleware`,
`checks` and `cross_origin`. Knows nothing of handlers, which are `app`'s.
"""

from .access.callers import Callers
from .access.rights import known_caller
from .balancing.instances import Providers
from .checks import CallerChecks, CallerLineChecks, Check, Checks, LineChecks, allowed, master_key, on_behalf, sanity
from .config.settings import Config
from .cross_origin import own_pages, preflights, sharing
from .downstream.request import Handler
from .http1.forwarded import TrustedProxies
from .http1.origins import Origins, is_loopback
from .middleware import Middleware, Recording, compose, errors
from .relay.digest import EVERY, sampling
from .routes.router import Router
from .telemetry.counters import Telemetry

_PRIORITY = b"x-vllm-priority"


class Chain:
    """The layers, for the handlers that they are to be set `around`; `App.begin` calls the first and last of them."""

    def __init__(
        self, config: Config, telemetry: Telemetry, router: Router, providers: Providers, callers: Callers | None
    ) -> None:
        """`callers` None: none are told apart."""
        self._config = config
        self._callers = callers
        self._known_by = telemetry, router, providers
        self._sample = None if config.digest == "off" else sampling(1 if config.digest == "all" else EVERY)
        strip = frozenset(name.encode() for name in config.strip_request_headers)
        self._strip_of_lines = strip - {_PRIORITY}
        if callers is not None:
            strip |= {_PRIORITY}  # who comes first is for the keys file to say
        proxies = TrustedProxies(config.forwarded_allow_ips) if config.forwarded_allow_ips else None
        self.recording = Recording(*self._known_by, strip, config.session_headers, proxies, self._sample)
        origins = Origins(config.cors_allow_origins) if config.cors_allow_origins else None
        if callers is not None:
            door: Check = known_caller(callers)
        elif config.master_keys:
            door = master_key(config.master_keys)
        else:
            door = own_pages(origins, loopback=config.port is not None and is_loopback(config.host))
        checks = [sanity, *([preflights(origins)] if origins is not None else []), door, allowed]
        self.checks = Checks(checks) if callers is None else CallerChecks(checks, callers)
        self.shared = origins is not None  # with pages of other origins, whose answers say so
        shared = [sharing(origins)] if origins is not None else []
        self._layers: list[Middleware] = [self.recording, *shared, errors, self.checks]

    def around(self, handler: Handler) -> Handler:
        """The handler behind all layers."""
        return compose(handler, self._layers)

    def around_lines(self, handler: Handler) -> Handler:
        """The same for lines of batches, which come over a socket of the gateway's own, and with whose they are."""
        config, callers = self._config, self._callers
        record = Recording(*self._known_by, self._strip_of_lines, config.session_headers, sample=self._sample)
        if callers is None:
            return compose(handler, [record, errors, LineChecks([sanity, allowed])])
        return compose(handler, [record, errors, CallerLineChecks([sanity, on_behalf(callers), allowed], callers)])
