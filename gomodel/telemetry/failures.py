"""The last requests that failed, as the log has them: for whoever opens the page in the middle of an incident.

Decides how many are kept. What a failure is, is the access line's to say: what is logged at WARNING or above.
"""

from collections import deque
from time import time
from typing import Any

KEPT = 100

_last: deque[dict[str, Any]] = deque(maxlen=KEPT)


def note(said: dict[str, object]) -> None:
    """Keep what the access line says of a request that failed now."""
    _last.append({"at": time(), **said})


def last() -> list[dict[str, Any]]:
    """Those that are kept, the oldest first, each with `at`, POSIX time."""
    return list(_last)
