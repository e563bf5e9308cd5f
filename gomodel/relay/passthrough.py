"""Passthrough, /p/<instance>/...: any request to one instance as it is, a WebSocket too.

Decides whether the instance may be reached so, and whether the request may be sent again. Where its path goes on a vLLM
server is decided in `routes.passthrough`. A body of any size passes, since it is not read for a selector.
"""

from collections.abc import Collection

from ..balancing.choice import Choice, ordered
from ..balancing.instance import Instance
from ..balancing.instances import Providers
from ..downstream.body import RequestBody
from ..downstream.request import Request
from ..errors import NotAllowed, NotFound
from ..upstream.replica import Replica
from .forward import Forwarder
from .outgoing import Outgoing
from .tunnel import UPGRADE, Tunnel, wants_websocket

_UNLIMITED = 1 << 62


class Passthrough:
    """Handles what names an instance in its path."""

    def __init__(
        self, providers: Providers, forwarder: Forwarder, types: Collection[str], *, keyed: bool = False
    ) -> None:
        """`types`: the kinds of servers that may be reached so; `keyed`: nobody comes here without a key."""
        self._providers = providers
        self._forwarder = forwarder
        self._types = types
        self._keyed = keyed

    async def handle(self, request: Request) -> None:
        """To the instance in the path, whatever it is (contract section 6)."""
        provider = request.route.provider
        if "vllm" not in self._types:
            raise NotFound("Passthrough to vLLM is disabled: ENABLED_PASSTHROUGH_PROVIDERS does not name vllm.")
        instance = self._providers.by_type(provider, self._types)
        if instance is None:
            names = ", ".join(self._providers.instances)
            raise NotFound(f"No instance is named {provider!r}; there are: {names}.")
        wanted = request.fields.replica
        caller = request.caller
        if wanted and caller is not None and not caller.entry.admin:
            raise NotAllowed("X-GoModel-Replica is for the master key, and for keys with admin = true.")
        replicas = ordered(instance.replicas) if not wanted else [self._replica(instance, wanted.decode("latin-1"))]
        choice = Choice(replicas, "", bound=True, instance=instance)
        # What is at the root is about the server, such as waking it up; below the base are requests for its engine.
        choice.forced = bool(wanted) or not request.route.below_base
        if wants_websocket(request):
            await self._forwarder.forward(Outgoing(request, choice, relay=Tunnel, added=UPGRADE))
            return
        body = RequestBody(request, _UNLIMITED)
        body.hold_arrived()
        replayable = request.route.replayable or request.method in ("GET", "HEAD", "OPTIONS")
        await self._forwarder.forward(Outgoing(request, choice, body, replayable=replayable))

    def _replica(self, instance: Instance, address: str) -> Replica:
        """The replica that X-GoModel-Replica names. Raises NotFound, which tells addresses to operators alone."""
        for each in instance.replicas:
            if each.address == address:
                return each
        known = ", ".join(each.address for each in instance.replicas)
        raise NotFound(
            f"X-GoModel-Replica names no replica of instance '{instance.name}'"
            + (f"; there are: {known}." if self._keyed else "; GET /admin/instances lists them.")
        )
