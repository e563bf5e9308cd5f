"""What an SSE client reads when its stream breaks off: one last event, where the stream stands at an event boundary.

Each API has its own error event (contract section 7). Says who broke it off, the instance or the gateway itself.
Pure; knows nothing of connections.
"""

from .errors import anthropic_type, compact, why_aborted

# A blank line. Not LF CR: where lines end in CRLF its LF is still to come, and clients that split there would read on.
_TAILS = (b"\n\n", b"\n\r\n", b"\r\r", b"\r\r\n")


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
        message, kind, anthropic = f"{error.message} The answer is not complete.", error.type, anthropic_type(error)
    else:
        message = f"The stream from instance '{instance}' was interrupted before it was complete."
        kind, anthropic = "upstream_error", "api_error"
    if family == "messages":
        inner = {"type": "error", "error": {"type": anthropic, "message": message}}
        return b"event: error\ndata: " + compact(inner) + b"\n\n"
    if family == "responses":
        typed = {"type": "error", "code": "stream_interrupted", "message": message, "param": None}
        return b"event: error\ndata: " + compact(typed) + b"\n\n"
    plain = {"message": message, "type": kind, "param": None, "code": "stream_interrupted"}
    return b"data: " + compact({"error": plain}) + b"\n\n"
