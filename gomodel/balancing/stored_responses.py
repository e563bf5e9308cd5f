"""Which instance holds a stored response: learned while its first bytes pass by, asked for when unknown.

vLLM keeps the responses of `/v1/responses` in the memory of one process, so what refers to an id must go where it was
made (contract section 5). Decides that place. Memory is bounded; ids are never rewritten. Knows nothing of clients.
"""

import asyncio
import re
from collections import OrderedDict

from aiohttp import ClientError, ClientTimeout
from aiohttp.http import RawResponseMessage
from yarl import URL

from ..errors import Overloaded
from ..http1.head import ResponseFields
from ..relay.relay import Relay
from ..upstream.instance import Instance
from .instances import Providers

# About 20 MB of ids at the most; an older one is asked for again.
REMEMBERED = 1 << 16
_ASK_TIMEOUT_S = 2.0
# The id stands first in a JSON answer and in the first event of a stream.
_LOOK_BYTES = 4096
# It is no id, it is unknown, or there is no such route: whoever says so holds no response of this id.
_HOLDS_NONE = frozenset({400, 404, 405, 501})
_ID = re.compile(rb'"id"\s*:\s*"(resp_[A-Za-z0-9_.-]{1,250})"')


class Affinity:
    """Response id -> instance."""

    def __init__(self, providers: Providers, previous: "Affinity | None" = None) -> None:
        """`previous`: what this one replaces at a reload; both go on learning for each other."""
        self._providers = providers
        self._homes: OrderedDict[str, Instance] = OrderedDict() if previous is None else previous._homes

    def learn(self, response_id: str, instance: Instance) -> None:
        """Remember where a response was made."""
        self._homes[response_id] = instance
        self._homes.move_to_end(response_id)
        if len(self._homes) > REMEMBERED:
            self._homes.popitem(last=False)

    async def home(self, response_id: str) -> Instance | None:
        """The instance that holds the response; None when every instance says that it does not.

        Raises Overloaded when an instance that might hold it could not be asked.
        """
        instances = self._providers.instances
        only = self._providers.only
        if only is not None:
            return only
        known = self._homes.get(response_id)
        if known is not None and instances.get(known.name) is known:
            return known
        silent = []
        questions = [asyncio.create_task(_holds(instance, response_id)) for instance in instances.values()]
        try:
            for question in asyncio.as_completed(questions):
                instance, holds = await question
                if holds:
                    self.learn(response_id, instance)
                    return instance
                if holds is None:
                    silent.append(f"'{instance.name}'")
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

    def relay(self, request: object, instance: Instance) -> Relay:
        """A relay that learns the id of the response it moves."""
        return _LearningRelay(request, instance, self)


async def _holds(instance: Instance, response_id: str) -> tuple[Instance, bool | None]:
    """Whether the instance knows the id; None when it does not say, as one that refuses the key or is busy."""
    url = URL(f"{instance.config.base_url}/responses/{response_id}", encoded=True)
    headers = {}
    if instance.config.api_key is not None:
        headers["Authorization"] = f"Bearer {instance.config.api_key.reveal()}"
    try:
        async with instance.pool.session.get(
            url, headers=headers, timeout=ClientTimeout(total=_ASK_TIMEOUT_S), allow_redirects=False
        ) as response:
            status = response.status
    except (ClientError, OSError):
        return instance, None
    return instance, True if status == 200 else False if status in _HOLDS_NONE else None


class _LearningRelay(Relay):
    __slots__ = ("_affinity", "_seen")

    def __init__(self, request: object, instance: Instance, affinity: Affinity) -> None:
        super().__init__(request, instance)  # type: ignore[arg-type]
        self._affinity: Affinity | None = affinity
        self._seen = b""

    def on_response(self, message: RawResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> None:
        if message.code != 200 or fields.encoded:
            self._affinity = None
        self._look(data)
        super().on_response(message, fields, data, complete)

    def on_data(self, data: bytes, complete: bool) -> None:
        if self._affinity is not None:
            self._look(data)
        super().on_data(data, complete)

    def on_chunk(self, frame: bytes, start: int) -> None:
        if self._affinity is not None:
            self._look(frame[start:-2])
        super().on_chunk(frame, start)

    def _look(self, data: bytes) -> None:
        affinity = self._affinity
        if affinity is None or not data:
            return
        self._seen += data[:_LOOK_BYTES]
        found = _ID.search(self._seen)
        if found is not None:
            affinity.learn(found[1].decode(), self._instance)
        if found is not None or len(self._seen) >= _LOOK_BYTES:
            self._affinity = None
            self._seen = b""
