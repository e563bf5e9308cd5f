"""Reads a request's body as far as what it is routed by: its selector, or the id of the response that it continues.

Decides how far that is (contract section 4): no further than the one that is looked for, whatever the body is. Decides
that a body which takes long to read waits its turn. Knows nothing of instances or of what becomes of the body.
"""

import asyncio
from typing import TypeVar

from ..downstream.body import RequestBody
from ..downstream.request import Request
from ..errors import UnsupportedCoding
from ..selector.form import MultipartScan
from ..selector.form_headers import boundary
from ..selector.json_body import JsonScan, OneModel, names_model
from ..selector.json_search import JsonSearch
from ..selector.previous_response import PreviousResponse
from ..selector.selector import Selector
from ..selector.turns import Scan

_Result = TypeVar("_Result")


class JsonReading:
    """A JSON body on its way to its selector, as far as that needs no waiting: `look` whenever more may have come.

    `paused` says that it has given way: call `go_on` once the others have had their turn. `placing`: the selector is
    known, and what comes behind it is wanted as well, which `hold` brings.
    """

    __slots__ = ("_search", "body", "placing", "selector")

    def __init__(self, body: RequestBody) -> None:
        self.body = body
        self.selector: Selector | None = None
        self.placing = False
        self._search: JsonSearch | None = None

    def look(self) -> Selector | None:
        """Hold what has come, and say what it shows. Raises BodyTooLarge, BadRequest, and what JsonSearch does."""
        body, search = self.body, self._search
        piece = body.hold_arrived()
        if search is None:
            if not piece:
                return None
            search = self._search = JsonSearch()
        self._know(search.look(body.held, piece, last=body.complete))
        return self.selector

    def pass_over(self, pieces: list[memoryview]) -> bool:
        """Hold what has come where it is all there is to do with it, as with nearly all of a picture."""
        search, body = self._search, self.body
        if search is None or search.paused or self.selector is not None or body.waiting_bytes:
            return False
        piece = b"".join(pieces)
        return search.passes_over(piece) and body.holds(piece)

    def hold(self) -> None:
        """Hold what has come behind the selector. Raises BodyTooLarge and BadRequest."""
        self.body.hold_arrived()

    @property
    def wants_more(self) -> bool:
        """Whether all that is missing is more of the body."""
        return (self.placing if self.selector is not None else not self.paused) and not self.body.complete

    @property
    def paused(self) -> bool:
        return self._search is not None and self._search.paused

    def go_on(self) -> Selector | None:
        """Look closer for a turn. Raises what JsonSearch does."""
        if self._search is not None:
            self._know(self._search.go_on(self.body.held))
        return self.selector

    def _know(self, selector: Selector | None) -> None:
        if selector is not None:
            self.selector, self._search = selector, None

    def finish(self) -> None:
        """The body has ended without a selector. Raises InvalidBody unless it was one complete object, or empty."""
        if self._search is not None:
            self._search.finish()


class BodySearch:
    """Looks into bodies, of which any number may be read and one at a time may take long."""

    def __init__(self) -> None:
        self._long = asyncio.Lock()

    async def find_selector(self, request: Request, reading: JsonReading, *, whole: bool) -> Selector | None:
        """The selector of a JSON body or a form, or None without one; what was read to find it is held.

        File parts before a form's `model` field wait on disk, those after it stream through unless the form is to be
        read as a `whole`. Raises UnsupportedCoding, and InvalidBody and ModelRequired as the scans do.
        """
        fields, body = request.fields, reading.body
        if fields.content_coding:
            raise UnsupportedCoding(fields.content_coding)
        if fields.form:
            scan = MultipartScan(boundary(fields.content_type), whole=whole)
            found: Selector | None = None
            while (found is None or whole) and (piece := await body.read_on(spill=True)):
                found = await self._feed(scan, piece) or found
            scan.finish()
            return found
        while True:
            selector = reading.look()
            while selector is None and reading.paused:
                async with self._long:
                    await asyncio.sleep(0)
                    selector = reading.go_on()
            if selector is not None:
                return selector
            if body.complete:
                reading.finish()
                return None
            await body.wait()

    async def refuse_second(self, held: bytes, selector: Selector) -> None:
        """Raises InvalidBody when all of a JSON body is held and names a second `model` behind its selector."""
        if names_model(held[selector.end :]):
            await self._feed(JsonScan(), held)

    async def read_whole(self, body: RequestBody) -> None:
        """Hold all of a JSON body, on disk once it is large. Raises InvalidBody unless it has one `model` alone."""
        scan = OneModel()
        for held in body.waiting():
            await self._feed(scan, held)
        while piece := await body.read_on(spill=True):
            await self._feed(scan, piece)
        scan.finish()

    async def find_previous_response(self, body: RequestBody) -> str | None:
        """The id of the response that a JSON body continues, or None.

        SDKs write it behind the selector, and mostly behind the input as well, so the body is read on to the id, or to
        the end of one without it.
        """
        scan = PreviousResponse()
        for held in body.waiting():
            if not scan.done:
                await self._feed(scan, held)
        while not scan.done and (piece := await body.read_on(spill=True)):
            await self._feed(scan, piece)
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
