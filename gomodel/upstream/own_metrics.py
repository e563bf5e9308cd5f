"""What a vLLM says in its own metrics, as text: read when somebody asks, since it is some hundred KB.

Decides how long it may take and how much there may be. What of it counts is for the reader.
"""

from .own_requests import FAILURES, ask
from .replica import Replica

_LIMIT_S = 2.0
# With many adapters it is more than the usual hundreds of KB.
_MOST_BYTES = 8 << 20


async def metrics_of(replica: Replica) -> bytes | None:
    """Its metrics, b"" where it has none; None where it does not answer in time."""
    try:
        async with ask(replica, "/metrics", limit_s=_LIMIT_S, at_root=True) as response:
            pieces = bytearray()
            while response.status == 200 and (piece := await response.content.read(_MOST_BYTES)):
                pieces += piece
                if len(pieces) > _MOST_BYTES:
                    return b""
            return bytes(pieces)
    except (*FAILURES, TimeoutError):
        return None
