"""What one replica lists: its models as clients are told of them, read from its answer to GET /v1/models.

Decides how an entry is worded and which of two with one id counts. Knows nothing of when a list is read
(`model_lists`) or of the lists of others (`merged_models`).
"""

import asyncio
import json
from collections.abc import Iterable
from time import monotonic
from typing import Any, NamedTuple

from ..upstream.model_list import ListError, listed
from ..upstream.own_requests import ask
from ..upstream.replica import Replica

_FETCH_LIMIT_S = 10.0
_LIST_LIMIT_BYTES = 16 << 20


class Entry(NamedTuple):
    """One model: its id as vLLM has it, and all that vLLM says of it as JSON, with the instance before the id.

    `bare` says the same with vLLM's id; it is empty where MODEL_IDS is `prefixed`.
    """

    id: str
    encoded: bytes
    bare: bytes


class ModelList:
    """One replica's entries."""

    def __init__(self, replica: Replica, *, allowlist: bool, bare: bool = False) -> None:
        self.replica = replica
        self._bare = bare
        self.learn(
            _entry(replica.name, {"id": model, "object": "model", "created": 0, "owned_by": "vllm"}, bare=bare)
            for model in replica.config.models
        )
        self.configured = allowlist and bool(self.entries)  # instead of the replica's own, which is not asked for
        self.since = monotonic()
        self.fetched_at: float | None = None
        self.missed_at = float("-inf")  # when a caller last waited for it in vain
        self.failing = False
        self.full = False  # it lists more than can be known
        self.task: asyncio.Task[None] | None = None

    def learn(self, entries: Iterable[Entry]) -> None:
        """What the replica lists; of two entries with one id the first counts."""
        self.entries: dict[str, Entry] = {}
        for entry in entries:
            self.entries.setdefault(entry.id, entry)
        self.encoded = b", ".join(entry.encoded for entry in self.entries.values())

    def go_on(self, old: "ModelList") -> None:
        """Take over what was read of the same replica before a reload."""
        if self.configured or old.configured:
            return
        if old.fetched_at is not None:
            anew = self._bare and not old._bare
            self.entries = {id: _with_bare(each) for id, each in old.entries.items()} if anew else old.entries
            self.encoded, self.fetched_at, self.full = old.encoded, old.fetched_at, old.full
        self.missed_at, self.since, self.failing = old.missed_at, old.since, old.failing

    def publish(self) -> None:
        """Make these the models that the replica is chosen by."""
        self.replica.lists(self.entries)

    def age_s(self, now: float) -> float | None:
        """Since it was read, or since the start while it never was; None for one that is not asked for."""
        return None if self.configured else now - (self.since if self.fetched_at is None else self.fetched_at)


async def fetch_list(replica: Replica, *, bare: bool = False) -> list[Entry]:
    """Ask one replica. Raises ListError when it answers with no list, else as `own_requests.ask`."""
    async with ask(replica, "/models", limit_s=_FETCH_LIMIT_S, accept="application/json") as response:
        if response.status != 200:
            raise ListError(f"status {response.status}", response.status)
        body = bytearray()
        while piece := await response.content.read(_LIST_LIMIT_BYTES):
            body += piece
            if len(body) > _LIST_LIMIT_BYTES:
                raise ListError("the list is too large")
    entries = []
    async for said in listed(body):
        try:
            entries.append(_entry(replica.name, said, bare=bare))
        except (ValueError, RecursionError):
            pass  # a number over all bounds (1e400), or nesting that could just be read: not to be said in JSON
    return entries


def _with_bare(entry: Entry) -> Entry:
    return entry._replace(bare=json.dumps({**json.loads(entry.encoded), "id": entry.id}).encode())


def _entry(instance: str, said: dict[str, Any], *, bare: bool) -> Entry:
    """In ASCII: half a surrogate pair in one replica's list must not cost the lists of all. Raises ValueError."""
    model = said["id"]
    prefixed = json.dumps({**said, "id": f"{instance}/{model}"}, allow_nan=False).encode()
    return Entry(model, prefixed, json.dumps(said, allow_nan=False).encode() if bare else b"")
