"""Every failure gomodel can report, as one tree.

Decides status, type, code and whether an attempt was certainly never seen by the instance. Knows nothing of
aiohttp, sockets, logging or JSON (`dialects`). Messages are written here or by the raiser; the text of another
exception never becomes part of one, since it may hold an address, a header or a key.
"""

import math
from collections.abc import Mapping


class GatewayError(Exception):
    """A failure gomodel answers itself. `headers` are extra response headers; contract section 3."""

    status = 500
    type = "api_error"
    code = "internal_error"
    param: str | None = None

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.headers = dict(headers or {})
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class InternalError(GatewayError):
    """A bug in gomodel; the log has the traceback, the client the request id."""

    def __init__(self) -> None:
        super().__init__("Internal error in the gateway. The request id identifies it in the gateway's log.")


class ClientError(GatewayError):
    """The request is at fault; nothing went to an instance."""

    status = 400
    type = "invalid_request_error"
    code = "invalid_request"


class Unauthorized(ClientError):
    """Missing and wrong key read the same, so that neither tells which it was (contract section 2)."""

    status = 401
    type = "authentication_error"
    code = "invalid_api_key"

    def __init__(self) -> None:
        super().__init__(
            "Missing or invalid API key. Send 'Authorization: Bearer <key>' or 'x-api-key: <key>'.",
            headers={"WWW-Authenticate": "Bearer"},
        )


class BadRequest(ClientError):
    """The HTTP message itself is malformed or could be read in two ways (RFC 9112); the connection is closed."""

    code = "bad_request"


class UriTooLong(BadRequest):
    """The request line is over HTTP_HEADER_LIMIT (RFC 9110 15.5.15)."""

    status = 414
    code = "uri_too_long"


class HeaderTooLarge(BadRequest):
    """The head is over HTTP_HEADER_LIMIT, or has too many fields (RFC 6585 5)."""

    status = 431
    code = "header_too_large"


class OldHttp(ClientError):
    """An answer whose end HTTP/1.0 could not tell from a break on this kind of connection (RFC 9110 15.5.22)."""

    status = 426
    code = "http_1_1_required"

    def __init__(self) -> None:
        super().__init__(
            "This answer has no known length, and over TLS or a unix socket HTTP/1.0 cannot tell its end from a break."
            " Use HTTP/1.1 (nginx: proxy_http_version 1.1).",
            headers={"Upgrade": "HTTP/1.1", "Connection": "Upgrade"},
        )


class BadTarget(ClientError):
    """A request target that could leave the provider's base or that servers read differently."""

    code = "invalid_path"


class InvalidBody(ClientError):
    """A body in which the selector cannot be found because it is not what it claims to be."""

    code = "invalid_body"


class UnsupportedCoding(ClientError):
    """A body with a Content-Encoding, in which no selector can be read (RFC 9110 15.5.16)."""

    status = 415
    code = "unsupported_content_encoding"

    def __init__(self, coding: bytes) -> None:
        super().__init__(
            f"The body has the Content-Encoding {coding[:64].decode('latin-1')!r}: send it without one, or below"
            " /p/<instance>/, where it passes.",
            headers={"Accept-Encoding": "identity"},
        )


class ModelRequired(ClientError):
    """`model` is missing, empty or not a string."""

    code = "model_required"
    param = "model"


class ModelNotFound(ClientError):
    """No instance has this name and none lists this model."""

    status = 404
    code = "model_not_found"
    param = "model"
    selector = ""  # as the client wrote it, for the access line


class NotFound(ClientError):
    """No such route, provider or object."""

    status = 404
    code = "not_found"


class InvalidValue(ClientError):
    """A field of a request to the gateway's own API does not hold what it may; `param` names it."""

    code = "invalid_value"

    def __init__(self, param: str | None, message: str, *, code: str | None = None) -> None:
        super().__init__(message, code=code)
        self.param = param


class NoSuchObject(NotFound):
    """No file or batch has this id, or it belongs to another key: both read the same."""

    param = "id"


class RangeNotSatisfiable(ClientError):
    """A file has none of the bytes that a Range asks for (RFC 9110 15.5.17)."""

    status = 416
    code = "range_not_satisfiable"

    def __init__(self, size: int) -> None:
        super().__init__(
            f"The file has {size} bytes, and none of this Range.", headers={"Content-Range": f"bytes */{size}"}
        )


class NoSpace(GatewayError):
    """The disk has no room for what was to be kept (RFC 4918 11.5)."""

    status = 507
    type = "overloaded_error"
    code = "insufficient_storage"

    def __init__(self) -> None:
        super().__init__("The gateway has no room on disk for this.")


class MethodNotAllowed(ClientError):
    """`allow` goes into the Allow header (RFC 9110 15.5.6)."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, allow: str) -> None:
        super().__init__(message, headers={"Allow": allow})


class Forbidden(ClientError):
    """An administrative route of vLLM that the operator did not open."""

    status = 403
    type = "permission_error"
    code = "admin_route_closed"


class NotAllowed(ClientError):
    """The caller's key is good, but not for this route or model (contract section 9)."""

    status = 403
    type = "permission_error"
    code = "not_allowed"


