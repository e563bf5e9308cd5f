"""The provider table: all instances by name and by the models they list, and which of them a selector means.

Decides by contract section 4 whose replicas may take a request: those of the instance that is named, of all that list
a bare model id, or of the only one there is. Knows nothing of requests or of the client.
"""

from collections.abc import Callable, Collection, Iterable
from functools import partial

from ..config.settings import Config
from ..errors import ModelNotFound, ModelRequired
from ..selector.selector import split
from ..telemetry.counters import ChunkGaps
from ..upstream.network import Network
from ..upstream.replica import Replica
from .aliases import Aliases
from .candidates import Candidates
from .choice import Choice, of_instance
from .discovery import Discovery
from .instance import Instance
from .near_models import likeness, near

# `vlm` and `vllm_test` mean an instance, `meta-llama` does not.
_ALIKE = 0.6


class Providers:
    """All instances by name, and by the models they list."""

    def __init__(
        self,
        config: Config,
        previous: "Providers | None" = None,
        network: Network | None = None,
        gaps: ChunkGaps | None = None,
    ) -> None:
        """`previous`: the table that this one replaces; servers that are in both are the same objects in both.

        `gaps` counts what passes in this process.
        """
        known = previous.instances if previous is not None else {}
        self.network: Network = previous.network if previous is not None else network or Network()
        gaps = gaps or ChunkGaps()
        self.instances: dict[str, Instance] = {
            each.name: Instance(each, config, self.network, gaps, known.get(each.name)) for each in config.instances
        }
        self._former = config.former
        # The instance when there is just one (contract section 4, rule 3). What was for another one, or for nobody,
        # must not go to a server because a reload left it alone.
        self.only = next(iter(self.instances.values())) if len(self.instances) == 1 and not config.former else None
        self.aliases = Aliases(config.model_aliases) if config.model_aliases else None
        # Where a selector may go; None when no instance is named so and none lists it (contract section 4). Raises
        # ModelRequired for an instance's name with no model behind it.
        self.resolve: Callable[[str], Choice | None] = self._resolve if self.aliases is None else self._resolve_alias
        self.discovery = Discovery(
            (each for instance in self.instances.values() for each in instance.names.values()), self._follow_names
        )
        self._timeouts = config.timeouts
        self.on_change: Callable[[], None] | None = None  # some replicas came or left
        self._hear_of_failures()
        self.by_model: dict[str, list[Instance]] = {}
        self._among: dict[str, Candidates] = {}  # of what several instances list
        self._indexed: dict[str, frozenset[str]] = {}
        self.index()

    def _hear_of_failures(self) -> None:
        """A name is asked again when one of its addresses cannot be reached."""
        for instance in self.instances.values():
            for replica in instance.replicas:
                if replica.server.number is not None:
                    name = instance.names[replica.url.hostname or ""]
                    replica.on_unreachable = partial(self.discovery.soon, name)

    async def _follow_names(self) -> None:
        named = [each for each in self.instances.values() if each.names]
        changed = [each for each in named if each.follow_names()]
        if changed:
            self.index()
            self._hear_of_failures()
            replicas = self.replicas
            for each in replicas:
                each.pool.configure(self._timeouts, len(replicas))
            if self.on_change is not None:
                self.on_change()
        for instance in named:
            await instance.close_left()

    def index(self) -> None:
        """Look up models anew after a list changed; takes as long as what has changed is long."""
        self._among.clear()
        for instance in self.instances.values():
            instance.gather()
            before, after = self._indexed.get(instance.name, frozenset()), instance.listed
            if before is after:
                continue
            self._indexed[instance.name] = after
            for model in before - after:
                others = [each for each in self.by_model.pop(model) if each is not instance]
                if others:
                    self.by_model[model] = others
            for model in instance.models:
                if model not in before:
                    known = self.by_model.get(model, ())
                    both = [each for each in self.instances.values() if each is instance or each in known]
                    self.by_model[model] = both if known else [instance]

    @property
    def replicas(self) -> list[Replica]:
        """The replicas of all instances, in their order."""
        return [replica for instance in self.instances.values() for replica in instance.replicas]

    def by_type(self, provider: str, types: Iterable[str]) -> Instance | None:
        """Passthrough's `{provider}`: an instance's name; or the type `vllm`: the one of that name or the first."""
        if "vllm" not in types:
            return None
        found = self.instances.get(provider)
        if found is None and provider == "vllm":
            found = next(iter(self.instances.values()))
        return found

    def _resolve(self, selector: str) -> Choice | None:
        """`resolve` where there are no aliases."""
        choice = self._known(selector)
        if choice is None and self.only is not None:
            return of_instance(self.only, selector, bound=False)
        return choice

    def _known(self, selector: str) -> Choice | None:
        parts = split(selector)
        if parts is not None:
            name, model = parts
            instance = self.instances.get(name)
            if instance is not None:
                if not model:
                    raise ModelRequired(_no_model(name))
                return of_instance(instance, model, bound=True)
        if self.only is not None and not self.aliases:
            return None
        listed = self.by_model.get(selector)
        if listed is None:
            return None
        if len(listed) == 1:
            return of_instance(listed[0], selector, bound=False)
        among = self._among.get(selector)
        if among is None:
            among = self._among[selector] = Candidates(
                [replica for each in listed for replica in each.replicas if selector in replica.listed]
            )
        choice = Choice(among.replicas.copy(), selector, bound=False)
        choice.among = among
        return choice

    def _resolve_alias(self, selector: str) -> Choice | None:
        """`resolve` where there are aliases: a pattern matches what is no model's own name."""
        assert self.aliases is not None
        target = self.aliases.names.get(selector)
        if target is None:
            choice = self._known(selector)
            if choice is not None:
                return choice
            target = self.aliases.matching(selector)
            if target is None:
                return self._resolve(selector)
        choice = self._resolve(target)
        if choice is not None:
            choice.renamed = True
        return choice

    def unknown(self, selector: str) -> ModelNotFound:
        """The 404, with what the caller may have meant."""
        error = ModelNotFound(self._why_unknown(selector))
        error.selector = selector
        return error

    def _why_unknown(self, selector: str) -> str:
        if selector in self.instances:
            return _no_model(selector)
        shown = selector if len(selector) <= 200 else selector[:200] + "..."
        head, _, model = shown.partition("/")
        if head in self.instances:
            said = f"Instance '{head}' does not list the model {model!r}."
        elif head in self._former:
            said = f"Instance '{head}' is no longer served."
        else:
            said = f"No instance is named in {shown!r} and none lists it as a model."
        similar = self._near(selector)
        hint = f" Did you mean {' or '.join(repr(each) for each in similar)}?" if similar else ""
        names = ", ".join(self.instances)
        return f"{said}{hint} Use '<instance>/<model>' with one of: {names}; GET /v1/models lists all."

    def _near(self, selector: str) -> list[str]:
        """Models that look like it; with an instance's name when what stands before the slash looks like one."""
        head, _, rest = selector[:256].partition("/")
        if not rest or not any(likeness(head, name) >= _ALIKE for name in self.instances):
            return near(selector, self.by_model)
        return [
            f"{max(self.by_model[model], key=lambda each: likeness(head, each.name)).name}/{model}"
            for model in near(rest, self.by_model)
        ]

    def label(self, instance: str, model: str) -> str:
        """The metrics label of a model: only names that a list holds, so that clients cannot make new ones."""
        found = self.instances.get(instance)
        return model if found is not None and model in found.listed else ("other" if model else "")

    async def close(self, shared: Collection[Replica] = ()) -> None:
        """Close the connections of every replica that is not in `shared`."""
        await self.discovery.close()
        left = [replica for each in self.instances.values() for replica in each.leaving]
        for replica in (*self.replicas, *left):
            if replica not in shared:
                await replica.close()


def _no_model(instance: str) -> str:
    return f"'model' names instance '{instance}' but no model: use '{instance}/<model>'."
