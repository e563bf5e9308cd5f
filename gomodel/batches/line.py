"""Messages between the batcher and the process that started it: tuples on the stream socket that joins the two.

From the gateway: ("config", Config, directory of sockets, pid of who made that), ("reload", Config), ("drain",),
("hand_over",), ("pressure", dict), ("usage", a life of the gateway, rows of sums). From the batcher: ("beat",),
("pressure?",), ("lines", state, count), ("batches", counts). Both are the same release, so pickle carries them. Losing
the other end is an order to end.
"""

import asyncio
import pickle
from typing import Any

_HEADER_BYTES = 4
BEAT_S = 5.0


class Line:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, *message: Any) -> None:
        """Send a message; to nobody where the other end is gone."""
        if not self._writer.is_closing():
            data = pickle.dumps(message)
            self._writer.write(len(data).to_bytes(_HEADER_BYTES, "big") + data)

    async def receive(self) -> tuple[Any, ...] | None:
        """The next message, None when the other end is gone."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_HEADER_BYTES), "big")
            return pickle.loads(await self._reader.readexactly(length))  # type: ignore[no-any-return]
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
