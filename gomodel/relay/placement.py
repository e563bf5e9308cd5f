"""Which of several candidates a request tries first: the home of its conversation, or the idlest.

Decides what names the conversation: a header field, an id in the body, how the conversation opens, in this order; and
how much of a body is waited for to find that. What is found is mixed with the model and the caller (`rendezvous`); it
is neither sent on nor logged. Of a single candidate nothing is asked.
"""

from ..balancing.candidates import Named
from ..balancing.choice import Choice
from ..balancing.rendezvous import Placed
from ..downstream.body import RequestBody
from ..downstream.request import Request
from ..selector.conversation import LIMIT_BYTES, ConversationScan, named_at_a_look
from ..selector.usual_opening import INPUT, MESSAGES, PROMPT
from .body_search import BodySearch

# The routes on which conversations go on, and where in their bodies they open.
_OPENINGS = {
    "/v1/chat/completions": MESSAGES,
    "/v1/completions": PROMPT,
    "/v1/messages": MESSAGES,
    "/v1/responses": INPUT,
}
# So much of what stands before the text that a conversation opens with is kept for the next body of its connection.
_BEFORE_BYTES = 2048


class Placement:
    """Puts the candidates of requests in order."""

    def __init__(self, search: BodySearch, *, affinity: bool) -> None:
        """`affinity`: whether conversations have homes at all (ROUTING)."""
        self._search = search
        self._affinity = affinity

    def by_head(self, request: Request) -> bool:
        """Whether the head of a request says all that its candidates are ordered by."""
        return not self._affinity or bool(request.fields.session) or request.route.template not in _OPENINGS

    def at_once(self, request: Request, choice: Choice, body: bytes | None) -> bool:
        """Order the candidates by the head and the body that is here, None for none.

        False where finding out what is in the body takes long; nothing is done then.
        """
        if not self._affinity:
            choice.by_load()
            return True
        fields = request.fields
        by = "header"
        name: Named = fields.session
        if not name:
            opening = _OPENINGS.get(request.route.template)
            if opening is None or body is None:
                by = "none"
            else:
                found = named_at_a_look(body, opening, fields.before_text)
                if found is None:
                    scan = ConversationScan(body, opening)
                    scan.feed()
                    if scan.paused:
                        return False
                    by, name = _said(*scan.named)
                else:
                    client_id, opens, begins = found
                    by, name = ("opening", opens) if opens is not None else _said(client_id, None)
                    if begins:
                        fields.before_text = body[:begins] if begins <= _BEFORE_BYTES else b""
        _place(request, choice, by, name)
        return True

    async def order(self, request: Request, choice: Choice, body: RequestBody, *, form: bool) -> None:
        """Order the candidates; where the body has to say it, hold it to its end or to LIMIT_BYTES."""
        if form or self.by_head(request):
            self.at_once(request, choice, None)
            return
        held_bytes = body.held_bytes
        while held_bytes < LIMIT_BYTES and (piece := await body.read_on()):
            held_bytes += len(piece)
        beginning, opening = body.beginning(LIMIT_BYTES), _OPENINGS[request.route.template]
        found = named_at_a_look(beginning, opening)
        if found is None:
            scan = ConversationScan(beginning, opening)
            await self._search.run(scan)
            client_id, opens = scan.named
        else:
            client_id, opens, _ = found
        _place(request, choice, *_said(client_id, opens))

    @staticmethod
    def at_owner(request: Request) -> None:
        """The request continues what only its one candidate has."""
        request.record.named_by = "response"
        request.record.affinity = Placed.HOME


def _said(client_id: bytes | None, opens: tuple[int, int] | None) -> tuple[str, Named]:
    """What named a conversation in its body, and what it was."""
    if opens is not None:
        return "opening", opens
    return ("none", b"") if client_id is None else ("body", client_id)


def _place(request: Request, choice: Choice, by: str, named: Named) -> None:
    record, caller = request.record, request.fields.caller
    record.named_by = by
    if named:
        record.affinity = choice.by_conversation("" if caller is None else caller.name, named)
    else:
        choice.by_load()
