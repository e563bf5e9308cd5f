"""A request as it is to be sent: the body as far as it is held, where it may go, how its answer is to be taken.

Decides how a body that was shortened or read ahead is framed again, and whether it can be sent a second time. Knows
nothing of connections or of what becomes of it.
"""

from collections.abc import Callable

from ..balancing.choice import Choice
from ..downstream.body import RequestBody, Source
from ..downstream.request import Request
from ..upstream.replica import Replica
from .relay import Relay


class Outgoing:
    """What is to be sent, and how its answer is to be taken."""

    __slots__ = (
        "begun",
        "body",
        "choice",
        "parts",
        "relay",
        "removed_bytes",
        "replayable",
        "request",
        "rest",
        "tail",
        "upgrade",
        "whole",
    )

    def __init__(
        self,
        request: Request,
        choice: Choice,
        body: RequestBody | None = None,
        *,
        replayable: bool = False,
        relay: Callable[[Request, Replica], Relay] = Relay,
        upgrade: bytes = b"",
    ) -> None:
        """`body` as far as it has to be read, None for a request without one.

        `replayable` says that the route may be repeated; `upgrade` is the lines that ask for another protocol.
        """
        self.request = request
        self.choice = choice
        self.body = body
        self.relay = relay
        self.upgrade = upgrade
        self.begun: Relay | None = None  # a first attempt that goes on
        self.tail: str = request.route.tail
        held: bytes | bytearray = b""
        rest: Source | None = None
        self.removed_bytes = 0
        if body is not None:
            held, rest = body.release()
            self.removed_bytes = body.removed_bytes
        self.rest = rest  # what brings all that is not in `parts`
        self.whole = rest is None or (body is not None and body.complete)  # all of it is here and can be sent again
        self.replayable = replayable and rest is None
        self.parts: list[bytes | bytearray] = [held]  # emptied when they are sent and more of the body follows
        if request.fields.chunked:
            end = b"\r\n" if held else b""
            self.parts = [b"%x\r\n" % len(held) if held else b"", held, end if rest else end + b"0\r\n\r\n"]

    def rewind(self) -> None:
        """Make ready to be sent again from the start; only where it is `whole`."""
        if self.rest is not None and self.body is not None:
            self.body.rewind()
