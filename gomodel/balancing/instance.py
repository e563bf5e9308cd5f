"""An instance: a name, and the servers behind it, which are the same but for their addresses: its replicas.

Decides which replicas stay the same objects at a reload, and what all of them list together. Knows nothing of other
instances or of requests.
"""

from ..config.settings import Config, InstanceConfig
from ..telemetry.counters import ChunkGaps
from ..upstream.network import Network
from ..upstream.replica import Replica


class Instance:
    """A name and its replicas, in the order in which they were written."""

    def __init__(
        self, config: InstanceConfig, settings: Config, network: Network, gaps: ChunkGaps, previous: "Instance | None"
    ) -> None:
        """`previous`: the instance of this name before a reload; servers that are in both are the same objects."""
        self.config = config
        self.name = config.name
        known = {each.server: each for each in previous.replicas} if previous is not None else {}
        self.replicas: list[Replica] = []
        for server in config.servers:
            replica = known.get(server)
            if replica is not None and replica.is_server_of(config, server):
                replica.configure(config, settings)
            else:
                replica = Replica(config, server, settings, network, gaps)
            self.replicas.append(replica)
        self._gathered: list[frozenset[str]] = []
        self.models: tuple[str, ...] = ()
        self.listed: frozenset[str] = frozenset()

    def gather(self) -> None:
        """List what its replicas list, each model once; the same object while none of theirs is another."""
        lists = [each.listed for each in self.replicas]
        if list(map(id, lists)) == list(map(id, self._gathered)):
            return
        self._gathered = lists
        if len(lists) == 1:
            self.models, self.listed = self.replicas[0].models, lists[0]
        else:
            self.models = tuple(dict.fromkeys(model for each in self.replicas for model in each.models))
            self.listed = frozenset(self.models)

    @property
    def in_flight(self) -> int:
        """How many requests its replicas serve for all workers of this host."""
        return sum(each.in_flight for each in self.replicas)
