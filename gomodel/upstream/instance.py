"""One vLLM server: its address and key, its connections, and what is known of its health, its models and its load.

Decides whether a configuration still describes this server, and its rank among others. Knows nothing of the others.
"""

from collections.abc import Iterable
from dataclasses import replace
from random import random
from urllib.parse import urlsplit

from ..config.settings import Config, InstanceConfig
from ..telemetry.counters import Histogram
from . import host_counts
from .breaker import Breaker
from .demotion import Demotion
from .health import Health, State
from .network import Network
from .pool import Pool

_LAST = (State.DOWN, State.DRAINING)


class Instance:
    """One vLLM server."""

    def __init__(self, config: InstanceConfig, settings: Config, network: Network) -> None:
        self.config = config
        self.name = config.name
        self.label = config.name.encode()
        url = self.url = urlsplit(config.base_url)
        self.base_path = url.path
        self.root_path = url.path.removesuffix("/v1")
        self.own_fields = _own_fields(config)
        self.pool = Pool(config, settings.timeouts, network, len(settings.instances))
        self.breaker = Breaker(settings.breaker, config.name)
        self.health = Health(config.name)
        self.demotion = Demotion()
        # The address as well: a server is what is counted, and a reload may give its name to another one.
        self.requests = host_counts.shared.counter(f"{config.name} {config.base_url}")
        self.lists(config.models)
        self.gaps = Histogram()

    def is_server_of(self, config: InstanceConfig) -> bool:
        """Whether `config` describes this server, of which everything known stays true at a reload.

        A key and a list of models are no part of a server.
        """
        return replace(self.config, api_key=config.api_key, models=config.models) == config

    def configure(self, config: InstanceConfig, settings: Config) -> None:
        """Go on by other settings, from the next connect, failure or request on."""
        if config.api_key != self.config.api_key:
            self.health.key_refused = False  # what is known of another key says nothing of this one
        self.config = config
        self.own_fields = _own_fields(config)
        self.pool.configure(settings.timeouts, len(settings.instances))
        self.breaker.configure(settings.breaker)

    @property
    def in_flight(self) -> int:
        """How many requests it serves for all workers of this host."""
        return self.requests.total

    def rank(self, now: float) -> tuple[int, int, float]:
        """Its place among the candidates of a request, the least first; `now` is time.monotonic.

        One that takes no work, or fails at once, is the idlest of all: that must not attract more.
        """
        useless = self.health.state in _LAST or self.health.key_refused
        order = 2 if useless else 1 if self.demotion.until > now else 0
        return order, self.requests.total, random()

    def lists(self, models: Iterable[str]) -> None:
        """These are the models that the server lists, in its order; one that it names twice is one model."""
        self.models = tuple(dict.fromkeys(models))
        self.listed = frozenset(self.models)

    async def close(self) -> None:
        """Close its connections."""
        self.requests.release()
        await self.pool.close()


def _own_fields(config: InstanceConfig) -> bytes:
    """The lines of a request head that are the instance's own."""
    fields = b"Host: %b\r\n" % urlsplit(config.base_url).netloc.encode()
    if config.api_key is not None:
        fields += b"Authorization: Bearer %b\r\n" % config.api_key.reveal().encode()
    return fields
