"""A head that came before on its connection, and what was made of it: neither is parsed or looked at again.

Decides what of a request is kept for the next one, as little as there is. Which heads are equal or alike is said by
`http1.repeated_head` and `http1.similar_head`.
"""

from ..http1.message import RequestMessage
from ..http1.repeated_head import LIMIT_BYTES, RepeatedHead
from ..http1.request_fields import RequestFields
from ..http1.similar_head import SimilarHead, similar
from .request import Request
from .request_head import NO_HEADERS, NO_URL


class KnownHead:
    """The last request's head, and what was made of it; `fields` is None until it has been served."""

    __slots__ = ("_similar", "fields", "head", "message")

    def __init__(self, head: RepeatedHead, message: RequestMessage) -> None:
        self.head = head
        self.message = message
        self.fields: RequestFields | None = None
        self._similar: SimilarHead | None = None  # made when a head comes that is not this one

    def like(self, data: bytes, limit_bytes: int) -> int:
        """Where the body begins in `data` if the head is like this one, whose fields become its; else 0."""
        fields, found = self.fields, self._similar
        assert fields is not None
        if found is None:
            raw = self.message.raw_headers
            if not raw:
                return 0
            head = self.head.with_length(fields.content_length or 0)
            self._similar = found = similar(head, fields.varying(raw), min(LIMIT_BYTES, limit_bytes))
            self.message = self.message._replace(raw_headers=())
            fields.forwarded = []
            if found is None:
                return 0
        start = found.match(data)
        return start if start and fields.vary(found.changed) else 0

    def learn(self, request: Request) -> bool:
        """Keep what was made of the head of a request that was served; False for one of more meaning."""
        fields = request.fields
        if fields.expect or not request.keep_alive or fields.content_length is None:
            return False
        fields.write_once()
        self.fields = fields
        self.message = request.message._replace(headers=NO_HEADERS, url=NO_URL)
        return True
