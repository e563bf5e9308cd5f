"""/v1/files and /v1/batches: OpenAI's API, served by the batcher on a socket that the gateway alone reaches.

Decides what each call does and how a failure is said. The gateway has checked the caller's key, and says whose it is.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import time
from typing import Any
from urllib.parse import unquote

from aiohttp import hdrs, web
from aiohttp.abc import AbstractStreamWriter

from ..config.settings import Batching
from ..dialects import openai_body
from ..errors import (
    GatewayError,
    InternalError,
    InvalidBody,
    InvalidValue,
    NoSuchObject,
    NotFound,
    Overloaded,
    RangeNotSatisfiable,
)
from ..http1.private_fields import OWNER
from ..telemetry.usage_table import HOUR_S, Asked, as_csv, as_json, summed
from . import parameters
from .batch_store import BatchStore
from .byte_ranges import counts
from .contents import Contents
from .database import DatabaseAway
from .file_store import FileStore
from .ids import BATCH, FILE, is_id, new_id
from .records import FileRecord, shown_batch
from .upload import Upload
from .usage_store import UsageStore

_logger = logging.getLogger("gomodel")

_BODY_BYTES = 256 << 10
# For a database to open that is about to.
_OPENING_S = 3.0
# Looked at before a Range (RFC 9110 13.2.2).
_CONDITIONS = (hdrs.IF_MATCH, hdrs.IF_NONE_MATCH, hdrs.IF_MODIFIED_SINCE, hdrs.IF_UNMODIFIED_SINCE, hdrs.IF_RANGE)

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Api:
    """The handlers."""

    def __init__(
        self,
        config: Batching,
        files: FileStore,
        batches: BatchStore,
        contents: Contents,
        usage: UsageStore,
        changed: Callable[[], None] = lambda: None,
        paused: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        """`changed` is called when there is a batch to run or to end, or a file to free; `paused` says why one does
        not move that this process runs."""
        self.config = config
        self.ready = asyncio.Event()  # the database is open
        self._files = files
        self._batches = batches
        self._contents = contents
        self._usage = usage
        self._changed = changed
        self._paused = paused

    def app(self) -> web.Application:
        """To be served."""
        app = web.Application(middlewares=[_errors, self._opened], client_max_size=_BODY_BYTES)
        app.on_response_prepare.append(_without_server)
        app.add_routes(
            [
                web.post("/v1/files", self.upload),
                web.get("/v1/files", self.list_files),
                web.get("/v1/files/{id}", self.file),
                web.delete("/v1/files/{id}", self.delete_file),
                web.get("/v1/files/{id}/content", self.content),
                web.post("/v1/batches", self.create),
                web.get("/v1/batches", self.list_batches),
                web.get("/v1/batches/{id}", self.batch),
                web.post("/v1/batches/{id}/cancel", self.cancel),
                web.get("/admin/usage", self.used),
            ]
        )
        return app

    @web.middleware
    async def _opened(self, request: web.Request, handler: Answer) -> web.StreamResponse:
        if not self.ready.is_set():
            try:
                async with asyncio.timeout(_OPENING_S):
                    await self.ready.wait()
            except TimeoutError:
                raise DatabaseAway from None
        return await handler(request)

    async def used(self, request: web.Request) -> web.Response:
        """GET /admin/usage of a time; the gateway has looked whether the caller may ask, and for what."""
        asked = Asked(request.query, request.headers.get("Accept", ""), time())
        since, until = asked.window or (0, int(time()) + HOUR_S)
        rows = summed(await self._usage.used(since, until), asked.by)
        headers = {"Cache-Control": "no-store"}
        if asked.csv:
            return web.Response(body=as_csv(rows, asked), headers=headers, content_type="text/csv", charset="utf-8")
        return web.Response(body=as_json(rows, asked, since, until), headers=headers, content_type="application/json")

    async def upload(self, request: web.Request) -> web.Response:
        """POST /v1/files."""
        config, owner = self.config, _owner(request)
        record = await Upload(self._contents, config.file_limit_bytes, int(config.file_ttl_s)).receive(request, owner)
        try:
            await self._files.add(record)
        except BaseException:
            await asyncio.shield(asyncio.to_thread(self._contents.remove, record.id))
            raise
        return _json(record.shown())

    async def list_files(self, request: web.Request) -> web.Response:
        """GET /v1/files."""
        page = parameters.file_page(request.query)
        records, more = await self._files.page(
            _owner(request), limit=page.limit, after=page.after, purpose=page.purpose, ascending=page.ascending
        )
        return _list([record.shown() for record in records], more)

    async def file(self, request: web.Request) -> web.Response:
        """GET /v1/files/{id}."""
        return _json((await self._file(request)).shown())

    async def content(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/files/{id}/content: the very bytes, or a range of them (RFC 9110 14)."""
        record = await self._file(request)
        path = self._contents.path(record.id)
        if not await asyncio.to_thread(path.is_file):  # freed a moment ago
            raise _no_file(record.id)
        return _Content(path, ranged=_ranged(request, record.bytes))

    async def delete_file(self, request: web.Request) -> web.Response:
        """DELETE /v1/files/{id}. A batch that reads it goes on; for everybody else it is gone."""
        file_id = request.match_info["id"]
        if not is_id(FILE, file_id) or not await self._files.delete(file_id, _owner(request)):
            raise _no_file(file_id)
        self._changed()
        return _json({"id": file_id, "object": "file", "deleted": True})

    async def create(self, request: web.Request) -> web.Response:
        """POST /v1/batches."""
        try:
            said = parameters.new_batch(await request.read())
        except web.HTTPRequestEntityTooLarge:
            raise InvalidBody("The request body is too large.") from None
        values: dict[str, Any] = {
            "id": new_id(BATCH),
            "endpoint": said.endpoint,
            "input_file_id": said.input_file_id,
            "completion_window": said.completion_window,
            "expires_at": int(time()) + said.window_s,
            "metadata": None if said.metadata is None else json.dumps(said.metadata),
            "output_ttl_s": said.output_ttl_s,
        }
        row = await self._batches.add(values, _owner(request))
        if row is None:
            raise InvalidValue(
                "input_file_id", f"No such File object of purpose 'batch': {said.input_file_id}", code="file_not_found"
            )
        self._changed()
        return _json(shown_batch(row))

    async def list_batches(self, request: web.Request) -> web.Response:
        """GET /v1/batches, newest first."""
        page = parameters.batch_page(request.query)
        rows, more = await self._batches.page(_owner(request), limit=page.limit, after=page.after)
        return _list([shown_batch(row, self._paused(row.id)) for row in rows], more)

    async def batch(self, request: web.Request) -> web.Response:
        """GET /v1/batches/{id}."""
        batch_id = request.match_info["id"]
        row = await self._batches.get(batch_id, _owner(request)) if is_id(BATCH, batch_id) else None
        if row is None:
            raise _no_batch(batch_id)
        return _json(shown_batch(row, self._paused(batch_id)))

    async def cancel(self, request: web.Request) -> web.Response:
        """POST /v1/batches/{id}/cancel. What was done is kept; one that is over cannot be cancelled."""
        batch_id = request.match_info["id"]
        row = await self._batches.cancel(batch_id, _owner(request)) if is_id(BATCH, batch_id) else None
        if row is None:
            raise _no_batch(batch_id)
        if row.status not in ("cancelling", "cancelled"):
            raise InvalidValue("id", f"A batch with the status '{row.status}' cannot be cancelled.", code="batch_over")
        self._changed()
        return _json(shown_batch(row))

    async def _file(self, request: web.Request) -> FileRecord:
        file_id = request.match_info["id"]
        record = await self._files.get(file_id, _owner(request)) if is_id(FILE, file_id) else None
        if record is None:
            raise _no_file(file_id)
        return record


