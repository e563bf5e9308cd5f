"""Writes the head that goes to an instance, and the first line of every answer. Pure.

Decides what the gateway adds to the fields that cross: the instance's own lines, the request's id, a corrected length.
Knows nothing of how those fields were chosen.
"""

import re
from http import HTTPStatus

from .request_fields import RequestFields

_STATUS_LINES = {each.value: b"HTTP/1.1 %d %b\r\n" % (each.value, each.phrase.encode()) for each in HTTPStatus}
_REASONS = {each.value: each.phrase for each in HTTPStatus}
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
        fields.upstream, fields.written = (own, start + own), (-1, b"")  # which was another server's
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
    upstream = fields.upstream
    if upstream is None or upstream[0] is not own:
        return None
    length = (fields.content_length or 0) - removed_bytes
    written = fields.written
    if written[0] == length:
        return written[1]
    before, after = fields.around_length or (b"", b"")
    head = b"%b%b%d%bX-Request-Id: " % (upstream[1], before, length, after)
    fields.written = length, head
    return head


def status_line(status: int, reason: str | None = None) -> bytes:
    """The status line; a reason that may not be written (RFC 9112 4) becomes the standard one."""
    if reason is None or reason == _REASONS.get(status) or not _REASON.fullmatch(reason):
        return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
    return b"HTTP/1.1 %d %b\r\n" % (status, reason.encode())
