"""The honest end of a response that cannot be finished: an error event where one may stand, then no clean end.

Decides what a client reads when its answer breaks off after the head (contract section 7): there is no second status
line, so the connection must end in a way that nobody takes for a whole answer. Knows nothing of why it broke off.
"""

from ..dialects import at_event_boundary, interruption_event
from ..downstream.request import Request
from ..http1.writers import UntilClose, Writer


def break_off(request: Request, instance: str, writer: Writer | None, stream_tail: bytes | None) -> None:
    """End the response to `request`.

    `stream_tail` is the last bytes sent of a stream of events to which one can be added, None for any other body.
    """
    protocol = request.protocol
    request.keep_alive = False
    transport = protocol.transport
    if transport is None:
        return
    if stream_tail is not None and writer is not None and at_event_boundary(stream_tail):
        route = request.route
        path = route.tail if route.below_base else ""
        transport.write(writer.write(interruption_event(path, instance, request.record.aborted), False))
    protocol.truncate(close_delimited=isinstance(writer, UntilClose))