class _Content(web.FileResponse):
    """A file as it is, or the part of it that a Range asks for where that counts."""

    def __init__(self, path: Path, *, ranged: bool) -> None:
        super().__init__(path, headers={"Content-Type": "application/octet-stream"})
        self._ranged = ranged

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Begin it."""
        if hdrs.RANGE in request.headers and not self._ranged:
            headers = request.headers.copy()
            del headers[hdrs.RANGE]
            request = request.clone(headers=headers)
        return await super().prepare(request)


def _ranged(request: web.Request, size: int) -> bool:
    """Whether the Range of a request counts. Raises RangeNotSatisfiable; not where a condition has the first word."""
    field = ", ".join(request.headers.getall(hdrs.RANGE, ()))
    if request.method != "GET" or not field:
        return False
    try:
        return counts(field, size)
    except RangeNotSatisfiable:
        if not any(each in request.headers for each in _CONDITIONS):
            raise
        return False


def _owner(request: web.Request) -> str | None:
    """The name of the caller's key, None where all belongs to everybody."""
    name = request.headers.get(OWNER)
    return None if name is None else unquote(name)


def _no_file(file_id: str) -> NoSuchObject:
    return NoSuchObject(f"No such File object: {file_id[:64]}")


def _no_batch(batch_id: str) -> NoSuchObject:
    return NoSuchObject(f"No such Batch object: {batch_id[:64]}")


def _json(content: Any) -> web.Response:
    return web.Response(body=json.dumps(content).encode(), content_type="application/json")


def _list(data: list[dict[str, Any]], more: bool) -> web.Response:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return _json({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more})


@web.middleware
async def _errors(request: web.Request, handler: Answer) -> web.StreamResponse:
    """The one place where a failure here becomes an answer, in the gateway's one shape."""
    error: GatewayError
    try:
        return await handler(request)
    except GatewayError as exc:
        error = exc
    except DatabaseAway as exc:
        _logger.warning("Files and batches have to wait: %s", exc)
        error = Overloaded(
            "The database of files and batches cannot be asked now.", code="database_unavailable", retry_after_s=5
        )
    except web.HTTPException as exc:
        if exc.status != 404:
            raise
        error = NotFound("No such route.")
    except ConnectionError:
        raise  # the client has left
    except Exception:
        _logger.exception("A request for files or batches failed inside the gateway")
        error = InternalError()
    return web.Response(
        status=error.status, body=openai_body(error), headers=error.headers, content_type="application/json"
    )


async def _without_server(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)
