"""Inference routes: find the selector, choose the instance, send the body on without the instance's prefix.

Decides how far a body is read (contract section 4): to the selector and no further, but for a response that may
continue another one while several instances could make it. Decides that a body which takes long to read waits its turn.
Knows nothing of connections.
"""

import asyncio
from functools import partial
from typing import Protocol, TypeVar

from ..balancing.choice import Choice
from ..balancing.instances import Providers
from ..balancing.model_lists import ModelLists
from ..balancing.stored_responses import Affinity
from ..downstream.body import RequestBody
from ..downstream.request import Arrived, Request
from ..downstream.spool import Spool
from ..errors import GatewayError, ModelRequired, NotFound, Overloaded, UnsupportedCoding
from ..routes.router import Kind, Route
from ..selector.form import MultipartScan, boundary
from ..selector.previous_response import PreviousResponse
from ..selector.selector import JsonScan, Selector, prefix_length, usual
from ..upstream.instance import Instance
from .forward import Forwarder
from .learning import LearningRelay
from .outgoing import Outgoing

# Responses made here are stored, and later requests may name them.
_STORING = "/v1/responses"

_Found_co = TypeVar("_Found_co", covariant=True)
_Result = TypeVar("_Result")


class Scan(Protocol[_Found_co]):
    """Looks for something in a body that it is fed in pieces; what `paused` means is said in `json_object`."""

    paused: bool

    def feed(self, piece: bytes | bytearray, /) -> _Found_co:
        """Look at the next piece."""


