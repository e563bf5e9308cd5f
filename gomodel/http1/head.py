"""Writes the head that goes to an instance, and the first line of every answer. Pure.

Decides what the gateway adds to the fields that cross: the instance's own lines, the request's id, a corrected length.
Knows nothing of how those fields were chosen.
"""

import re
from http import HTTPStatus

from .request_fields import RequestFields

_STATUS_LINES = {each.value: b"HTTP/1.1 %d %b\r\n" % (each.value, each.phrase.encode()) for each in HTTPStatus}
_REASONS = {each.value: each.phrase for each in HTTPStatus}
# So many servers may one head be written for before all but the last are forgotten.
_SERVERS = 16
_REASON = re.compile(r"[\t\x20-\x7e]*")


def request_head(
    method: str,
    path: str,
    fields: RequestFields,
    own: bytes,
    request_id: bytes,
    removed_bytes: int,
) -> bytes:
    """The head that goes upstream.

    `own` is the instance's ready-made `Host` and `Authorization` lines, `removed_bytes` what the selector's
    prefix took off the body: Content-Length is corrected by it, where it stands.
    """
    start = f"{method} {path} HTTP/1.1\r\n".encode("latin-1")
    if fields.around_length is not None:
        fields.upstream = WrittenHead(own, start + own)
        _remember(fields, fields.upstream)
        written = written_head(fields, own, removed_bytes)
        assert written is not None
        return b"%b%b\r\n\r\n" % (written, request_id)
    parts = [start, own]
    for name, value in fields.forwarded:
        if removed_bytes and name.lower() == b"content-length":
            value = b"%d" % (int(value) - removed_bytes)  # noqa: PLW2901
        parts.append(b"%b: %b\r\n" % (name, value))
    if fields.chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    parts.append(b"X-Request-Id: %b\r\n\r\n" % request_id)
    return b"".join(parts)


def written_head(fields: RequestFields, own: bytes, removed_bytes: int) -> bytes | None:
    """The same up to the request's id, for a head that was remembered and went to this server before; else None.

    `own` is the very object that `request_head` was given then, which is one server's, and with it the path.
    """
    written: WrittenHead | None = fields.upstream
    if written is None or written.own is not own:
        if fields.upstreams is None or (written := fields.upstreams.get(id(own))) is None:
            return None
        fields.upstream = written
    length, around = (fields.content_length or 0) - removed_bytes, fields.around_length
    if written.length == length and written.around is around:
        return written.head
    before, after = around or (b"", b"")
    written.length, written.around = length, around
    written.head = head = b"%b%b%d%bX-Request-Id: " % (written.start, before, length, after)
    return head


class WrittenHead:
    """A head as it went to one server, up to the request's id, and what it was made of."""

    __slots__ = ("around", "head", "length", "own", "start")

    def __init__(self, own: bytes, start: bytes) -> None:
        self.own = own
        self.start = start
        self.around: object = None
        self.length = -1
        self.head = b""


def _remember(fields: RequestFields, written: WrittenHead) -> None:
    """Conversations of one connection have their homes at several servers."""
    known = fields.upstreams
    if known is None or len(known) >= _SERVERS:
        fields.upstreams = known = {}
    known[id(written.own)] = written  # an object that is kept there, so that the number stays its own


def status_line(status: int, reason: str | None = None) -> bytes:
    """The status line; a reason that may not be written (RFC 9112 4) becomes the standard one."""
    if reason is None or reason == _REASONS.get(status) or not _REASON.fullmatch(reason):
        return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"HTTP/1.1 %d %b\r\n" % (status, reason.encode())
