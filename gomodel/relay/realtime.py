"""The WebSocket /v1/realtime: to the instance that the `model` of its query means, or the only one.

Decides what of the query goes on, and that a session's first event may be rewritten (`selector.realtime_event`).
"""

import re
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, quote, unquote

from ..balancing.choice import Choice
from ..balancing.instances import Providers
from ..downstream.request import Request
from ..errors import ClientError, ModelRequired
from ..selector.realtime_event import SessionUpdate
from ..upstream.replica import Replica
from .forward import Forwarder
from .outgoing import Outgoing
from .placement import Placement
from .tunnel import UPGRADE, Tunnel, require_websocket

_QUERY_FIELDS = 1000  # each costs a microsecond
_SLASH = re.compile("/|%2[Ff]")


class Realtime:
    """Handles WebSockets of the realtime API."""

    def __init__(
        self,
        providers: Providers,
        forwarder: Forwarder,
        choose: Callable[[str], Awaitable[Choice]],
        placement: Placement,
    ) -> None:
        """`choose`: where a selector goes, as for inference; raises ModelNotFound."""
        self._placement = placement
        self._providers = providers
        self._forwarder = forwarder
        self._choose = choose

    async def handle(self, request: Request) -> None:
        """The WebSocket /v1/realtime, by the `model` of its query (contract section 5).

        Where the session's first event may name an instance, which has to be cut off there, no extension is offered to
        vLLM: compressed (RFC 7692) the event could not be read. With a bare model in the query nothing is cut.
        """
        require_websocket(request)
        path, _, query = request.route.tail.partition("?")
        selectors = _selectors(query)
        only = self._providers.only
        if selectors:
            choice = await self._choose(selectors[0])
        elif only is not None:
            choice = Choice(only.replicas.copy(), "", bound=False, instance=only)
        else:
            raise ModelRequired("Name the model in the query: /v1/realtime?model=<instance>/<model>.")
        request.record.model = choice.model
        if len(choice.candidates) > 1:
            self._placement.at_once(request, choice, None)
        if choice.renamed:
            query = _with_model(query, quote(choice.model, safe="/"))
        elif choice.bound:
            query = _with_model(query)
        if choice.bound or choice.renamed or not selectors:
            fields = request.fields
            fields.forwarded = [each for each in fields.forwarded if each[0].lower() != b"sec-websocket-extensions"]
        outgoing = Outgoing(request, choice, relay=self._tunnel, added=UPGRADE)
        outgoing.tail = f"{path}?{query}" if query else path
        await self._forwarder.forward(outgoing)

    def _tunnel(self, request: Request, replica: Replica) -> Tunnel:
        renamed = self._renamed if self._providers.aliases else None
        return Tunnel(request, replica, SessionUpdate(replica.name, renamed))

    def _renamed(self, selector: str) -> str | None:
        """The model that an alias stands for; None for what is no alias."""
        choice = self._providers.resolve(selector)
        return choice.model if choice is not None and choice.renamed else None


def _selectors(query: str) -> list[str]:
    """The `model` of a query, its name escaped or not, or nothing. Raises ClientError for a second one."""
    try:
        given = parse_qs(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS).get("model", [])
    except ValueError:
        raise ClientError(f"The query has more than {_QUERY_FIELDS} fields.") from None
    if len(given) > 1:
        raise ClientError("The query has a second `model`: servers disagree on which one counts.")
    return [each for each in given if each]


def _with_model(query: str, model: str = "") -> str:
    """The query with another `model` for the one that was read, its first, or without the instance in that one.

    Every other byte stays as it is.
    """
    parts = query.split("&")
    for at, part in enumerate(parts):
        name, _, value = part.partition("=")
        slash = _SLASH.search(value)
        if (model or slash) and value and unquote(name) == "model":
            parts[at] = f"{name}={model or value[slash.end() if slash else 0 :]}"
            break
    return "&".join(parts)
