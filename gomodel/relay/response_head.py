"""Begins a response to the client: the instance's head, without what ends here and with what the gateway adds.

Decides how the body is framed for the client, which addresses are rewritten, and the fields that keep proxies from
holding a stream back (contract section 7). Writes nothing itself.
"""

import asyncio

from ..downstream.request import Request, date_line
from ..errors import OldHttp
from ..http1.head import status_line
from ..http1.locations import Site, localised
from ..http1.message import ResponseMessage
from ..http1.response_fields import ResponseFields
from ..http1.writers import Chunked, Sized, UntilClose, Writer, WrongLength
from ..upstream.replica import Replica

_NO_CONTENT = 204
_NO_BODY = frozenset({_NO_CONTENT, 304})


def begin_response(
    request: Request,
    replica: Replica,
    upstream: asyncio.BaseTransport | None,
    message: ResponseMessage,
    fields: ResponseFields,
    data: bytes,
    complete: bool,
) -> tuple[bytes, Writer | None]:
    """The head and behind it `data`, for one write; and the writer for what follows, None where nothing can.

    `upstream` is the connection that it came over. Raises OldHttp for a body whose end the client could not tell from a
    broken connection (RFC 9112 8), WrongLength for one that is not as long as its head says.
    """
    if (
        fields.written
        and complete
        and request.keep_alive
        and not (request.cors or (request.added and fields.rate_limits))
        and request.method != "HEAD"
    ):  # nearly every answer that is no stream: its head came before
        if len(data) != fields.length:
            raise WrongLength
        date, request_id = b"" if fields.dated else date_line(), request.record.id.encode()
        ours = b"X-Request-Id: ", request_id, replica.provider_lines
        return b"".join((fields.written, request.added, date, *ours, data)), None
    status, lines = message.code, fields.lines
    writer: Writer | None = None
    declared = b""
    if request.method == "HEAD" or status in _NO_BODY:
        pass
    elif fields.lengths:
        length = fields.length
        if not complete:
            writer = Sized(length)
        elif len(data) != length:
            raise WrongLength
    elif not request.http_10:
        writer = Chunked()
        declared = Chunked.FIELD
    elif complete:
        declared = b"Content-Length: %d\r\n" % len(data)
    elif request.protocol.resettable:
        writer = UntilClose()
    else:
        raise OldHttp
    if status == _NO_CONTENT:
        lines = [line for line in lines if line[:15].lower() != b"content-length:"]
    if fields.locating:
        lines = localised(lines, _site(request, replica, upstream), status)
    if request.cors:
        lines = [*(line for line in lines if line[:15].lower() != b"access-control-"), request.cors]
    if request.added:
        if fields.rate_limits:
            lines = [line for line in lines if line[:12].lower() != b"x-ratelimit-"]
        lines = [*lines, request.added]
    parts = [status_line(status, message.reason), *lines]
    if declared:
        parts.append(declared)
    if not fields.dated:
        parts.append(date_line())
    if fields.event_stream:
        if not fields.cache:
            parts.append(b"Cache-Control: no-cache\r\n")
        if not fields.accel:
            parts.append(b"X-Accel-Buffering: no\r\n")
    if not request.keep_alive:
        parts.append(b"Connection: close\r\n")
    parts += b"X-Request-Id: ", request.record.id.encode(), replica.provider_lines
    parts.append(data if writer is None else writer.write(data, complete))
    return b"".join(parts), writer


def _site(request: Request, replica: Replica, upstream: asyncio.BaseTransport | None) -> Site:
    """Where the instance stands, under every name its answer may give itself."""
    route, url, hosts = request.route, replica.url, {replica.url.hostname or ""}
    peer = upstream.get_extra_info("peername") if upstream is not None else None
    if isinstance(peer, tuple):
        hosts.add(peer[0])
    base, root = replica.base_path, replica.root_path
    target = (base if route.below_base else root) + route.tail
    port = str(url.port or "")
    return Site(url.scheme, hosts, port, base, root, route.below_base, target, route.own_base, route.own_root)
