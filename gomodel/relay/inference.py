"""Inference routes: find the selector, choose the instance, send the body on without the instance's prefix.

Decides which instances may take a request: those the selector means, the one that made the response it continues or
names, or the only one there is. How a body is read is `body_search`'s, what needs no waiting `at_once`'s. Knows nothing
of connections.
"""

from functools import partial

from ..balancing.choice import Choice, ordered
from ..balancing.instance import Instance
from ..balancing.instances import Providers
from ..balancing.model_lists import ModelLists
from ..balancing.stored_responses import StoredResponses
from ..downstream.body import RequestBody
from ..downstream.request import Request
from ..errors import ConnectError, GatewayError, ModelRequired, NotFound, Overloaded
from ..routes.route import Kind, Route
from ..selector.conversation import LIMIT_BYTES
from ..upstream.replica import Replica
from .at_once import STORING, AtOnce, name_model
from .body_search import BodySearch
from .forward import Forwarder
from .learning import LearningRelay
from .outgoing import Outgoing
from .placement import Placement


class Inference:
    """Handles what is routed by a selector or by the id of a stored response."""

    def __init__(
        self,
        providers: Providers,
        models: ModelLists,
        forwarder: Forwarder,
        stored: StoredResponses,
        limit_bytes: int,
        *,
        affinity: bool,
    ) -> None:
        """`affinity`: whether conversations have homes (ROUTING)."""
        self._providers = providers
        self._models = models
        self._forwarder = forwarder
        self._stored = stored
        self._limit = limit_bytes
        self._search = BodySearch()
        self.placement = Placement(self._search, affinity=affinity)
        learning = partial(LearningRelay, stored=stored)
        self.at_once = AtOnce(providers, forwarder, self.placement, learning, limit_bytes)
        self._reading, self._outgoing = self.at_once.reading, self.at_once.outgoing

    async def handle(self, request: Request) -> None:
        """POST to an inference route."""
        reading, request.reading = request.reading or self._reading(request), None
        body: RequestBody = reading.body
        form, restricted = request.fields.form, _restricted(request)
        try:
            selector = reading.selector or await self._search.find_selector(request, reading, whole=restricted)
            whole = restricted and selector is not None and not form
            if selector is None:
                choice = self._without_selector(request.route)
            else:
                # The first look succeeds for nearly every request; it costs no coroutine.
                choice = self._providers.resolve(selector.value) or await self.choose(selector.value)
            request.record.model = choice.model
            if choice.placed:
                await self.placement.order(request, choice, body, form=form)
                if selector is not None and body.complete and not (form or whole):
                    await self._search.refuse_second(body.beginning(LIMIT_BYTES), selector)
            if whole:
                await self._search.read_whole(body)
            if choice.placed and request.route.template == STORING and len(choice.candidates) > 1:
                await self._prefer_owner(request, choice, body)
            if selector is not None:
                name_model(body, selector, choice, form=form)
            await self._forwarder.forward(self._outgoing(request, choice, body))
        finally:
            body.close()

    async def stored_response(self, request: Request) -> None:
        """GET, POST or DELETE below /v1/responses/{id}: to the replica that made the response.

        None of them makes work for an engine, so what keeps new work from a replica does not keep these.
        """
        try:
            replica: Replica | None = await self._stored.home(request.route.id)
        except ConnectError as exc:
            request.record.blame("upstream", exc.code)
            raise
        if replica is None:
            raise NotFound(f"No instance holds the response {request.route.id!r}.", code="response_not_found")
        await self._forward(request, [replica], replayable=True, forced=True)

    async def unknown(self, request: Request) -> None:
        """A route that vLLM may have or not, which is its to say: a POST by its selector, else to the only instance.

        Of several the first that can be reached answers what only reads; anything else has to name one. Raises NotFound
        for that.
        """
        if request.method == "POST":
            await self.handle(request)
            return
        reads = request.method in ("GET", "HEAD")
        if not reads and self._providers.only is None:
            raise self._of_several(request.route)
        await self._forward(request, self._providers.replicas, replayable=reads, instance=self._providers.only)

    async def server(self, request: Request) -> None:
        """What one vLLM says of itself. Raises NotFound where there are several: none of them speaks for all."""
        only = self._providers.only
        if only is None:
            raise self._of_several(request.route)
        await self._forward(request, ordered(only.replicas), replayable=True, instance=only)

    async def _forward(
        self,
        request: Request,
        replicas: list[Replica],
        *,
        replayable: bool,
        instance: Instance | None = None,
        forced: bool = False,
    ) -> None:
        body = RequestBody(request, self._limit)
        body.hold_arrived()
        choice = Choice(replicas, "", bound=True, instance=instance)
        choice.forced = forced
        await self._forwarder.forward(Outgoing(request, choice, body, replayable=replayable))

    def _of_several(self, route: Route) -> GatewayError:
        names = ", ".join(self._providers.instances)
        path = ("/v1" if route.below_base else "") + route.tail.partition("?")[0]
        why = "Every instance answers this for itself"
        if route.kind is Kind.UNKNOWN:
            why = "gomodel does not know this route, and the request names no '<instance>/<model>' to send it to"
        return NotFound(f"{why}. Use {route.own_root}/p/<instance>{path} with one of: {names}.")

    async def choose(self, selector: str) -> Choice:
        """Where a selector goes; the lists are read once more before it is unknown. Raises ModelNotFound."""
        choice = self._providers.resolve(selector)
        if choice is None:
            await self._models.learn_unknown(lambda: self._providers.resolve(selector))
            choice = self._providers.resolve(selector)
        if choice is None:
            raise self._providers.unknown(selector)
        return choice

    def _without_selector(self, route: Route) -> Choice:
        """The only instance. Raises ModelRequired, or NotFound, where there are several."""
        only = self._providers.only
        if only is None:
            if route.kind is Kind.UNKNOWN:
                raise self._of_several(route)
            names = ", ".join(self._providers.instances)
            raise ModelRequired(f"Name the model as '<instance>/<model>' in 'model'; instances: {names}.")
        return Choice(only.replicas.copy(), "", bound=False, instance=only)

    async def _prefer_owner(self, request: Request, choice: Choice, body: RequestBody) -> None:
        """Of several replicas leave the one that made the response which this request continues."""
        response_id = await self._search.find_previous_response(body)
        if response_id is None:
            return
        try:
            owner = await self._stored.home(response_id)
        except (Overloaded, ConnectError):
            return
        if owner in choice.candidates:
            choice.candidates = [owner]
            self.placement.at_owner(request)


def _restricted(request: Request) -> bool:
    """Whether the caller's key is good for some models only: a second `model` must not go to an instance unseen."""
    caller = request.caller
    return caller is not None and bool(caller.entry.models)
