"""One vLLM server: its address, its connections, and what is known of its health, its models and its load.

Decides whether a configuration still describes this server, and its rank among others. Knows nothing of the others,
nor of the instance but its name and settings (`balancing.instance`).
"""

import logging
from collections.abc import Callable, Iterable
from time import monotonic
from urllib.parse import urlsplit

from ..config.settings import Config, InstanceConfig, Server
from ..telemetry.counters import ChunkGaps
from . import host_counts
from .breaker import Breaker
from .demotion import Demotion
from .health import Health, State
from .network import Network
from .pool import Pool
from .ranks import Ranks

_logger = logging.getLogger("gomodel")

_LAST = (State.DOWN, State.DRAINING)

# Why a replica gets no requests although it may answer; operators read these words.
OUT = "out_of_rotation"
ASLEEP = "asleep"
WEDGED = "wedged"
DIFFERS = "differs"  # `kept_back`, which bars nothing
_SAID = {
    OUT: ("is out of rotation and gets no requests", "is in rotation again"),
    ASLEEP: ("is asleep and gets no requests until it wakes up", "is asleep no longer"),
    WEDGED: ("answers nothing any more and gets no requests until it does", "answers again"),
}


class Replica:
    """One vLLM server of an instance."""

    def __init__(
        self, config: InstanceConfig, server: Server, settings: Config, network: Network, gaps: ChunkGaps
    ) -> None:
        """`config` is its instance's; `gaps` are all gaps of the process, to which its own belong."""
        self.config = config
        self.server = server
        self.name = config.name
        # What ends the head of each of its answers, behind the request's id.
        self.provider_lines = b"\r\nX-GoModel-Provider: %b\r\n\r\n" % config.name.encode()
        self.address = server.address
        url = self.url = urlsplit(server.base_url)
        self.base_path = url.path
        self.root_path = url.path.removesuffix("/v1")
        self.identity = self.address + self.base_path  # the same in every gateway that was told of it alike
        self.seed = 0  # by which conversations rank it, once somebody has said it
        self.own_fields = _own_fields(config, server)
        self.pool = Pool(config, server, settings.timeouts, network, settings.servers)
        self.breaker = Breaker(settings.breaker)
        self.health = Health(config.name)
        self._name_it()
        self.demotion = Demotion()
        # The address as well: a server is what is counted, and a reload may give its name to another one.
        self.key = f"{config.name} {server}"  # the same in all workers
        self.requests = host_counts.shared.counter(self.key)
        self.answers = 0  # that went to clients, whole or broken off
        self.on_unreachable: Callable[[], None] | None = None
        self.ranks: Ranks | None = None
        self._rank_it()
        self._bars: dict[str, float] = {}
        self.barred = ""  # why it is no candidate, "" while it is one
        self.differs: tuple[str, ...] = ()  # in what from others that take the same requests (REPLICA_GUARD)
        self.kept_back = False  # for that reason it gets only what no other takes
        self.lists(config.models)
        self._all_gaps = gaps
        self.gaps = gaps.begin(config.name)

    def is_server_of(self, config: InstanceConfig, server: Server) -> bool:
        """Whether `server` of `config` is this server, of which everything known stays true at a reload.

        A key and a list of models are no part of a server.
        """
        return self.server == server and self.name == config.name and self.config.ca_pem == config.ca_pem

    def configure(self, config: InstanceConfig, settings: Config) -> None:
        """Go on by other settings, from the next connect, failure or request on."""
        if config.api_key != self.config.api_key:
            self.health.change_key()
        self.config = config
        self._name_it()
        self._rank_it()
        self.own_fields = _own_fields(config, self.server)
        self.pool.configure(settings.timeouts, settings.servers)
        self.breaker.configure(settings.breaker)

    def failed(self, code: str, *, probe: bool = False) -> None:
        """It took no request, or no `probe`, for the reason `code`; its name may have other addresses now."""
        self.health.failed(code, probe=probe)
        if self.on_unreachable is not None:
            self.on_unreachable()

    def _rank_it(self) -> None:
        """Count by as many ranks as there are; `plain`: its heads have nothing but what every instance's have."""
        number = self.config.dp_ranks
        if number != (0 if self.ranks is None else len(self.ranks.counts)):
            self.ranks = Ranks(number) if number else None
        self.plain = not (number or self.config.fields)

    def _name_it(self) -> None:
        """Say in the log which one is meant where the instance may have several."""
        self.several = self.config.several
        self.shown_address = self.address if self.several else ""
        self.title = f"{self.name} ({self.address})" if self.several else self.name
        self.health.title = self.breaker.title = self.title

    def bar(self, why: str, barred: bool) -> None:
        """Keep requests away from it for this reason, or no more for this one."""
        if barred is (why in self._bars):
            return
        if barred:
            self._bars[why] = monotonic()
        else:
            del self._bars[why]
        self.barred = next((each for each in _SAID if each in self._bars), "")
        begins, ends = _SAID[why]
        if barred:
            _logger.warning("Instance %s %s", self.title, begins)
        else:
            _logger.info("Instance %s %s", self.title, ends)

    @property
    def barred_at(self) -> float:
        """Since when, by time.monotonic, it is barred for the reason that `barred` says."""
        return self._bars.get(self.barred, 0.0)

    def is_barred(self, why: str) -> bool:
        """Whether requests are kept away from it for this reason."""
        return why in self._bars

    @property
    def in_flight(self) -> int:
        """How many requests it serves for all workers of this host."""
        return self.requests.total

    @property
    def unblemished(self) -> bool:
        """Whether nothing at all is held against it, as nearly always: no clock is needed to see that."""
        return (
            self.health.settled and self.breaker.closed and not (self.barred or self.kept_back or self.demotion.until)
        )

    def standing(self, now: float) -> int:
        """Behind how many kinds of others it stands among the candidates of a request; `now` is time.monotonic.

        One that takes no work, or fails at once, is the idlest of all: that must not attract more.
        """
        if self.barred or self.health.state in _LAST or self.health.key_refused:
            return 3
        return 2 if self.kept_back else 1 if self.demotion.until > now else 0

    def lists(self, models: Iterable[str]) -> None:
        """These are the models that the server lists, in its order; one that it names twice is one model."""
        self.models = tuple(dict.fromkeys(models))
        self.listed = frozenset(self.models)

    async def close(self) -> None:
        """Close its connections."""
        self.requests.release()
        self._all_gaps.end(self.name, self.gaps)
        await self.pool.close()


def _own_fields(config: InstanceConfig, server: Server) -> bytes:
    """The lines of a request head that are the instance's own."""
    fields = b"Host: %b\r\n" % urlsplit(server.base_url).netloc.encode()
    if config.api_key is not None:
        fields += b"Authorization: Bearer %b\r\n" % config.api_key.reveal().encode()
    return fields
