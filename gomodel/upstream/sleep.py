"""Whether a vLLM is asleep: it answers /health, takes requests, and does nothing with them until somebody wakes it up.

Decides what GET /is_sleeping says. vLLM has it, as it has the route that puts it to sleep, in its development mode
alone (VLLM_SERVER_DEV_MODE=1), and what stands before it may hide it. Its metrics say so as well, but are too much to
be read often. Knows nothing of when it is asked or of what follows.
"""

import asyncio
import json
import re

from .own_metrics import metrics_of
from .own_requests import FAILURES, ask
from .replica import Replica

_LIMIT_S = 2.0
_LIMIT_BYTES = 4096
# One for each engine behind the address, 1 while it is awake.
_AWAKE = re.compile(rb'^vllm:engine_sleep_state\{[^}\n]*\bsleep_state="awake"[^}\n]*\} (\S+)', re.MULTILINE)


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


async def is_asleep_by_its_metrics(replica: Replica) -> bool | None:
    """What its metrics say, for one that has no such route; None when they could not be read now."""
    metrics = await metrics_of(replica)
    return None if metrics is None else await asyncio.to_thread(says_so, metrics)


def says_so(metrics: bytes) -> bool:
    """Whether all engines sleep that these metrics have a word of."""
    states = _AWAKE.findall(metrics)
    return bool(states) and all(state in (b"0", b"0.0") for state in states)
