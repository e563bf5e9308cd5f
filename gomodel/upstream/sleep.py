"""Whether a vLLM is asleep: it answers /health, takes requests, and does nothing with them until somebody wakes it up.

Decides what GET /is_sleeping says. vLLM has it, as it has the route that puts it to sleep, in its development mode
alone (VLLM_SERVER_DEV_MODE=1). Knows nothing of when it is asked or of what follows.
"""

import json

from .own_requests import FAILURES, ask
from .replica import Replica

_LIMIT_S = 2.0
_LIMIT_BYTES = 4096


class NoSuchRoute(Exception):
    """The server does not say, and need not be asked again before it was down."""


async def is_asleep(replica: Replica) -> bool | None:
    """What it says; None when it could not be asked now. Raises NoSuchRoute."""
    try:
        async with ask(replica, "/is_sleeping", limit_s=_LIMIT_S, at_root=True) as response:
            if response.status != 200:
                raise NoSuchRoute
            said = json.loads(await response.content.read(_LIMIT_BYTES))
    except FAILURES:
        return None
    if not isinstance(said, dict) or not isinstance(said.get("is_sleeping"), bool):
        raise NoSuchRoute
    return bool(said["is_sleeping"])
