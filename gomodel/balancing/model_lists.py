"""Each instance's model list: fetched in parallel, kept for a while, the last good one for ever; merged for clients.

Decides how old a list may get and what a dead instance offers (contract sections 1 and 5). Knows nothing of requests.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any, NamedTuple

from aiohttp import ClientConnectionError, ClientError, ClientTimeout
from yarl import URL

from ..config.settings import Config
from ..errors import Overloaded
from ..upstream.model_list import MODELS_LIMIT, ListError, listed
from ..upstream.replica import Replica
from .instances import Providers

_logger = logging.getLogger("gomodel")

# Whether a caller may ask an instance for a model.
Allows = Callable[[str, str], bool]

# An answer waits this long for lists at most; a slower instance's list arrives for the next one.
PATIENCE_S = 2.0
_FETCH_TIMEOUT_S = 10.0
# All callers with an unknown model share one refresh, and not more than one a second (contract section 4).
_UNKNOWN_INTERVAL_S = 1.0
_LIST_LIMIT_BYTES = 16 << 20
_UNAUTHORIZED = 401
# After so many entries of an answer others have their turn.
_ENTRIES_PER_TURN = 2000


class Entry(NamedTuple):
    """One model: its id as vLLM has it, and all that vLLM says of it as JSON, with the instance before the id.

    `bare` says the same with vLLM's id; it is empty where MODEL_IDS is `prefixed`.
    """

    id: str
    encoded: bytes
    bare: bytes


class ModelList:
    """One instance's entries."""

    def __init__(self, replica: Replica, *, allowlist: bool, bare: bool = False) -> None:
        self.replica = replica
        self._bare = bare
        self.learn(
            _entry(replica.name, {"id": model, "object": "model", "created": 0, "owned_by": "vllm"}, bare=bare)
            for model in replica.config.models
        )
        self.configured = allowlist and bool(self.entries)  # instead of the instance's own, which is not asked for
        self.since = monotonic()
        self.fetched_at: float | None = None
        self.missed_at = float("-inf")  # when a caller last waited for it in vain
        self.failing = False
        self.full = False  # it lists more than can be known
        self.task: asyncio.Task[None] | None = None

    def learn(self, entries: Iterable[Entry]) -> None:
        """What the instance lists; of two entries with one id the first counts."""
        self.entries: dict[str, Entry] = {}
        for entry in entries:
            self.entries.setdefault(entry.id, entry)
        self.encoded = b", ".join(entry.encoded for entry in self.entries.values())

    def go_on(self, previous: "ModelLists") -> None:
        """Take over what `previous` has read of the same instance."""
        for old in previous.lists:
            if old.replica is self.replica and not self.configured and not old.configured:
                if old.fetched_at is not None:
                    anew = self._bare and not old._bare
                    self.entries = {id: _with_bare(each) for id, each in old.entries.items()} if anew else old.entries
                    self.encoded, self.fetched_at, self.full = old.encoded, old.fetched_at, old.full
                self.missed_at, self.since, self.failing = old.missed_at, old.since, old.failing

    def publish(self) -> None:
        """Make these the models that the instance is chosen by."""
        self.replica.lists(self.entries)

    def age_s(self, now: float) -> float | None:
        """Since it was read, or since the start while it never was; None for one that is not asked for."""
        return None if self.configured else now - (self.since if self.fetched_at is None else self.fetched_at)


