"""A relay that learns the id of a stored response while its first bytes pass by.

Decides how far into an answer it looks. Every byte goes on as it would otherwise.
"""

import re

from ..balancing.stored_responses import StoredResponses
from ..downstream.request import Request
from ..http1.message import ResponseMessage
from ..http1.response_fields import ResponseFields
from ..upstream.replica import Replica
from .relay import Relay

# The id stands first in a JSON answer and in the first event of a stream.
_LOOK_BYTES = 4096
_ID = re.compile(rb'"id"\s*:\s*"(resp_[A-Za-z0-9_.-]{1,250})"')


class LearningRelay(Relay):
    """A relay that tells `stored` where the response that it moves was made."""

    __slots__ = ("_seen", "_stored")

    def __init__(self, request: Request, replica: Replica, stored: StoredResponses) -> None:
        super().__init__(request, replica)
        self._stored: StoredResponses | None = stored
        self._seen = b""

    def on_response(self, message: ResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> None:
        if message.code != 200 or fields.encoded:
            self._stored = None
        self._look(data)
        super().on_response(message, fields, data, complete)

    def on_data(self, data: bytes, complete: bool) -> None:
        if self._stored is not None:
            self._look(data)
        super().on_data(data, complete)

    def _begun(self) -> bool:
        return self._stored is None and super()._begun()

    def _look(self, data: bytes) -> None:
        stored = self._stored
        if stored is None or not data:
            return
        self._seen += data[:_LOOK_BYTES]
        found = _ID.search(self._seen)
        if found is not None:
            stored.learn(found[1].decode(), self.replica)
        if found is not None or len(self._seen) >= _LOOK_BYTES:
            self._stored = None
            self._seen = b""
