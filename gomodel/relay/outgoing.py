"""A request as it is to be sent: the body as far as it is held, where it may go, how its answer is to be taken.

Decides how a body that was shortened or read ahead is framed again, and whether it can be sent a second time. Knows
nothing of connections or of what becomes of it.
"""

from collections.abc import Callable

from ..balancing.choice import Choice
from ..downstream.request import Request
from ..downstream.spool import Source, Spool
from ..upstream.instance import Instance
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
        "spool",
        "tail",
        "upgrade",
    )

    def __init__(
        self,
        request: Request,
        choice: Choice,
        held: bytes | bytearray,
        body: Source | None = None,
        *,
        removed_bytes: int = 0,
        replayable: bool = False,
        relay: Callable[[Request, Instance], Relay] = Relay,
        upgrade: bytes = b"",
    ) -> None:
        """`held` is the body as far as it was read, already without the `removed_bytes` of the selector's prefix.

        `body` brings the rest, None when `held` is all; `replayable` says that the route may be repeated; `upgrade` is
        the lines that ask for another protocol.
        """
        self.request = request
        self.choice = choice
        self.body = body
        self.removed_bytes = removed_bytes
        self.replayable = replayable and body is None
        self.spool: Spool | None = None  # where all of `body` waits, so that it can be read again
        self.relay = relay
        self.upgrade = upgrade
        self.begun: Relay | None = None  # a first attempt that goes on
        self.tail: str = request.route.tail
        self.parts: list[bytes | bytearray] = [held]  # emptied when they are sent and more of the body follows
        if request.fields.chunked:
            end = b"\r\n" if held else b""
            self.parts = [b"%x\r\n" % len(held) if held else b"", held, end if body else end + b"0\r\n\r\n"]
