"""How OpenAI and Anthropic word a failure: as a JSON body, and as the last event of a stream that breaks off.

The shapes are those of contract sections 3 and 7. The event says who broke the stream off, the instance or the gateway
itself, and is sent only where the stream stands at an event boundary. Pure; knows nothing of connections.
"""

import json

from .errors import GatewayError, why_aborted

# A blank line. Not LF CR: where lines end in CRLF its LF is still to come, and clients that split there would read on.
_TAILS = (b"\n\n", b"\n\r\n", b"\r\r", b"\r\r\n")
# Anthropic has its own vocabulary for `type`, by status; anything else is api_error (docs: API errors).
_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def _compact(content: object) -> bytes:
    """JSON as the contract writes it, without spaces."""
    return json.dumps(content, separators=(",", ":")).encode()


def openai_body(error: GatewayError) -> bytes:
    """The OpenAI shape; contract section 3."""
    inner = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return _compact({"error": inner})


def _anthropic_type(error: GatewayError) -> str:
    """Anthropic's word for this kind of error."""
    return _ANTHROPIC_TYPES.get(error.status) or ("invalid_request_error" if error.status < 500 else "api_error")


def anthropic_body(error: GatewayError) -> bytes:
    """The Anthropic shape, for requests to /v1/messages*; contract section 3."""
    return _compact({"type": "error", "error": {"type": _anthropic_type(error), "message": error.message}})


def at_event_boundary(tail: bytes) -> bool:
    """Whether an event could start after `tail`, the last four or more bytes sent; nothing sent yet is a boundary."""
    return not tail or tail.endswith(_TAILS)


def interruption_event(path: str, instance: str, aborted: str = "") -> bytes:
    """The event for a stream of `path`; OpenAI's shape unless the API has typed events of its own.

    `path` is raw, counts from the instance's base URL and is "" for what lies beside it. `aborted` is why the gateway
    ended the stream itself, "" when the instance broke it off.
    """
    family = path[1:].partition("?")[0].partition("/")[0]
    if aborted:
        error = why_aborted(aborted)
        message, kind, anthropic = f"{error.message} The answer is not complete.", error.type, _anthropic_type(error)
    else:
        message = f"The stream from instance '{instance}' was interrupted before it was complete."
        kind, anthropic = "upstream_error", "api_error"
    if family == "messages":
        inner = {"type": "error", "error": {"type": anthropic, "message": message}}
        return b"event: error\ndata: " + _compact(inner) + b"\n\n"
    if family == "responses":
        typed = {"type": "error", "code": "stream_interrupted", "message": message, "param": None}
        return b"event: error\ndata: " + _compact(typed) + b"\n\n"
    plain = {"message": message, "type": kind, "param": None, "code": "stream_interrupted"}
    return b"data: " + _compact({"error": plain}) + b"\n\n"
