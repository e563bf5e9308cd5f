"""Each replica's model list: fetched in parallel, kept for a while, the last good one for ever.

Decides how old a list may get and what a dead replica offers (contract sections 1 and 5). What is in a list is
`model_entries`', what clients are told of all of them `merged_models`'. Knows nothing of requests.
"""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from time import monotonic

from aiohttp import ClientConnectionError

from ..config.settings import Config
from ..errors import Overloaded
from ..upstream.model_list import MODELS_LIMIT, ListError
from ..upstream.own_requests import FAILURES
from ..upstream.replica import Replica
from .instances import Providers
from .merged_models import Allows, MergedModels
from .model_entries import ModelList, fetch_list

_logger = logging.getLogger("gomodel")

# An answer waits this long for lists at most; a slower instance's list arrives for the next one.
PATIENCE_S = 2.0
# All callers with an unknown model share one refresh, and not more than one a second (contract section 4).
_UNKNOWN_INTERVAL_S = 1.0
_UNAUTHORIZED = 401


class ModelLists:
    """The lists of all instances."""

    def __init__(self, providers: Providers, config: Config, previous: "ModelLists | None" = None) -> None:
        """`previous`: the lists that these replace at a reload; those of unchanged instances stay known."""
        self._providers = providers
        self._refresh_s = config.models_refresh_s
        self._bare = config.model_ids != "prefixed"
        self._merged = MergedModels(config.model_ids, providers.instances)
        self._unknown_at = float("-inf")
        self._unknown: asyncio.Task[None] | None = None
        self._news: asyncio.Future[None] | None = None  # done when a list has been read; while somebody waits for one
        self._replaced = False
        self._allowlist = config.models_mode == "allowlist"
        self._left: list[ModelList] = []  # of replicas that left and may come back
        self.lists = [self._new(each) for each in providers.replicas]
        if previous is not None:
            previous._replaced = True
            self._unknown_at = previous._unknown_at
            known = {each.replica: each for each in previous.lists}
            for each in self.lists:
                if each.replica in known:
                    each.go_on(known[each.replica])
                each.publish()
            providers.index()

    def _new(self, replica: Replica) -> ModelList:
        return ModelList(replica, allowlist=self._allowlist, bare=self._bare)

    def follow(self) -> None:
        """Some replicas came or left; the list of one that comes is read by the first probe that finds it alive."""
        known = {each.replica: each for each in (*self.lists, *self._left)}
        self.lists = [known.get(each) or self._new(each) for each in self._providers.replicas]
        stay = set(self.lists)
        self._left = [each for each in known.values() if each not in stay and not each.replica.pool.closed]

    async def merged(self, allows: Allows | None = None) -> bytes:
        """The body of GET /v1/models; of those that `allows` where it is given.

        Raises Overloaded (503) when nothing is known of any instance.
        """
        await self._refresh(self._refresh_s)
        self._require_something()
        data = await self._merged.data(self.lists, allows)
        if self._providers.aliases is not None:
            aliases = self._providers.aliases.names.items()
            more = [said for each in aliases if (said := self._merged.alias(self.lists, *each, allows))]
            data = b", ".join([*([data] if data else []), *more])
        return b'{"object": "list", "data": [%b]}' % data

    async def one(self, model_id: str, allows: Allows | None = None) -> bytes:
        """The body of GET /v1/models/{id}; `model_id` with its prefix, or a bare id; within PATIENCE_S.

        Of those that `allows` where it is given. Raises ModelNotFound or Overloaded.
        """
        aliases = self._providers.aliases
        if aliases is not None and model_id in aliases.names:
            await self._refresh(self._refresh_s)
            said = self._merged.alias(self.lists, model_id, aliases.names[model_id], allows)
            if said is None:
                raise self._providers.unknown(model_id)
            return said
        until = monotonic() + PATIENCE_S
        await self._refresh(self._refresh_s)
        find = partial(self._merged.find, self.lists, model_id, allows)
        found = find()
        if found is None:
            await self.learn_unknown(find, until)
            found = find()
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
            entries = await fetch_list(replica, bare=self._bare)
        except (ListError, *FAILURES) as exc:
            if isinstance(exc, ListError) and exc.status == _UNAUTHORIZED and replica.config.api_key == key:
                replica.health.refuse_key()
            # Once per outage: the lists are read again and again, and a wrong key stays wrong.
            if not each.failing:
                each.failing = True
                _logger.warning("The model list of instance %s cannot be read: %s", replica.title, _reason(exc))
            return
        finally:
            each.task = None
        if replica.config.api_key == key:
            replica.health.accept_key()
        if each.configured:
            return  # it was asked because of its key
        if each.failing:
            each.failing = False
            _logger.info("The model list of instance %s can be read again", replica.title)
        each.learn(entries)
        full = len(entries) == MODELS_LIMIT
        if full and not each.full:
            _logger.warning(
                "Instance %s lists %d models or more; those behind them are neither offered nor found without its name",
                replica.title,
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
        tasks = [each.task for each in (*self.lists, *self._left) if each.task is not None]
        if self._unknown is not None:
            tasks.append(self._unknown)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)


def _reason(failure: Exception) -> str:
    """What an operator may read of it; the text of another's exception may hold an address or a header."""
    if isinstance(failure, ListError):
        return str(failure)
    if isinstance(failure, TimeoutError):
        return "no answer in time"
    return "the connection failed" if isinstance(failure, (ClientConnectionError, OSError)) else "no valid HTTP answer"
