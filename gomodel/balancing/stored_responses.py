"""Which instance holds a stored response: remembered when it is made (`relay.learning`), asked for when unknown.

vLLM keeps the responses of `/v1/responses` in the memory of one process, so what refers to an id must go where it was
made (contract section 5). Decides that place. Memory is bounded; ids are never rewritten. Knows nothing of clients.
"""

import asyncio
from collections import OrderedDict

from aiohttp import ClientError, ClientTimeout
from yarl import URL

from ..errors import Overloaded
from ..upstream.replica import Replica
from .instances import Providers

# About 20 MB of ids at the most; an older one is asked for again.
REMEMBERED = 1 << 16
_ASK_TIMEOUT_S = 2.0
# It is no id, it is unknown, or there is no such route: whoever says so holds no response of this id.
_HOLDS_NONE = frozenset({400, 404, 405, 501})


class StoredResponses:
    """Response id -> instance."""

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
        """The instance that holds the response; None when every instance says that it does not.

        Raises Overloaded when an instance that might hold it could not be asked.
        """
        replicas = self._providers.replicas
        if len(replicas) == 1:
            return replicas[0]
        known = self._homes.get(response_id)
        if known in replicas:
            return known
        silent = []
        questions = [asyncio.create_task(_holds(replica, response_id)) for replica in replicas]
        try:
            for question in asyncio.as_completed(questions):
                replica, holds = await question
                if holds:
                    self.learn(response_id, replica)
                    return replica
                if holds is None:
                    silent.append(f"'{replica.name}'")
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


async def _holds(replica: Replica, response_id: str) -> tuple[Replica, bool | None]:
    """Whether the instance knows the id; None when it does not say, as one that refuses the key or is busy."""
    url = URL(f"{replica.server.base_url}/responses/{response_id}", encoded=True)
    headers = {}
    if replica.config.api_key is not None:
        headers["Authorization"] = f"Bearer {replica.config.api_key.reveal()}"
    try:
        async with replica.pool.session.get(
            url, headers=headers, timeout=ClientTimeout(total=_ASK_TIMEOUT_S), allow_redirects=False
        ) as response:
            status = response.status
    except (ClientError, OSError, ValueError):  # ValueError: a host that is no name
        return replica, None
    return replica, True if status == 200 else False if status in _HOLDS_NONE else None