class Inference:
    """Handles what is routed by a selector or by the id of a stored response."""

    def __init__(
        self, providers: Providers, models: ModelLists, forwarder: Forwarder, affinity: Affinity, limit_bytes: int
    ) -> None:
        self._providers = providers
        self._models = models
        self._forwarder = forwarder
        self._affinity = affinity
        self._learning = partial(LearningRelay, affinity=affinity)
        self._limit = limit_bytes
        self._reading = asyncio.Lock()

    async def handle(self, request: Request) -> None:
        """POST to an inference route."""
        body = RequestBody(request, self._limit)
        if request.fields.content_coding:
            raise UnsupportedCoding(request.fields.content_coding)
        if request.fields.content_type[:19].lower() == b"multipart/form-data":
            await self._form(request, body)
            return
        held: bytes | bytearray = body.held() if body.arrived else b""
        selector = usual(held)
        if selector is None:
            selector, held = await self._scan(body, held)
        choice = await self._choose(selector, request.route)
        held, removed = _without_prefix(held, selector, choice)
        request.record.model = choice.model
        if request.route.template == _STORING and len(choice.instances) > 1:
            await self._continuing(request, choice, held, body)
            return
        outgoing = self._outgoing(request, choice, held, None if body.exhausted else body, removed)
        del held  # `outgoing` lets go of it when it is sent
        await self._forwarder.forward(outgoing)

    def at_hand(self, request: Request) -> Outgoing | None:
        """What `handle` would send of a body that came whole with its head; None where it has to wait, or to read more.

        Raises what `handle` raises.
        """
        fields, payload = request.fields, request.payload
        if fields.content_coding or fields.content_type[:19].lower() == b"multipart/form-data":
            return None
        assert isinstance(payload, Arrived)
        held: bytes | bytearray = payload.data
        size = len(held)
        if size > self._limit:
            return None
        selector = usual(held)
        if selector is None:
            return None
        choice = self._providers.resolve(selector.value)
        if choice is None or (request.route.template == _STORING and len(choice.instances) > 1):
            return None
        payload.data = b""
        held, removed = _without_prefix(held, selector, choice)
        request.record.bytes_in = size
        request.record.model = choice.model
        return self._outgoing(request, choice, held, None, removed)

    def _outgoing(
        self, request: Request, choice: Choice, held: bytes | bytearray, rest: RequestBody | None, removed: int
    ) -> Outgoing:
        route = request.route
        outgoing = Outgoing(request, choice, held, rest, removed_bytes=removed, replayable=route.replayable)
        if route.template == _STORING:
            outgoing.relay = self._learning
        return outgoing

    async def _form(self, request: Request, body: RequestBody) -> None:
        """A form: file parts before the `model` field wait in a spool, those after it stream through."""
        scan = MultipartScan(boundary(request.fields.content_type))
        spool = Spool(body)
        try:
            selector = None
            while selector is None:
                piece = await body.read()
                if not piece:
                    scan.finish()
                    break
                spool.write(piece)
                selector = await self._feed(scan, piece)
            choice = await self._choose(selector, request.route)
            removed = 0
            if selector is not None and choice.bound:
                removed = len(selector.value.encode()) - len(choice.model.encode())  # a form has no escapes
                spool.cut(selector.start, removed)
            request.record.model = choice.model
            await self._forwarder.forward(_spooled(request, choice, spool, body, removed))
        finally:
            spool.close()

    async def stored_response(self, request: Request) -> None:
        """GET, POST or DELETE below /v1/responses/{id}: to the instance that made the response."""
        instance: Instance | None = await self._affinity.home(request.route.id)
        if instance is None:
            raise NotFound(f"No instance holds the response {request.route.id!r}.", code="response_not_found")
        await self._forward(request, [instance], replayable=True)

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
        await self._forward(request, list(self._providers.instances.values()), replayable=reads)

    async def server(self, request: Request) -> None:
        """What one vLLM says of itself. Raises NotFound where there are several: none of them speaks for all."""
        only = self._providers.only
        if only is None:
            raise self._of_several(request.route)
        await self._forward(request, [only], replayable=True)

    async def _forward(self, request: Request, instances: list[Instance], *, replayable: bool) -> None:
        body = RequestBody(request, self._limit)
        held = body.held()
        rest = None if body.exhausted else body
        choice = Choice(instances, "", bound=True)
        outgoing = Outgoing(request, choice, held, rest, replayable=replayable)
        del held  # see `handle`
        await self._forwarder.forward(outgoing)

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

    async def _choose(self, selector: Selector | None, route: Route) -> Choice:
        if selector is not None:
            # The first look succeeds for nearly every request; it costs no coroutine.
            return self._providers.resolve(selector.value) or await self.choose(selector.value)
        only = self._providers.only
        if only is None:
            if route.kind is Kind.UNKNOWN:
                raise self._of_several(route)
            names = ", ".join(self._providers.instances)
            raise ModelRequired(f"Name the model as '<instance>/<model>' in 'model'; instances: {names}.")
        return Choice([only], "", bound=False)

    async def _continuing(self, request: Request, choice: Choice, held: bytes | bytearray, body: RequestBody) -> None:
        """Of several instances choose the one that made the response which this one continues.

        SDKs write its id behind the selector, and mostly behind the input as well, so the body is read on to the id, or
        to the end of one without it, and waits in a spool.
        """
        previous = PreviousResponse()
        await self._feed(previous, held)
        waiting = not (previous.done or body.exhausted)
        spool = Spool(body)
        try:
            if waiting:
                spool.write(held)
            while not previous.done and (piece := await body.read()):
                spool.write(piece)
                await self._feed(previous, piece)
            if previous.id is not None:
                try:
                    owner = await self._affinity.home(previous.id)
                except Overloaded:
                    owner = None
                if owner in choice.instances:
                    choice.instances = [owner]
            if waiting:
                outgoing = _spooled(request, choice, spool, body)
            else:
                rest = None if body.exhausted else body
                outgoing = Outgoing(request, choice, held, rest, replayable=request.route.replayable)
            outgoing.relay = self._learning
            await self._forwarder.forward(outgoing)
        finally:
            spool.close()

    async def _scan(self, body: RequestBody, piece: bytes | bytearray) -> tuple[Selector | None, bytearray]:
        """Read on from `piece` until the selector is known, or to the end of a body without one."""
        scan = JsonScan()
        selector = None
        while selector is None and (piece := piece or await body.read()):
            selector = await self._feed(scan, piece)
            piece = b""
        if selector is None and scan.held:
            scan.finish()
        return selector, scan.held

    async def _feed(self, scan: Scan[_Result], piece: bytes | bytearray) -> _Result:
        """Feed a piece, however long that takes: one body at a time goes on with what is not done in one turn."""
        found = scan.feed(piece)
        while scan.paused:
            async with self._reading:
                await asyncio.sleep(0)
                found = scan.feed(b"")
        return found


def _without_prefix(
    held: bytes | bytearray, selector: Selector | None, choice: Choice
) -> tuple[bytes | bytearray, int]:
    """The body as the instance gets it, and how many bytes were cut out of it."""
    if selector is None or not choice.bound:
        return held, 0
    start = selector.start
    removed = prefix_length(bytes(held[start : selector.end]))
    if isinstance(held, bytearray):
        del held[start : start + removed]  # moves what stands behind it, and copies nothing else
        return held, removed
    return held[:start] + held[start + removed :], removed


def _spooled(request: Request, choice: Choice, spool: Spool, body: RequestBody, removed: int = 0) -> Outgoing:
    """What waits in `spool` and the rest of `body`; held in memory and sent at once while it is small."""
    rest = None if body.exhausted else body
    if spool.in_memory:
        replayable = request.route.replayable
        return Outgoing(request, choice, spool.whole(), rest, removed_bytes=removed, replayable=replayable)
    outgoing = Outgoing(request, choice, b"", spool, removed_bytes=removed)
    outgoing.spool = spool if rest is None else None
    return outgoing
