"""Which replica holds a stored response: remembered when it is made (`relay.learning`), asked for when unknown.

vLLM keeps the responses of `/v1/responses` in the memory of one process, so what refers to an id must go where it was
made (contract section 5). Decides that place. Memory is bounded; ids are never rewritten. Knows nothing of clients.
"""

import asyncio
from collections import OrderedDict

from ..errors import ConnectError, Overloaded
from ..upstream.own_requests import FAILURES, ask
from ..upstream.replica import Replica
from .instances import Providers

# About 20 MB of ids at the most; an older one is asked for again.
REMEMBERED = 1 << 16
_ASK_LIMIT_S = 2.0
# It is no id, it is unknown, or there is no such route: whoever says so holds no response of this id.
_HOLDS_NONE = frozenset({400, 404, 405, 501})


class StoredResponses:
    """Response id -> replica."""

    def __init__(self, providers: Providers, previous: "StoredResponses | None" = None) -> None:
        """`previous`: what this one replaces at a reload; both go on learning for each other."""
        self._providers = providers
        self._homes: OrderedDict[str, Replica] = OrderedDict() if previous is None else previous._homes

    def learn(self, response_id: str, replica: Replica) -> None:
        """Remember where a response was made."""
        self._homes[response_id] = replica
        self._homes.move_to_end(response_id)
        if len(self._homes) > REMEMBERED:
            self._homes.popitem(last=False)

    async def home(self, response_id: str) -> Replica | None:
        """The replica that holds the response; None when every one says that it does not.

        Raises Overloaded when a replica that might hold it could not be asked, and ConnectError when there is none,
        after the moment that a request waits for the first address of a name.
        """
        instances = self._providers.instances.values()
        replicas = self._providers.replicas
        if not replicas:
            await self._first_replicas()
            replicas = self._providers.replicas
        silent = {f"'{each.name}'" for each in instances if not each.replicas}
        if len(replicas) == 1 and not silent:
            return replicas[0]
        known = self._homes.get(response_id)
        if known in replicas:
            return known
        questions = [asyncio.create_task(_holds(replica, response_id)) for replica in replicas]
        try:
            for question in asyncio.as_completed(questions):
                replica, holds = await question
                if holds:
                    self.learn(response_id, replica)
                    return replica
                if holds is None:
                    silent.add(f"'{replica.name}'")
        finally:
            for each in questions:
                each.cancel()
            await asyncio.wait(questions)
        if silent:
            raise Overloaded(
                f"No instance that answers holds this response, and {', '.join(sorted(silent))} could not be asked.",
                code="response_owner_unknown",
                retry_after_s=5,
            )
        return None

    async def _first_replicas(self) -> None:
        """Wait for a replica of any instance. Raises ConnectError when none comes."""
        instances = self._providers.instances.values()
        coming = [asyncio.create_task(each.first_replica()) for each in instances]
        try:
            await asyncio.wait(coming, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in coming:
                each.cancel()
            await asyncio.wait(coming)
        if not self._providers.replicas:
            names = ", ".join(f"'{each.name}'" for each in instances)
            raise ConnectError(f"The host name of instance {names} could not be resolved.", code="dns_error")


async def _holds(replica: Replica, response_id: str) -> tuple[Replica, bool | None]:
    """Whether the replica knows the id; None when it does not say, as one that refuses the key or is busy."""
    try:
        async with ask(replica, f"/responses/{response_id}", limit_s=_ASK_LIMIT_S) as response:
            status = response.status
    except FAILURES:
        return replica, None
    return replica, True if status == 200 else False if status in _HOLDS_NONE else None
