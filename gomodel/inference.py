"""Inference routes: find the selector, choose the instance, send the body on without the instance's prefix.

Decides how far a body is read (contract section 4): to the selector and no further. Knows nothing of connections.
"""

from .affinity import Affinity, previous_id
from .body import RequestBody
from .errors import ModelRequired, NotFound, Overloaded
from .forward import Forwarder, Outgoing
from .message import Request
from .models import ModelLists
from .multipart import MultipartScan, boundary
from .providers import Choice, Instance, Providers
from .selector import JsonScan, Selector, find, prefix_length
from .spool import Spool

# How far a body is read for `previous_response_id` where it decides between instances; most inputs are smaller.
_PREVIOUS_WITHIN_BYTES = 1 << 16


class Inference:
    """Handles what is routed by a selector or by the id of a stored response."""

    def __init__(
        self, providers: Providers, models: ModelLists, forwarder: Forwarder, affinity: Affinity, limit_bytes: int
    ) -> None:
        self._providers = providers
        self._models = models
        self._forwarder = forwarder
        self._affinity = affinity
        self._limit = limit_bytes

    async def handle(self, request: Request) -> None:
        """POST to an inference route."""
        body = RequestBody(request, self._limit)
        if request.fields.content_type[:19].lower() == b"multipart/form-data":
            await self._form(request, body)
            return
        selector: Selector | None
        held: bytes | bytearray
        if body.arrived:
            held = body.held()
            selector = find(held) if held else None
        else:
            selector, held = await _scan(body)
        removed = 0
        choice = await self._choose(selector)
        if selector is not None and choice.bound:
            start = selector.start
            removed = prefix_length(bytes(held[start : selector.end]))
            if isinstance(held, bytearray):
                del held[start : start + removed]  # moves what stands behind it, and copies nothing else
            else:
                held = held[:start] + held[start + removed :]
        request.record.model = choice.model
        stored = request.route.template == "/v1/responses"
        if stored and len(choice.instances) > 1:
            held = await self._prefer_owner(choice, held, body)
        rest = None if body.exhausted else body
        outgoing = Outgoing(request, choice, held, rest, removed_bytes=removed, replayable=request.route.replayable)
        if stored:
            outgoing.relay = self._affinity.relay
        await self._forwarder.forward(outgoing)

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
                selector = scan.feed(piece)
            choice = await self._choose(selector)
            removed = 0
            if selector is not None and choice.bound:
                removed = len(selector.value.encode()) - len(choice.model.encode())  # a form has no escapes
                spool.cut(selector.start, removed)
            request.record.model = choice.model
            held = spool.whole() if spool.in_memory else b""
            rest = body if spool.in_memory else spool
            await self._forwarder.forward(
                Outgoing(
                    request,
                    choice,
                    held,
                    None if spool.in_memory and body.exhausted else rest,
                    removed_bytes=removed,
                    replayable=request.route.replayable,
                )
            )
        finally:
            spool.close()

    async def stored_response(self, request: Request) -> None:
        """GET, POST or DELETE below /v1/responses/{id}: to the instance that made the response."""
        instance: Instance | None = await self._affinity.home(request.route.id)
        if instance is None:
            raise NotFound(f"No instance holds the response {request.route.id!r}.", code="response_not_found")
        body = RequestBody(request, self._limit)
        held = body.held()
        rest = None if body.exhausted else body
        choice = Choice([instance], "", bound=True)
        await self._forwarder.forward(Outgoing(request, choice, held, rest, replayable=True))

    async def choose(self, selector: str) -> Choice:
        """Where a selector goes; the lists are read once more before it is unknown. Raises ModelNotFound."""
        choice = self._providers.resolve(selector)
        if choice is None:
            await self._models.learn_unknown()
            choice = self._providers.resolve(selector)
        if choice is None:
            raise self._providers.unknown(selector)
        return choice

    async def _choose(self, selector: Selector | None) -> Choice:
        if selector is not None:
            # The first look succeeds for nearly every request; it costs no coroutine.
            return self._providers.resolve(selector.value) or await self.choose(selector.value)
        only = self._providers.only
        if only is None:
            names = ", ".join(self._providers.instances)
            raise ModelRequired(f"Name the model as '<instance>/<model>' in 'model'; instances: {names}.")
        return Choice([only], "", bound=False)

    async def _prefer_owner(self, choice: Choice, held: bytes | bytearray, body: RequestBody) -> bytes | bytearray:
        """Of several instances choose the one whose response is continued; returns what is held by then.

        SDKs write the id behind the selector, and often behind the input as well.
        """
        previous = previous_id(held)
        while previous is None and len(held) < _PREVIOUS_WITHIN_BYTES and (piece := await body.read()):
            held += piece
            previous = previous_id(held)
        if previous is not None:
            try:
                owner = await self._affinity.home(previous)
            except Overloaded:
                return held
            if owner in choice.instances:
                choice.instances = [owner]
        return held


async def _scan(body: RequestBody) -> tuple[Selector | None, bytearray]:
    """Read until the selector is known, or to the end of a body without one."""
    scan = JsonScan()
    selector = None
    while selector is None:
        piece = await body.read()
        if not piece:
            if scan.held:
                scan.finish()
            break
        selector = scan.feed(piece)
    return selector, scan.held
