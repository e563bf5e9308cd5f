"""The WebSocket /v1/realtime: to the instance that the `model` of its query means, or the only one.

Decides what of the query goes on, and that a session's first event may be rewritten (`selector.realtime_event`).
"""

import re
from collections.abc import Awaitable, Callable
from urllib.parse import parse_qs, unquote

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
            choice = Choice(only.replicas.copy(), "", bound=False)
        else:
            raise ModelRequired("Name the model in the query: /v1/realtime?model=<instance>/<model>.")
        request.record.model = choice.model
        if len(choice.candidates) > 1:
            self._placement.at_once(request, choice, None)
        if choice.bound:
            query = _without_prefix(query)
        if choice.bound or not selectors:
            fields = request.fields
            fields.forwarded = [each for each in fields.forwarded if each[0].lower() != b"sec-websocket-extensions"]
        outgoing = Outgoing(request, choice, relay=_realtime_tunnel, added=UPGRADE)
        outgoing.tail = f"{path}?{query}" if query else path
        await self._forwarder.forward(outgoing)


def _selectors(query: str) -> list[str]:
    """The `model` of a query, its name escaped or not, or nothing. Raises ClientError for a second one."""
    try:
        given = parse_qs(query, keep_blank_values=True, max_num_fields=_QUERY_FIELDS).get("model", [])
    except ValueError:
        raise ClientError(f"The query has more than {_QUERY_FIELDS} fields.") from None
    if len(given) > 1:
        raise ClientError("The query has a second `model`: servers disagree on which one counts.")
    return [each for each in given if each]


def _without_prefix(query: str) -> str:
    """The query without the instance in the `model` that was read, its first; every other byte stays as it is."""
    parts = query.split("&")
    for at, part in enumerate(parts):
        name, _, value = part.partition("=")
        slash = _SLASH.search(value)
        if slash and unquote(name) == "model":
            parts[at] = f"{name}={value[slash.end() :]}"
            break
    return "&".join(parts)


def _realtime_tunnel(request: Request, replica: Replica) -> Tunnel:
    return Tunnel(request, replica, SessionUpdate(replica.name))
