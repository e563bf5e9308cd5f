"""The responses that /v1/responses remembers, and those that it makes in the background.

Decides how many are kept, that only a background response can be cancelled, and how its events are replayed. Like
vLLM's store it lives in the memory of one process. Knows nothing of a response's fields but its id and status.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from .conversation import Message
from .errors import ApiError

_KEPT = 1000  # vLLM evicts nothing; a demo that runs for weeks has to


class NoSuchResponse(ApiError):
    """The id is unknown here: never made, forgotten, or made by another process."""

    status = 404
    type = "invalid_request_error"

    def __init__(self, identity: str) -> None:
        super().__init__(f"Response with id '{identity}' not found.", param="response_id")


@dataclass
class Record:
    """One response: `response` is its JSON so far, `turns` the conversation that a later request continues."""

    response: dict[str, Any]
    turns: tuple[Message, ...]
    events: list[bytes] = field(default_factory=list)
    task: asyncio.Task[None] | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def announce(self) -> None:
        """Wake everybody who follows the events."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def follow(self, start: int) -> AsyncGenerator[bytes, None]:
        """The events from number `start` on, those that are still to come included."""
        while True:
            changed = self.changed  # before looking, so that nothing added meanwhile is waited for
            while start < len(self.events):
                yield self.events[start]
                start += 1
            if self.task is None or self.task.done():
                return
            await changed.wait()


class Store:
    """Responses by id, the oldest forgotten first."""

    def __init__(self) -> None:
        self._records: OrderedDict[str, Record] = OrderedDict()

    def find(self, identity: str) -> Record:
        """The record of `identity`; raises NoSuchResponse."""
        record = self._records.get(identity)
        if record is None:
            raise NoSuchResponse(identity)
        return record

    def keep(self, record: Record) -> None:
        self._records[record.response["id"]] = record
        while len(self._records) > _KEPT:
            _, oldest = self._records.popitem(last=False)
            if oldest.task is not None:
                oldest.task.cancel()

    def run(self, record: Record, events: AsyncGenerator[bytes, None]) -> None:
        """Make `record` in the background, whoever listens. Ends with the events, a cancel or the application."""
        record.task = asyncio.create_task(_collect(record, events))
        record.task.add_done_callback(lambda _: record.announce())

    async def cancel(self, identity: str) -> Record:
        """Stop a background response; raises NoSuchResponse, and 400 for one that is not running."""
        record = self.find(identity)
        if record.task is None or record.task.done():
            message = "Cannot cancel a synchronous response."
            raise ApiError(message, param="response_id", status=400, type="invalid_request_error")
        await _stop(record.task)
        if record.task.cancelled():
            record.response["status"] = "cancelled"
        return record

    async def close(self) -> None:
        for record in self._records.values():
            if record.task is not None:
                await _stop(record.task)


STORE = web.AppKey("responses", Store)


async def store_context(app: web.Application) -> AsyncIterator[None]:
    """Owns the background tasks for as long as the application runs."""
    app[STORE] = Store()
    yield
    await app[STORE].close()


async def _collect(record: Record, events: AsyncGenerator[bytes, None]) -> None:
    async with aclosing(events):
        async for data in events:
            record.events.append(data)
            record.announce()


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
