"""Which answers of vLLM say that it did no work: status and words of a refusal. Pure.

Decides what an error answer means for whoever may send the request elsewhere. Knows nothing of retries. Words are
matched and not shapes, since a plain error of the same status has the same shape: a 500 may be the request's own fault,
a 503 may come from a proxy that has lost its server, a 404 may be a route. Seen in vLLM 0.32 and 0.33.
"""

import re

from .attempts import Outcome

# Statuses that may be refusals; an answer with one of them and a body of this size waits until all of it is there.
STATUSES = frozenset({401, 403, 404, 500, 503})
LIMIT_BYTES = 4096

# --shutdown-timeout: /health says 200 and every new request gets this.
_SHUTDOWN = b"cannot schedule new futures after shutdown"
# --max-num-queued-reqs and -tokens; elastic scaling; /pause. The types are those of OpenAI's and Anthropic's dialect.
_busy = re.compile(
    rb"ServiceUnavailableError|overloaded_error|currently busy|currently scaling|Generation is paused"
).search
# An adapter that was unloaded, or a server that came back with another model. Of the Python and the Rust front end.
_unloaded = re.compile(rb"model[^\"]{0,300} does not exist|model_not_found").search


def refusal(status: int, body: bytes) -> Outcome | None:
    """What a whole answer refuses; None for one that is the client's to read."""
    if status == 401:
        return Outcome.KEY_REFUSED
    if status == 403:
        return Outcome.FORBIDDEN
    if status == 500 and _SHUTDOWN in body:
        return Outcome.DRAINING
    if status == 503 and _busy(body):
        return Outcome.BUSY
    if status == 404 and _unloaded(body):
        return Outcome.UNLOADED
    return None
