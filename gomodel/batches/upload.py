"""POST /v1/files: a form read as it arrives, its file written to disk piece by piece.

Decides what an upload must hold and when it is too large. Memory stays flat whatever its size; nothing blocks the loop.
"""

import asyncio
import errno
from pathlib import PurePosixPath
from time import time
from typing import BinaryIO

from aiohttp import BodyPartReader, MultipartReader, web
from aiohttp.http_exceptions import HttpProcessingError

from ..errors import BodyTooLarge, InvalidBody, InvalidValue, NoSpace
from . import parameters
from .contents import Contents
from .ids import FILE, new_id
from .records import FileRecord

_PIECE_BYTES = 256 << 10
_WRITE_BYTES = 1 << 20
_FIELD_BYTES = 4096
_NAME_CHARS = 255
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Upload:
    """One form as far as it was read."""

    def __init__(self, contents: Contents, limit_bytes: int, ttl_s: int) -> None:
        self._contents = contents
        self._limit = limit_bytes
        self._ttl_s = ttl_s
        self._fields: dict[str, str] = {}
        self._file: BinaryIO | None = None
        self._filename = ""
        self._size = 0

    async def receive(self, request: web.Request, owner: str | None) -> FileRecord:
        """The file of the form, durable on disk; its record is the caller's to make known.

        Raises InvalidBody, InvalidValue, BodyTooLarge, NoSpace; nothing is left of it then.
        """
        file_id = new_id(FILE)
        try:
            await self._read(request, file_id)
            record = self._record(file_id, owner)
            assert self._file is not None
            await asyncio.to_thread(self._contents.keep, self._file, file_id)
            self._file = None
        except OSError as error:
            if error.errno in _FULL:
                raise NoSpace from None
            raise
        finally:
            if self._file is not None:
                await asyncio.shield(asyncio.to_thread(self._contents.discard, self._file))
        return record

    def _record(self, file_id: str, owner: str | None) -> FileRecord:
        fields = self._fields
        if self._file is None:
            raise InvalidValue("file", "'file' is missing: send the form field file.", code="required")
        parameters.purpose(fields.get("purpose"))
        ttl_s = parameters.expires_after(
            fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]"), name="expires_after"
        )
        if not self._size:
            raise InvalidValue("file", "The file is empty.")
        now = int(time())
        expires_at = now + (ttl_s or self._ttl_s)
        return FileRecord(file_id, owner, parameters.PURPOSE, self._filename, self._size, now, expires_at)

    async def _read(self, request: web.Request, file_id: str) -> None:
        if request.content_type != "multipart/form-data":
            raise InvalidBody("Send the file as multipart/form-data, with the fields file and purpose.")
        try:
            form = await request.multipart()
            while (part := await form.next()) is not None:
                if isinstance(part, MultipartReader):
                    raise InvalidBody("The form holds another form.")
                await self._take(part, file_id)
        except (
            HttpProcessingError,
            ValueError,
            AssertionError,
            RuntimeError,
        ):  # what the reader raises for a form that it cannot read
            raise InvalidBody("The form cannot be read.") from None

    async def _take(self, part: BodyPartReader, file_id: str) -> None:
        if part.name != "file":
            value = b""
            while piece := await part.read_chunk(_FIELD_BYTES):
                value += piece
                if len(value) > _FIELD_BYTES:
                    raise InvalidValue(shown_name(part.name or "")[:64], "A field of the form is too long.")
            self._fields[part.name or ""] = value.decode("utf-8", "replace")
            return
        if self._file is not None:
            raise InvalidValue("file", "The form holds more than one file.")
        self._filename = shown_name(part.filename or "")
        self._file = await asyncio.to_thread(self._contents.begin, file_id)
        waiting = bytearray()
        while piece := await part.read_chunk(_PIECE_BYTES):
            self._size += len(piece)
            if self._size > self._limit:
                raise BodyTooLarge(f"The file is over the limit of {self._limit} bytes (FILE_SIZE_LIMIT).")
            waiting += piece
            if len(waiting) >= _WRITE_BYTES:
                await asyncio.to_thread(self._file.write, waiting)
                waiting = bytearray()
        await asyncio.to_thread(self._file.write, waiting)


def shown_name(said: str) -> str:
    """What a client calls its file, for people: the last part of a path, on one line, of a sane length.

    It names nothing on disk.
    """
    last = PurePosixPath(said.replace("\\", "/")).name
    shown = "".join(char if char.isprintable() else "_" for char in last)[-_NAME_CHARS:]
    return shown if shown.strip(".") else "upload.jsonl"
