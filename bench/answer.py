"""One HTTP/1.1 response, decoded strictly enough to notice a lost byte.

Decides when a response is complete and when it is broken. Knows nothing of connections or of what the body means.
"""

import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+) *\r\n", re.I)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked *\r\n", re.I)
_CLOSE = re.compile(rb"\r\nconnection: *close *\r\n", re.I)
_HEAD_LIMIT = 65536


class Broken(Exception):
    """The bytes received are not one well-framed response."""


class Answer:
    """Feed it what the socket delivers, it returns body bytes. A body without framing is refused: its end proves
    nothing."""

    __slots__ = ("_buffer", "_left", "body_bytes", "closing", "done", "status")

    def __init__(self) -> None:
        self.status = 0
        self.done = False
        self.closing = False
        self.body_bytes = 0
        self._left: int | None = None
        self._buffer = b""

    def feed(self, data: bytes) -> bytes:
        """Body bytes that `data` completes. Raises Broken on bad framing or bytes after the end."""
        if self.done:
            raise Broken("bytes after the end of the response")
        if not self.status:
            self._buffer += data
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                if len(self._buffer) > _HEAD_LIMIT:
                    raise Broken("endless head")
                return b""
            head, data, self._buffer = self._buffer[: end + 2], self._buffer[end + 4 :], b""
            self._read_head(head)
        body = self._chunks(data) if self._left is None else self._counted(data)
        self.body_bytes += len(body)
        return body

    def _read_head(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 ") or not head[9:12].isdigit():
            raise Broken("not an HTTP/1.1 response")
        self.status = int(head[9:12])
        self.closing = bool(_CLOSE.search(head))
        length, chunked = _LENGTH.search(head), _CHUNKED.search(head)
        if bool(length) == bool(chunked):
            raise Broken("neither or both of Content-Length and chunked")
        self._left = int(length[1]) if length else None

    def _counted(self, data: bytes) -> bytes:
        assert self._left is not None
        self._left -= len(data)
        if self._left < 0:
            raise Broken("more body than Content-Length")
        self.done = self._left == 0
        return data

    def _chunks(self, data: bytes) -> bytes:
        buffer = self._buffer + data if self._buffer else data
        at = 0
        pieces = []
        while (eol := buffer.find(b"\r\n", at)) >= 0:
            try:
                size = int(buffer[at:eol].partition(b";")[0], 16)
            except ValueError:
                raise Broken("not a chunk size") from None
            end = eol + 2 + size
            if len(buffer) < end + 2:
                break
            if buffer[end : end + 2] != b"\r\n":
                raise Broken("chunk without its end" if size else "trailer fields")
            at = end + 2
            if size == 0:
                if at != len(buffer):
                    raise Broken("bytes after the end of the response")
                self.done = True
                break
            pieces.append(buffer[eol + 2 : end])
        self._buffer = buffer[at:]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