class ModelLists:
    """The lists of all instances."""

    def __init__(self, providers: Providers, config: Config, previous: "ModelLists | None" = None) -> None:
        """`previous`: the lists that these replace at a reload; those of unchanged instances stay known."""
        self._providers = providers
        allowlist = config.models_mode == "allowlist"
        self._refresh_s = config.models_refresh_s
        self._ids = config.model_ids
        self._unknown_at = float("-inf")
        self._unknown: asyncio.Task[None] | None = None
        self._news: asyncio.Future[None] | None = None  # done when a list has been read; while somebody waits for one
        self._replaced = False
        bare = self._ids != "prefixed"
        self.lists = [ModelList(each, allowlist=allowlist, bare=bare) for each in providers.replicas]
        if previous is not None:
            previous._replaced = True
            self._unknown_at = previous._unknown_at
            for each in self.lists:
                each.go_on(previous)
                each.publish()
            providers.index()

    async def merged(self, allows: Allows | None = None) -> bytes:
        """The body of GET /v1/models; of those that `allows` where it is given.

        Raises Overloaded (503) when nothing is known of any instance.
        """
        await self._refresh(self._refresh_s)
        self._require_something()
        if self._ids == "prefixed" and allows is None:
            parts = [each.encoded for each in self.lists if each.entries]
        else:
            parts = await self._renamed(allows)
        if self._providers.aliases is not None:
            aliases = self._providers.aliases.names.items()
            parts += [said for each in aliases if (said := self._alias(*each, allows))]
        return b'{"object": "list", "data": [%b]}' % b", ".join(parts)

    async def _renamed(self, allows: Allows | None) -> list[bytes]:
        """The entries under the ids that MODEL_IDS asks for; a bare id that several instances list comes once.

        One that begins like an instance's name keeps its prefix, for alone it would mean a model of that instance.
        """
        bare: dict[str, bytes] = {}
        prefixed = []
        only_prefixed, both = self._ids == "prefixed", self._ids == "both"
        for instance, entries in [(each.replica.name, each.entries) for each in self.lists]:
            for at, entry in enumerate(entries.values(), 1):
                if allows is None or allows(instance, entry.id):
                    misleading = only_prefixed or entry.id.partition("/")[0] in self._providers.instances
                    if not misleading:
                        bare.setdefault(entry.id, entry.bare)
                    if misleading or both:
                        prefixed.append(entry.encoded)
                if not at % _ENTRIES_PER_TURN:
                    await asyncio.sleep(0)
        return [*prefixed, *bare.values()]

    async def one(self, model_id: str, allows: Allows | None = None) -> bytes:
        """The body of GET /v1/models/{id}; `model_id` with its prefix, or a bare id; within PATIENCE_S.

        Of those that `allows` where it is given. Raises ModelNotFound or Overloaded.
        """
        aliases = self._providers.aliases
        if aliases is not None and model_id in aliases.names:
            await self._refresh(self._refresh_s)
            said = self._alias(model_id, aliases.names[model_id], allows)
            if said is None:
                raise self._providers.unknown(model_id)
            return said
        until = monotonic() + PATIENCE_S
        await self._refresh(self._refresh_s)
        found = self._find(model_id, allows)
        if found is None:
            await self.learn_unknown(lambda: self._find(model_id, allows), until)
            found = self._find(model_id, allows)
        if found is None:
            self._require_something()
            raise self._providers.unknown(model_id)
        return found

    async def learn_unknown(self, found: Callable[[], object], until: float | None = None) -> None:
        """Read all lists anew because a caller named a model that none holds; shared, at most once a second.

        Returns when it is `found`, whichever list is still to come, and no later than `until` by time.monotonic;
        without it after PATIENCE_S at most.
        """
        now = monotonic()
        if self._unknown is None and now - self._unknown_at >= _UNKNOWN_INTERVAL_S:
            self._unknown_at = now
            self._unknown = asyncio.create_task(self._refresh(0))
            self._unknown.add_done_callback(self._unknown_done)
        while self._unknown is not None and not found():
            left_s = None if until is None else until - monotonic()
            if left_s is not None and left_s <= 0:
                return
            self._news = self._news or asyncio.get_running_loop().create_future()
            await asyncio.wait((self._unknown, self._news), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)

    def keep_fresh(self, replica: Replica) -> None:
        """Read the list of an instance that was found alive when it got old, so that no request has to wait for it.

        One that refuses the gateway's key is asked each time, since that is how it is found out that it does no more.
        """
        now = monotonic()
        for each in self.lists:
            if each.replica is replica and each.task is None:
                old = each.fetched_at is None or now - each.fetched_at >= self._refresh_s
                if replica.health.key_doubted or (old and not each.configured):
                    each.task = asyncio.create_task(self._fetch(each))

    def reread(self, replica: Replica) -> None:
        """Read the list of an instance that did not have a model of it, at most once a second."""
        now = monotonic()
        for each in self.lists:
            recent = each.fetched_at is not None and now - each.fetched_at < _UNKNOWN_INTERVAL_S
            if each.replica is replica and each.task is None and not (recent or each.configured):
                each.task = asyncio.create_task(self._fetch(each))

    def _unknown_done(self, task: asyncio.Task[None]) -> None:
        self._unknown = None

    def _alias(self, alias: str, target: str, allows: Allows | None) -> bytes | None:
        """What is said of the model that an alias stands for, under that name; None of one that is not allowed."""
        said = self._find(target, allows)
        if said is None and allows is not None:
            return None
        known = json.loads(said) if said is not None else {"object": "model", "created": 0, "owned_by": "vllm"}
        return json.dumps({**known, "id": alias}).encode()

    def _find(self, model_id: str, allows: Allows | None) -> bytes | None:
        """What is said of a model under the id that was asked for, or prefixed where bare ids are not listed."""
        head, _, rest = model_id.partition("/")
        for each in self.lists:
            if each.replica.name == head and rest in each.entries and (allows is None or allows(head, rest)):
                return each.entries[rest].encoded
        for each in self.lists:
            entry = each.entries.get(model_id)
            if entry is not None and (allows is None or allows(each.replica.name, model_id)):
                return entry.encoded if self._ids == "prefixed" else entry.bare
        return None

    def _require_something(self) -> None:
        if not any(each.entries or each.fetched_at is not None for each in self.lists):
            raise Overloaded(
                "No instance's model list could be read yet.", code="no_instance_reachable", retry_after_s=5
            )

    async def _refresh(self, max_age_s: float) -> None:
        """Fetch what is older than `max_age_s`, waiting PATIENCE_S at most.

        An instance that was waited for in vain is not waited for again within CACHE_REFRESH_INTERVAL, so that one that
        hangs costs one caller in a while the patience, and not every caller.
        """
        now = monotonic()
        awaited = {}
        for each in self.lists:
            if each.configured:
                continue
            if each.task is None and (each.fetched_at is None or now - each.fetched_at >= max_age_s):
                each.task = asyncio.create_task(self._fetch(each))
            if each.task is not None and now - each.missed_at >= self._refresh_s:
                awaited[each.task] = each
        if awaited:
            _, late = await asyncio.wait(awaited, timeout=PATIENCE_S)
            for task in late:
                awaited[task].missed_at = monotonic()

    async def _fetch(self, each: ModelList) -> None:
        replica = each.replica
        key = replica.config.api_key  # a reload may give it another one meanwhile, of which this answer says nothing
        try:
            entries = await fetch_list(replica, bare=self._ids != "prefixed")
        except (ListError, ClientError, OSError, ValueError) as exc:  # ValueError: a host that is no name
            if isinstance(exc, ListError) and exc.status == _UNAUTHORIZED and replica.config.api_key == key:
                replica.health.refuse_key()
            # Once per outage: the lists are read again and again, and a wrong key stays wrong.
            if not each.failing:
                each.failing = True
                _logger.warning("The model list of instance %s cannot be read: %s", replica.name, _reason(exc))
            return
        finally:
            each.task = None
        if replica.config.api_key == key:
            replica.health.accept_key()
        if each.configured:
            return  # it was asked because of its key
        if each.failing:
            each.failing = False
            _logger.info("The model list of instance %s can be read again", replica.name)
        each.learn(entries)
        full = len(entries) == MODELS_LIMIT
        if full and not each.full:
            _logger.warning(
                "Instance %s lists %d models or more; those behind them are neither offered nor found without its name",
                replica.name,
                MODELS_LIMIT,
            )
        each.full = full
        each.fetched_at = monotonic()
        each.missed_at = float("-inf")
        if not self._replaced:  # after a reload the instance is shared, and the newer list counts
            each.publish()
        self._providers.index()
        if self._news is not None:
            self._news.set_result(None)
            self._news = None

    async def close(self) -> None:
        """Stop fetching."""
        tasks = [each.task for each in self.lists if each.task is not None]
        if self._unknown is not None:
            tasks.append(self._unknown)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


async def fetch_list(replica: Replica, *, bare: bool = False) -> list[Entry]:
    """Ask one instance. Raises ListError when it answers with no list; aiohttp.ClientError, OSError, TimeoutError."""
    headers = {"Accept": "application/json"}
    if replica.config.api_key is not None:
        headers["Authorization"] = f"Bearer {replica.config.api_key.reveal()}"
    url = URL(replica.server.base_url + "/models", encoded=True)
    timeout = ClientTimeout(total=_FETCH_TIMEOUT_S)
    async with replica.pool.session.get(url, headers=headers, timeout=timeout, allow_redirects=False) as response:
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
    """In ASCII: half a surrogate pair in one instance's list must not cost the lists of all. Raises ValueError."""
    model = said["id"]
    prefixed = json.dumps({**said, "id": f"{instance}/{model}"}, allow_nan=False).encode()
    return Entry(model, prefixed, json.dumps(said, allow_nan=False).encode() if bare else b"")


def _reason(failure: Exception) -> str:
    """What an operator may read of it; the text of another's exception may hold an address or a header."""
    if isinstance(failure, ListError):
        return str(failure)
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    return "the connection failed" if isinstance(failure, (ClientConnectionError, OSError)) else "no valid HTTP answer"
