"""Finds replicas that are not the same although they take each other's requests, and keeps the odd ones out if told to.

Decides which servers are compared (those that list one model, of one instance or of several), when they are asked (once
they are up, and after that once an hour), and what is said of a difference, once per change. What a difference is
decides `equivalence`, what is asked `self_portrait`. Every worker looks for itself; none does while it drains.
"""

import asyncio
import itertools
import json
import logging
from collections.abc import Callable, Coroutine, Iterable
from time import monotonic
from typing import Any

from ..telemetry.access_line import shown
from ..telemetry.bugs import reported
from ..telemetry.counters import Telemetry
from ..upstream import self_portrait
from ..upstream.health import State
from ..upstream.replica import Replica
from .equivalence import EXCLUDING, LENGTH, WHAT, Difference, differences
from .model_entries import Entry, ModelList
from .model_lists import ModelLists

# After the start, when most servers have said which models they have.
FIRST_S = 30.0
LOOK_S = 5.0
AGAIN_S = 3600.0
# One that could not be asked.
RETRY_S = 60.0
# Of the models that a server lists the first ones that are no adapters are looked at, among the first of all.
MODELS, _LOOKED_AT = 4, 16
# What it asks, in its own words.
ASKED = ("version", "chat_template", "greedy")
# In one line of the log.
_NAMED = 8

_logger = logging.getLogger("gomodel")

# The entries of a list, and what was read of some of them.
Listed = tuple[dict[str, Entry], dict[str, dict[str, Any]]]


class _Known:
    """What one replica has said: of itself, and of each model."""

    def __init__(self) -> None:
        self.since = 0.0  # when it came up whose words these are
        self.due = 0.0
        self.of_itself: dict[str, str] = {}
        self.of_models: dict[str, dict[str, str]] = {}


