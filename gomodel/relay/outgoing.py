"""A request as it is to be sent: the body as far as it is held, where it may go, how its answer is to be taken.

Decides how a body that was shortened or read ahead is framed again, whether it can be sent a second time, and for how
long what was sent is kept for that. Knows nothing of connections or of what becomes of it.
"""

from collections.abc import Callable
from typing import Any

from ..balancing.choice import Choice
from ..downstream.body import IN_MEMORY_BYTES, RequestBody
from ..downstream.request import Request
from ..upstream.replica import Replica


class Outgoing:
    """What is to be sent, and how its answer is to be taken."""

    __slots__ = (
        "added",
        "begun",
        "choice",
        "kept_bytes",
        "parts",
        "rank",
        "relay",
        "removed_bytes",
        "replayable",
        "request",
        "rest",
        "tail",
        "whole",
    )

    def __init__(
        self,
        request: Request,
        choice: Choice,
        body: RequestBody | None = None,
        *,
        replayable: bool = False,
        relay: Callable[[Request, Replica], Any] | None = None,
        added: bytes = b"",
    ) -> None:
        """`body` as far as it has to be read, None for a request without one.

        `replayable` says that the route may be repeated; `relay` makes another Relay than the plain one; `added` are
        further lines of the head.
        """
        self.request = request
        self.choice = choice
        self.relay = relay
        self.added = added
        self.rank = -1  # the data-parallel rank of the attempt
        self.begun: Any = None  # the Relay of a first attempt that goes on
        self.tail: str = request.route.tail
        self.parts: list[bytes] = []  # what is here of it, as it goes out
        self.removed_bytes = 0
        self.rest: RequestBody | None = None  # what brings all that is not in `parts`
        self.whole = True  # all that was sent is here, in memory or on disk, and can be sent again
        self.replayable = replayable  # so far as a connection that was used before may be tried
        self.kept_bytes = 0  # of what was sent while more of it comes
        if body is not None:
            self._frame(body)

    def _frame(self, body: RequestBody) -> None:
        """Take what is held of the body, framed as the head says."""
        held, rest = body.release()
        self.removed_bytes = body.removed_bytes
        fields = self.request.fields
        if fields.chunked:
            size = sum(map(len, held))
            end = b"" if rest else b"0\r\n\r\n"
            held = [b"%x\r\n" % size, *held, b"\r\n" + end] if size else [end]
        self.parts = held
        if rest is not None:
            self.rest = rest
            self.kept_bytes = sum(map(len, held))
            self.whole = rest.complete if rest.spooled else self.kept_bytes <= IN_MEMORY_BYTES
            enough = not rest.spooled and (fields.content_length or self.kept_bytes) <= IN_MEMORY_BYTES
            self.replayable = self.replayable and enough

    def flows(self) -> None:
        """The `parts` are sent and the `rest` follows; what is too much to be sent again is let go."""
        if not self.whole:
            self.parts.clear()

    def too_much(self, more_bytes: int) -> bool:
        """Whether what was sent could not be sent again once so many more bytes are."""
        return self.kept_bytes + more_bytes > IN_MEMORY_BYTES

    def keep(self, pieces: list[bytes]) -> None:
        """These are sent of the `rest`."""
        if not self.whole or self.rest is None or self.rest.spooled:
            return
        self.kept_bytes += sum(map(len, pieces))
        if self.kept_bytes <= IN_MEMORY_BYTES:
            self.parts += pieces
        else:
            self.whole = False
            self.parts.clear()

    def end(self) -> None:
        """All of the `rest` was sent."""
        if self.whole and self.rest is not None and not self.rest.spooled:
            self.rest = None

    def rewind(self) -> None:
        """Make ready to be sent again from the start; only where it is `whole`."""
        if self.rest is not None:
            self.rest.rewind()
