"""An instance: a name, and the servers behind it, which are the same but for their addresses: its replicas.

Decides which replicas stay the same objects when their addresses change, by a reload or by a name that has others now,
and what all of them list together. Knows nothing of other instances, of requests or of when a name is looked up
(`discovery`).
"""

import asyncio
import logging
from dataclasses import replace
from urllib.parse import urlsplit

from ..config.settings import Config, InstanceConfig, Server
from ..telemetry.counters import ChunkGaps
from ..telemetry.logs import count
from ..upstream.name_sets import NameSet
from ..upstream.network import Network
from ..upstream.replica import OUT, Replica
from . import rotation
from .candidates import Candidates
from .rendezvous import seed

_logger = logging.getLogger("gomodel")

# A request waits so long for an instance without any, as it is after a reload until its name is answered.
FIRST_REPLICA_S = 1.0


class Instance:
    """A name and its replicas, in the order in which they were written; those of a name in that of their addresses."""

    def __init__(
        self, config: InstanceConfig, settings: Config, network: Network, gaps: ChunkGaps, previous: "Instance | None"
    ) -> None:
        """`previous`: the instance of this name before a reload; servers that are in both are the same objects."""
        self.config = config
        self.name = config.name
        self._settings = settings
        self._network = network
        self._gaps = gaps
        self._gathered: list[frozenset[str]] = []
        self.models: tuple[str, ...] = ()
        self.listed: frozenset[str] = frozenset()
        self.names: dict[str, NameSet] = {}  # by host, of which every address is a replica
        for server in config.servers:
            if server.every_address:
                host = urlsplit(server.base_url).hostname or ""
                self.names[host] = network.names.of(host)
        # Of those that list a model, and of each set of them.
        self._among: dict[str, Candidates] = {}
        self._sets: dict[tuple[Replica, ...], Candidates] = {}
        self._came: asyncio.Future[None] | None = None  # while somebody waits for the first replica
        self.replicas: list[Replica] = []
        # Without an address of theirs any more, and perhaps with requests that still run.
        self.leaving: list[Replica] = []
        if previous is not None:
            self.leaving = [*previous.replicas, *previous.leaving]
        self._adopt()
        if not self.names:
            self.leaving = []  # the app that is replaced closes them

    def follow_names(self) -> bool:
        """Have a replica at each address that its names have now; whether that changed anything."""
        before = self.replicas
        self.leaving = [*before, *self.leaving]
        self._adopt()
        came = [each.address for each in self.replicas if each not in before]
        left = [each.address for each in before if each not in self.replicas]
        if not (came or left):
            return False
        if self.replicas and self._came is not None:
            self._came.set_result(None)
            self._came = None
        changes = [*(f"+{address}" for address in came), *(f"-{address}" for address in left)]
        _logger.info("Instance %s has %s now: %s", self.name, count(len(self.replicas), "replica"), " ".join(changes))
        return True

    def _adopt(self) -> None:
        """Make `replicas` what there should be: of `leaving` those that still fit, and new ones."""
        known = {each.server: each for each in reversed(self.leaving) if not each.pool.closed}
        self.replicas = []
        for server in self._servers():
            replica = known.get(server)
            if replica is None or not replica.is_server_of(self.config, server):
                replica = Replica(self.config, server, self._settings, self._network, self._gaps)
                replica.seed = seed(replica.identity)
            elif replica.config is not self.config:
                replica.configure(self.config, self._settings)
            self.replicas.append(replica)
        self._among, self._sets = {}, {}
        self.keep_out()
        stay = set(self.replicas)
        self.leaving = [each for each in self.leaving if each not in stay and not each.pool.closed]

    def _servers(self) -> list[Server]:
        found: dict[Server, None] = {}
        for server in self.config.servers:
            if server.every_address:
                host = urlsplit(server.base_url).hostname or ""
                for number in self.names[host].addresses:
                    found[replace(server, every_address=False, number=number)] = None
            else:
                found[server] = None
        return list(found)

    def keep_out(self) -> None:
        """Bar the replicas that are out of rotation, and those alone."""
        for replica in self.replicas:
            replica.bar(OUT, rotation.shared.is_out(self.name, replica.address))

    def among(self, model: str) -> Candidates:
        """The replicas that list `model`, or all where none does."""
        return self._among.get(model) or self._find_among(model)

    def _find_among(self, model: str) -> Candidates:
        replicas = tuple([each for each in self.replicas if model in each.listed] or self.replicas)
        found = self._sets.get(replicas)
        if found is None:
            found = self._sets[replicas] = Candidates(replicas)
        if model in self.listed:  # clients may ask for any others
            self._among[model] = found
        return found

    async def first_replica(self) -> None:
        """Return when there is one, and after FIRST_REPLICA_S in any case: its name may be being asked."""
        if not self.replicas:
            self._came = self._came or asyncio.get_running_loop().create_future()
            await asyncio.wait({self._came}, timeout=FIRST_REPLICA_S)

    async def close_left(self) -> None:
        """Close the connections of replicas that left, once what ran there is over."""
        for replica in self.leaving:
            if not replica.requests.own:
                await replica.close()
        self.leaving = [each for each in self.leaving if not each.pool.closed]

    def gather(self) -> None:
        """List what its replicas list, each model once; the same object while none of theirs is another."""
        lists = [each.listed for each in self.replicas]
        if list(map(id, lists)) == list(map(id, self._gathered)):
            return
        self._gathered = lists
        self._among, self._sets = {}, {}
        if len(lists) == 1:
            self.models, self.listed = self.replicas[0].models, lists[0]
        else:
            self.models = tuple(dict.fromkeys(model for each in self.replicas for model in each.models))
            self.listed = frozenset(self.models)

    @property
    def in_flight(self) -> int:
        """How many requests its replicas serve for all workers of this host."""
        return sum(each.in_flight for each in self.replicas)