class ReplicaGuard:
    """Compares replicas, from `start` to `close`."""

    def __init__(
        self,
        models: ModelLists,
        telemetry: Telemetry,
        draining: Callable[[], bool],
        previous: "ReplicaGuard | None" = None,
        *,
        exclude: bool,
        generate: bool,
    ) -> None:
        """`exclude`: the odd one gets no requests that others can take. `generate`: a greedy answer may be asked for.

        `previous` is that of before a reload.
        """
        self._models = models
        self._telemetry = telemetry
        self._draining = draining
        self._exclude = exclude
        self._generate = generate
        same = previous is not None and previous._generate == generate
        self._known: dict[Replica, _Known] = previous._known if previous is not None and same else {}
        self._said: dict[tuple[str, str], dict[str, str]] = previous._said if previous is not None else {}
        self._listed: dict[ModelList, Listed] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Look from now on."""
        self._task = asyncio.create_task(self._watch())
        self._task.add_done_callback(reported("The comparison of replicas"))

    def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()

    async def close(self) -> None:
        """Stop, and return when nothing is left of it."""
        self.stop()
        if self._task is not None:
            await asyncio.wait({self._task})

    async def _watch(self) -> None:
        await asyncio.sleep(FIRST_S)
        while True:
            await self.look()
            await asyncio.sleep(LOOK_S)

    async def look(self) -> None:
        """Ask those that are due, one after the other, and compare all that is known."""
        lists = self._models.lists
        self._listed = {each: _some(each, self._listed.get(each)) for each in lists} if len(lists) > 1 else {}
        groups: dict[str, list[ModelList]] = {}
        for each, (_, models) in self._listed.items():
            for model in models:
                groups.setdefault(model, []).append(each)
        groups = {model: among for model, among in groups.items() if len(among) > 1}
        for each in self._listed:
            shared = [model for model, among in groups.items() if each in among]
            if shared and not self._draining():
                await self._learn(each.replica, shared)
        present = {each.replica for each in self._listed}
        self._known = {replica: known for replica, known in self._known.items() if replica in present}
        self._judge(groups, present)

    async def _learn(self, replica: Replica, models: list[str]) -> None:
        """Ask one that came up since it was asked, or was asked long ago."""
        health, now = replica.health, monotonic()
        if health.state is not State.UP or replica.barred:
            return
        known = self._known.setdefault(replica, _Known())
        if known.since == health.since and now < known.due and known.of_models.keys() >= set(models):
            return
        known.since, known.due = health.since, now + RETRY_S
        known.of_models = {model: known.of_models.get(model, {}) for model in models}  # until it says something else
        try:
            known.of_itself = await self._asks(replica, "version", self_portrait.version(replica))
            for model in models:
                said = await self._asks(replica, "chat_template", self_portrait.chat_template(replica, model))
                if self._generate:
                    said |= await self._asks(replica, "greedy", self_portrait.greedy(replica, model))
                known.of_models[model] = said
        except self_portrait.Unreachable:
            return
        known.due = monotonic() + AGAIN_S

    async def _asks(self, replica: Replica, what: str, question: Coroutine[Any, Any, dict[str, str]]) -> dict[str, str]:
        """Ask, as one of the requests that the replica serves where its engine works for it."""
        limit = replica.config.max_in_flight
        if what == "greedy" and limit is not None and replica.in_flight >= limit:
            question.close()
            raise self_portrait.Unreachable
        self._telemetry.own_requests[replica.name, what] += 1
        replica.requests.enter()
        try:
            return await question
        finally:
            replica.requests.leave()

    def _judge(self, groups: dict[str, list[ModelList]], present: set[Replica]) -> None:
        differs: dict[Replica, set[str]] = {replica: set() for replica in present}
        odd: set[Replica] = set()
        before, self._said = self._said, {}
        for model, among in groups.items():
            said = {each.replica: self._words(each, model) for each in among}
            for found in differences(said):
                for replica in found.odd:
                    differs[replica].add(found.what)
                if found.usual is not None and found.what in EXCLUDING:
                    odd |= found.odd.keys()
                place = model, found.what
                self._said[place] = {replica.title: value for replica, value in found.odd.items()}
                if before.get(place) != self._said[place]:
                    self._warn(model, found)
        for model, what in before.keys() - self._said.keys():
            if model in groups:
                _logger.info("Replicas that serve %s do not differ in %s any more", shown(model), what)
        for replica in present:
            replica.differs = tuple(what for what in WHAT if what in differs[replica])
            replica.kept_back = self._exclude and replica in odd

    def _words(self, each: ModelList, model: str) -> dict[str, str]:
        known = self._known.get(each.replica)
        length = self._listed[each][1][model].get("max_model_len")
        words = {} if length is None else {LENGTH: str(length)}
        return words if known is None else {**words, **known.of_itself, **known.of_models.get(model, {})}

    def _warn(self, model: str, found: Difference[Replica]) -> None:
        names = [f"{replica.title} has {value}" for replica, value in list(found.odd.items())[:_NAMED]]
        if len(found.odd) > _NAMED:
            names.append(f"and {len(found.odd) - _NAMED} more")
        others = "" if found.usual is None else f"; the others have {found.usual}"
        if self._exclude and others and found.what in EXCLUDING:
            others += ", and get its requests"
        _logger.warning("Replicas that serve %s differ in %s: %s%s", shown(model), found.what, ", ".join(names), others)


def forget(replicas: Iterable[Replica]) -> None:
    """Nobody compares them any more."""
    for replica in replicas:
        replica.differs, replica.kept_back = (), False


def _some(each: ModelList, before: Listed | None) -> Listed:
    """What it says of its first models that are no adapters; read anew when the list was."""
    if before is not None and before[0] is each.entries:
        return before
    found: dict[str, dict[str, Any]] = {}
    for entry in itertools.islice(each.entries.values(), _LOOKED_AT):
        said = json.loads(entry.encoded)
        if not said.get("parent") and len(found) < MODELS:
            found[entry.id] = said
    return each.entries, found
