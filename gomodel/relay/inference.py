"""Inference routes: find the selector, choose the instance, send the body on without the instance's prefix.

Decides which instances may take a request: those the selector means, the one that made the response it continues or
names, or the only one there is. How a body is read is `body_search`'s. Knows nothing of connections.
"""

import json
from functools import partial

from ..balancing.choice import Choice, ordered
from ..balancing.instance import Instance
from ..balancing.instances import Providers
from ..balancing.model_lists import ModelLists
from ..balancing.stored_responses import StoredResponses
from ..downstream.body import RequestBody, too_large
from ..downstream.request import Arrived, Request
from ..errors import ConnectError, GatewayError, ModelRequired, NotFound, Overloaded
from ..http1.request_fields import RequestFields
from ..routes.route import Kind, Route
from ..selector.conversation import LIMIT_BYTES
from ..selector.json_body import may_have_second, usual
from ..selector.selector import Selector
from ..upstream.replica import Replica
from .body_search import BodySearch, JsonReading
from .forward import Forwarder
from .learning import LearningRelay
from .outgoing import Outgoing
from .placement import Placement

# How much of a body's beginning is kept for the next one of its connection.
_OPENING_BYTES = 256
# Responses made here are stored by whoever made them, and a request may continue one.
_STORING = "/v1/responses"


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
        self._learning = partial(LearningRelay, stored=stored)
        self._limit = limit_bytes
        self._search = BodySearch()
        self.placement = Placement(self._search, affinity=affinity)

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
            if choice.placed and request.route.template == _STORING and len(choice.candidates) > 1:
                await self._prefer_owner(request, choice, body)
            if selector is not None:
                _name_model(body, selector, choice, form=form)
            await self._forwarder.forward(self._outgoing(request, choice, body))
        finally:
            body.close()

    def begin(self, request: Request) -> bool:
        """Do what `handle` does as far as nothing has to be waited for but the client; whether that is under way.

        When more of the body comes it is gone on with, until the request is sent or its connection's task has to do the
        rest. Raises what `handle` raises.
        """
        fields, payload = request.fields, request.payload
        if fields.content_coding or fields.form or (fields.expect and not payload.is_eof()):
            return False
        if fields.caller is not None and fields.caller.entry.models:  # its body is followed to the end, in turns
            return False
        if type(payload) is Arrived and (selector := _usual(fields, payload.data)) is not None:
            # Nearly every request: whole, and short or with its model first.
            request.record.bytes_in = len(payload.data)
            choice, body = self._providers.resolve(selector.value), payload.data
            if choice is not None:
                candidates = choice.candidates
                # As `placed`, without a call.
                if (len(candidates) == 1 and candidates[0].ranks is None) or (
                    not choice.placed or self._placed(request, choice, body)
                ):
                    payload.data = b""
                    return self._send_whole(request, choice, body, selector)
        request.reading = reading = self._reading(request)
        if self._go_on(request, reading):
            return True
        if not reading.wants_more:
            return False
        reading.body.listen(partial(self._more, request, reading))
        reading.body.ask()
        return True

    def _reading(self, request: Request) -> JsonReading:
        return JsonReading(RequestBody(request, self._limit))

    def _go_on(self, request: Request, reading: JsonReading) -> bool:
        """Look at what has come of the body, and send the request where that is enough; whether it was sent."""
        if reading.placing:
            reading.hold()
        selector = reading.selector or reading.look()
        if selector is None:
            return False
        choice = self._providers.resolve(selector.value)
        if choice is None:
            reading.placing = False
            return False
        body, candidates = reading.body, choice.candidates
        # As `placed`, without a call.
        placed = len(candidates) > 1 or (candidates and candidates[0].ranks is not None)
        if placed and not self._placed_by(request, choice, reading, selector):
            return False
        body.listen(None)
        request.reading = None
        return self._send(request, choice, body, selector)

    def _send(self, request: Request, choice: Choice, body: RequestBody, selector: Selector) -> bool:
        _name_model(body, selector, choice, form=False)
        request.record.model = choice.model
        request.outgoing = outgoing = self._outgoing(request, choice, body)
        return self._forwarder.begin(outgoing)

    def _send_whole(self, request: Request, choice: Choice, body: bytes, selector: Selector) -> bool:
        """As `_send`, of a body that came with its head. Raises BodyTooLarge."""
        size, at = len(body), selector.start
        if size > self._limit:
            raise too_large(self._limit)
        record, route = request.record, request.route
        record.model = choice.model
        request.outgoing = outgoing = Outgoing(request, choice)
        if choice.renamed:
            end, instead = selector.end, _written(choice.model, form=False)
            outgoing.removed_bytes = end - at - len(instead)
            outgoing.parts = [body[:at], instead, body[end:]]
            if request.digest is not None:
                request.digest.cuts(at, body[at:end], instead)
        elif choice.bound:
            outgoing.removed_bytes = removed = selector.prefix_bytes
            outgoing.parts = [body[:at], body[at + removed :]]
            if request.digest is not None:
                request.digest.cuts(at, body[at : at + removed], b"")
        else:
            outgoing.parts = [body]
        outgoing.replayable = route.replayable
        if route.template == _STORING:
            outgoing.relay = self._learning
        return self._forwarder.begin(outgoing)

    def _placed(self, request: Request, choice: Choice, whole: bytes | None) -> bool:
        """Put several candidates in order by the head and the body, None before it is whole; whether that was done."""
        if request.route.template == _STORING or (whole is None and not self.placement.by_head(request)):
            return False
        return self.placement.at_once(request, choice, whole)

    def _placed_by(self, request: Request, choice: Choice, reading: JsonReading, selector: Selector) -> bool:
        """As `_placed`, of a body that comes in pieces: its reading says whether more of them would help."""
        body, held, came_behind = reading.body, None, reading.placing
        if request.route.template != _STORING and not self.placement.by_head(request):
            reading.placing = not body.complete and body.held_bytes < LIMIT_BYTES
            if reading.placing:
                return False
            held = body.beginning(LIMIT_BYTES)
            if came_behind and body.complete and may_have_second(held, selector.end):
                return False  # it takes a closer look
        return self._placed(request, choice, held)

    def _more(self, request: Request, reading: JsonReading) -> None:
        """More of the body has come, or its end, or why there is none."""
        body = reading.body
        try:
            if self._go_on(request, reading):
                return
            if reading.wants_more:
                body.ask()
                return
        except ConnectionError:
            return  # the client has left, and its request is being cancelled
        except Exception as exc:  # a bug as well
            request.refusal = exc
        body.listen(None)
        request.protocol.to_task()

    def _outgoing(self, request: Request, choice: Choice, body: RequestBody) -> Outgoing:
        route = request.route
        outgoing = Outgoing(request, choice, body, replayable=route.replayable)
        if route.template == _STORING:
            outgoing.relay = self._learning
        return outgoing

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


def _usual(fields: RequestFields, body: bytes) -> Selector | None:
    """`usual`, which looks no further than the model's value: what it found is known in a body that begins alike."""
    known = fields.opening
    if known is not None and body.startswith(known[0]):
        selector: Selector = known[1]
        return None if may_have_second(body, selector.end) else selector
    found = usual(body)
    if found is not None and found.end < _OPENING_BYTES:
        fields.opening = body[: found.end + 1], found
    return found


def _restricted(request: Request) -> bool:
    """Whether the caller's key is good for some models only: a second `model` must not go to an instance unseen."""
    caller = request.caller
    return caller is not None and bool(caller.entry.models)


def _name_model(body: RequestBody, selector: Selector, choice: Choice, *, form: bool) -> None:
    """Write the model as its server knows it: without its instance, or in the place of an alias."""
    if choice.renamed:
        body.cut(selector.start, selector.end - selector.start, _written(choice.model, form=form))
    elif choice.bound:
        body.cut(selector.start, selector.prefix_bytes)


def _written(model: str, *, form: bool) -> bytes:
    """A model's name as it stands in a body."""
    return model.encode() if form else json.dumps(model)[1:-1].encode()
