"""What is done with each header field of a client's request, by its name: the table behind `request_fields`.

Decides which fields are the gateway's own to read or to drop and which name a session (contract sections 4 and 7). Pure
data.
"""

from collections.abc import Iterable

from .hop_by_hop import HOP_BY_HOP
from .private_fields import BATCH_OF
from .private_fields import OWNER as OWNER_FIELD

# The client's credentials are for the gateway; Host, Expect and the request id are written anew.
NEVER_UPSTREAM = frozenset({b"host", b"authorization", b"x-api-key", b"api-key", b"cookie", b"expect", b"x-request-id"})

# What is done with a field, by its name.
(
    PLAIN,
    DROP,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    HOST,
    AUTHORIZATION,
    API_KEY,
    TRANSFER_ENCODING,
    CONNECTION,
    REQUEST_ID,
    EXPECT,
    TRACEPARENT,
    ORIGIN,
    SUBPROTOCOLS,
    CONTENT_ENCODING,
    REPLICA,
    OWNER,
    BATCH,
) = range(18)
_KINDS: dict[bytes, int] = dict.fromkeys(HOP_BY_HOP | NEVER_UPSTREAM, DROP) | {
    b"content-length": CONTENT_LENGTH,
    b"content-type": CONTENT_TYPE,
    b"host": HOST,
    b"authorization": AUTHORIZATION,
    b"x-api-key": API_KEY,
    b"api-key": API_KEY,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"x-request-id": REQUEST_ID,
    b"expect": EXPECT,
    b"traceparent": TRACEPARENT,
    b"origin": ORIGIN,
    b"sec-websocket-protocol": SUBPROTOCOLS,
    b"content-encoding": CONTENT_ENCODING,
    b"x-gomodel-replica": REPLICA,
    OWNER_FIELD.lower().encode(): OWNER,
    BATCH_OF.lower().encode(): BATCH,
}
OWN_MEANING = frozenset(_KINDS)
# From here on they name the session, the likeliest first. Not X-Correlation-ID, which in many shops is one request's.
SESSION = 100
SESSION_NAMES = (
    "x-session-id",
    "x-claude-code-session-id",
    "session-id",
    "session_id",
    "x-litellm-session-id",
    "helicone-session-id",
    "agent-session-id",
)


def kinds_of_fields(sessions: Iterable[str] = SESSION_NAMES) -> dict[bytes, int]:
    """What is done with a field, by its name; `sessions` are those that name a session, the first that is there counts.

    A name that has another meaning keeps it.
    """
    return {name.lower().encode(): SESSION + at for at, name in reversed(list(enumerate(sessions)))} | _KINDS
