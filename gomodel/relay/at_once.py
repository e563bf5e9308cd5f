"""Inference requests in the turn of the loop in which they come: what `inference` does with them, without its waiting.

Decides which of them can be sent so: those whose model is found at a look in what is here of the body, and whose
candidates are known and put in order by it. For all others the request's task does the same, by what was found so far.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

from ..balancing.choice import Choice
from ..balancing.instances import Providers
from ..downstream.body import RequestBody, too_large
from ..downstream.request import Arrived, Request
from ..http1.request_fields import RequestFields
from ..selector.conversation import LIMIT_BYTES
from ..selector.json_body import may_have_second, usual
from ..selector.json_search import named_at_its_end
from ..selector.selector import Selector
from ..upstream.replica import Replica
from .body_search import JsonReading
from .forward import Forwarder
from .outgoing import Outgoing
from .placement import Placement

# How much of a body's beginning is kept for the next one of its connection.
_OPENING_BYTES = 256
# A body whose model has not come with so many pieces is a long one.
_LONG_PIECES = 4
# Responses made here are stored by whoever made them, and a request may continue one.
STORING = "/v1/responses"


class AtOnce:
    """Sends requests that need no waiting but for their bodies."""

    def __init__(
        self,
        providers: Providers,
        forwarder: Forwarder,
        placement: Placement,
        learning: Callable[[Request, Replica], Any],
        limit_bytes: int,
    ) -> None:
        """`learning` makes the relay of an answer that is stored; bodies have `limit_bytes` at most."""
        self._providers = providers
        self._forwarder = forwarder
        self._placement = placement
        self._learning = learning
        self._limit = limit_bytes

    def begin(self, request: Request) -> bool:
        """Do what `Inference.handle` does as far as only the client has to be waited for; whether that is under way.

        When more of the body comes it is gone on with, until the request is sent or its connection's task has to do the
        rest. Raises what that raises.
        """
        fields, payload = request.fields, request.payload
        if fields.content_coding or fields.form or (fields.expect and not payload.is_eof()):
            return False
        if fields.caller is not None and fields.caller.entry.models:  # its body is followed to the end, in turns
            return False
        if type(payload) is Arrived and (
            (selector := _usual(fields, payload.data)) is not None
            or (selector := named_at_its_end(payload.data)) is not None
        ):
            # Nearly every request: whole, and short or with its model first or last.
            request.record.bytes_in = len(payload.data)
            choice, body = self._providers.resolve(selector.value), payload.data
            if choice is not None:
                candidates = choice.candidates
                # As `placed`, without a call.
                if (
                    (len(candidates) == 1 and candidates[0].ranks is None)
                    or not candidates
                    or (request.route.template != STORING and self._placement.at_once(request, choice, body))
                ):
                    payload.data = b""
                    return self._send_whole(request, choice, body, selector)
        request.reading = reading = self.reading(request)
        if self._go_on(request, reading):
            return True
        if not reading.wants_more:
            return False
        reading.body.listen(partial(self._more, request, reading))
        reading.body.ask()
        return True

    def reading(self, request: Request) -> JsonReading:
        """The JSON body of a request, of which nothing has been looked at."""
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
        name_model(body, selector, choice, form=False)
        request.record.model = choice.model
        request.outgoing = outgoing = self.outgoing(request, choice, body)
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
        if route.template == STORING:
            outgoing.relay = self._learning
        return self._forwarder.begin(outgoing)

    def _placed(self, request: Request, choice: Choice, whole: bytes | None) -> bool:
        """Put several candidates in order by the head and the body, None before it is whole; whether that was done."""
        if request.route.template == STORING or (whole is None and not self._placement.by_head(request)):
            return False
        return self._placement.at_once(request, choice, whole)

    def _placed_by(self, request: Request, choice: Choice, reading: JsonReading, selector: Selector) -> bool:
        """As `_placed`, of a body that comes in pieces: its reading says whether more of them would help."""
        body, held, came_behind = reading.body, None, reading.placing
        if request.route.template != STORING and not self._placement.by_head(request):
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
                if len(body.held) == _LONG_PIECES:
                    body.lend(reading.pass_over)
                body.ask()
                return
        except ConnectionError:
            return  # the client has left, and its request is being cancelled
        except Exception as exc:  # a bug as well
            request.refusal, request.reading = exc, None  # with which nobody goes on
        body.listen(None)
        request.protocol.to_task()

    def outgoing(self, request: Request, choice: Choice, body: RequestBody) -> Outgoing:
        """A request as it is to be sent."""
        route = request.route
        outgoing = Outgoing(request, choice, body, replayable=route.replayable)
        if route.template == STORING:
            outgoing.relay = self._learning
        return outgoing


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


def name_model(body: RequestBody, selector: Selector, choice: Choice, *, form: bool) -> None:
    """Write the model as its server knows it: without its instance, or in the place of an alias."""
    if choice.renamed:
        body.cut(selector.start, selector.end - selector.start, _written(choice.model, form=form))
    elif choice.bound:
        body.cut(selector.start, selector.prefix_bytes)


def _written(model: str, *, form: bool) -> bytes:
    """A model's name as it stands in a body."""
    return model.encode() if form else json.dumps(model)[1:-1].encode()
