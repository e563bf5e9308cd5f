"""What an SSE client reads when its stream breaks off: one last event, where the stream stands at an event boundary.

Each API has its own error event (contract section 7). Pure; knows nothing of connections.
"""

from .errors import compact

# A blank line. Not LF CR: where lines end in CRLF its LF is still to come, and clients that split there would read on.
_TAILS = (b"\n\n", b"\n\r\n", b"\r\r", b"\r\r\n")


def at_event_boundary(tail: bytes) -> bool:
    """Whether an event could start after `tail`, the last four or more bytes sent; nothing sent yet is a boundary."""
    return not tail or tail.endswith(_TAILS)


def interruption_event(path: str, instance: str) -> bytes:
    """The event for a stream of `path`; OpenAI's shape unless the API has typed events of its own.

    `path` is raw, counts from the instance's base URL and is "" for what lies beside it.
    """
    family = path[1:].partition("?")[0].partition("/")[0]
    message = f"The stream from instance '{instance}' was interrupted before it was complete."
    if family == "messages":
        inner = {"type": "error", "error": {"type": "api_error", "message": message}}
        return b"event: error\ndata: " + compact(inner) + b"\n\n"
    if family == "responses":
        typed = {"type": "error", "code": "stream_interrupted", "message": message, "param": None}
        return b"event: error\ndata: " + compact(typed) + b"\n\n"
    error = {"message": message, "type": "upstream_error", "param": None, "code": "stream_interrupted"}
    return b"data: " + compact({"error": error}) + b"\n\n"
