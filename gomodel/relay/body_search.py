"""Reads a request's body as far as what it is routed by: its selector, or the id of the response that it continues.

Decides how far that is (contract section 4): no further than the one that is looked for, whatever the body is. Decides
that a body which takes long to read waits its turn. Knows nothing of instances or of what becomes of the body.
"""

import asyncio
from typing import TypeVar

from ..downstream.body import RequestBody
from ..downstream.request import Request
from ..errors import UnsupportedCoding
from ..selector.form import MultipartScan, boundary
from ..selector.json_body import JsonScan, usual
from ..selector.previous_response import PreviousResponse
from ..selector.selector import Selector
from ..selector.turns import Scan

_Result = TypeVar("_Result")


def is_form(request: Request) -> bool:
    """Whether the body is a form, by its Content-Type."""
    return request.fields.content_type[:19].lower() == b"multipart/form-data"


class BodySearch:
    """Looks into bodies, of which any number may be read and one at a time may take long."""

    def __init__(self) -> None:
        self._long = asyncio.Lock()

    async def find_selector(self, request: Request, body: RequestBody) -> Selector | None:
        """The selector of a JSON body or a form, or None without one; what was read to find it is held.

        File parts before a form's `model` field wait on disk, those after it stream through. Raises UnsupportedCoding,
        and InvalidBody and ModelRequired as the scans do.
        """
        fields = request.fields
        if fields.content_coding:
            raise UnsupportedCoding(fields.content_coding)
        scan: JsonScan | MultipartScan
        piece = b""
        form = is_form(request)
        if form:
            scan = MultipartScan(boundary(fields.content_type))
        else:
            if body.arrived:
                piece = body.hold_arrived()
                selector = usual(piece)
                if selector is not None:
                    return selector
            scan = JsonScan()
        piece = piece or await body.read_on(spill=form)
        while piece:
            selector = await self._feed(scan, piece)
            if selector is not None:
                return selector
            piece = await body.read_on(spill=form)
        scan.finish()
        return None

    async def find_previous_response(self, body: RequestBody) -> str | None:
        """The id of the response that a JSON body continues, or None.

        SDKs write it behind the selector, and mostly behind the input as well, so the body is read on to the id, or to
        the end of one without it.
        """
        scan = PreviousResponse()
        for held in body.held:
            await self._feed(scan, held)
            if scan.done:
                return scan.id
        while piece := await body.read_on(spill=True):
            await self._feed(scan, piece)
            if scan.done:
                break
        return scan.id if scan.done else None

    async def run(self, scan: Scan[_Result]) -> None:
        """Run a scan that has its bytes to the end, a turn at a time."""
        await self._feed(scan, b"")

    async def _feed(self, scan: Scan[_Result], piece: bytes | bytearray) -> _Result:
        """Feed a piece, however long that takes: one body at a time goes on with what is not done in one turn."""
        found = scan.feed(piece)
        while scan.paused:
            async with self._long:
                await asyncio.sleep(0)
                found = scan.feed(b"")
        return found
