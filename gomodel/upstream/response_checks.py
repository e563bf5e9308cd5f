"""Which heads of responses must not be believed, and what is said of them.

Decides from a parsed head alone, or from the parser's refusal (RFC 9112 6.3, RFC 9110 15). Opens nothing.
"""

from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong

from ..errors import UpstreamError
from ..http1.message import ResponseMessage
from ..http1.response_fields import ResponseFields

_VERSIONS = (HttpVersion10, HttpVersion11)
# No body is longer; the parser lets 2**64 - 1 pass, its own word for none.
_MAX_LENGTH = 1 << 63
# What a TLS server says to a request in plain text (RFC 8446 5.1: alert, any version).
_TLS_ALERT = b"\x15\x03"


def distrust(message: ResponseMessage, fields: ResponseFields) -> tuple[str, str] | None:
    """Why a response that parsed must not be believed (RFC 9112 6.3, RFC 9110 15), as (code, what it did); or None."""
    if message.code == 101:
        return "http_upgrade_failed", "switched protocols without being asked"
    if not 200 <= message.code <= 599 or message.version not in _VERSIONS:
        return "http_protocol_error", "sent an invalid status line"
    codings = fields.codings
    if codings and (len(codings) > 1 or codings[0].lower() != b"chunked" or not message.chunked):
        return "http_response_transfer_coding", "used a transfer coding that is not 'chunked'"
    if len(fields.lengths) + len(codings) > 1:
        return "http_protocol_error", "framed its response in two ways"
    if fields.lengths and int(fields.lengths[0]) >= _MAX_LENGTH:
        return "http_protocol_error", "framed its response in an invalid way"
    return None


def parse_error(instance: str, exc: Exception, data: bytes) -> UpstreamError:
    """What a refusal of `data` means, in RFC 9209's words; the parser's text, which quotes the response, stays here."""
    if data.startswith(_TLS_ALERT):
        code, what = "http_protocol_error", "speaks TLS but is set to plain http"
    elif isinstance(exc, LineTooLong):
        code, what = "http_response_header_size", "sent a header that is too large"
    elif isinstance(exc, BadHttpMessage) and "Too many headers" in exc.message:
        code, what = "http_response_header_section_size", "sent too many headers"
    else:
        code, what = "http_protocol_error", "sent something that is not a valid HTTP response"
    return fault(instance, code, what)


def fault(instance: str, code: str, what: str) -> UpstreamError:
    """An instance did `what`, for which `code` is the word of RFC 9209 2.3."""
    return UpstreamError(f"Instance '{instance}' {what}.", code=code)