class RateLimited(ClientError):
    """The caller's key has used what it may (contract section 9); `retry_after_s` says when there is more again."""

    status = 429
    type = "rate_limit_error"
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after_s: float, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message, headers={"Retry-After": str(max(1, math.ceil(retry_after_s))), **(headers or {})})


class ForeignOrigin(ClientError):
    """A page of another site, which its browser keeps from reading this."""

    status = 403
    type = "permission_error"
    code = "origin_not_allowed"


class WebSocketNotServed(ClientError):
    """A WebSocket where there is plain HTTP alone; agents read the status as that (RFC 9110 15.5.22)."""

    status = 426
    code = "websocket_not_served"

    def __init__(self) -> None:
        super().__init__(
            "This route has no WebSocket; send a POST.", headers={"Upgrade": "HTTP/1.1", "Connection": "Upgrade"}
        )


class BodyTooLarge(ClientError):
    """The body is over BODY_SIZE_LIMIT."""

    status = 413
    code = "body_too_large"


class RequestTimeout(ClientError):
    """The upload stalled for HTTP_REQUEST_IDLE_TIMEOUT."""

    status = 408
    code = "request_timeout"


class UpstreamError(GatewayError):
    """The instance is at fault. `code` is an RFC 9209 proxy error type."""

    status = 502
    type = "upstream_error"
    code = "connection_terminated"


class ConnectError(UpstreamError):
    """No connection came about, so certainly nothing was sent: the one kind that is always safe to retry."""

    code = "connection_refused"


class UntrustedCertificate(ConnectError):
    """The instance's certificate is signed by nobody this host trusts; a CA of one's own can be named."""

    code = "tls_certificate_error"


class LoopDetected(UpstreamError):
    """The instance is this gateway itself (RFC 9209 `proxy_loop_detected`); never tried again."""

    code = "proxy_loop_detected"

    def __init__(self, instance: str) -> None:
        super().__init__(f"Instance '{instance}' is this gateway itself: its base URL leads back here.")


class RequestCameBack(GatewayError):
    """A request that the gateway sent on has arrived at it again, by way of other gateways (RFC 5842 7.2)."""

    status = 508
    type = "upstream_error"
    code = "proxy_loop_detected"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(
            message or "The gateway has sent this request on and got it back: its instances lead back to it."
        )


class StaleConnection(UpstreamError):
    """A reused connection died before any response byte: the keep-alive race, not the instance's failure."""


class KeyRefused(UpstreamError):
    """The instance answered 401 to the gateway's key, or for want of one. The caller's own key was good."""

    code = "instance_key_refused"

    def __init__(self, instance: str, *, configured: bool) -> None:
        said = "refuses the gateway's key for it" if configured else "wants a key and the gateway has none for it"
        super().__init__(f"Instance '{instance}' {said}. The caller's own key is not at fault.")


class UpstreamTimeout(UpstreamError):
    """The instance was silent for too long."""

    status = 504
    code = "http_response_timeout"


class Overloaded(GatewayError):
    """Refused on purpose, with a time to come back (breaker open, draining, too many connections)."""

    status = 503
    type = "overloaded_error"
    code = "overloaded"

    def __init__(self, message: str, *, code: str, retry_after_s: float) -> None:
        super().__init__(message, code=code, headers={"Retry-After": str(max(1, math.ceil(retry_after_s)))})


class TotalTimeout(GatewayError):
    """The request took longer than HTTP_TIMEOUT: a limit of the gateway, not a failure of the instance."""

    status = 504
    type = "timeout_error"
    code = "total_timeout"

    def __init__(self) -> None:
        super().__init__("The request took longer than the gateway allows (HTTP_TIMEOUT).")


class Aborted(GatewayError):
    """An operator ended the request; `X-Should-Retry` keeps the clients' SDKs from sending it again at once."""

    status = 503
    type = "overloaded_error"
    code = "aborted_by_operator"

    def __init__(self) -> None:
        super().__init__("An operator of the gateway ended this request.", headers={"X-Should-Retry": "false"})


class CircuitOpen(Overloaded):
    """The breaker of the instance is open; `retry_after_s` says when it will let a probe through."""

    type = "upstream_error"


class NotServing(CircuitOpen):
    """The instance is up and is not to be asked: out of rotation, asleep, or found to answer nothing."""


# Why a request was aborted that took longer than HTTP_TIMEOUT.
TOTAL = "total_timeout"
# Why a request was aborted that ran at the end of its process.
SHUTDOWN = "shutdown"


def why_aborted(reason: str) -> GatewayError:
    """What the client of a request that the gateway ended itself is told; `reason` is that of its record."""
    if reason == TOTAL:
        return TotalTimeout()
    if reason == SHUTDOWN:
        return Overloaded("The gateway is shutting down.", code="draining", retry_after_s=5)
    return Aborted()
