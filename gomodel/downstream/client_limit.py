"""The limit of client connections: it leaves the file descriptors that the clients' requests need.

No key is needed to open a connection, so without a limit anybody could take every descriptor, and no request of anybody
would get a connection to an instance. Decides how many clients there may be and which one makes room for another: the
one that has been idle longest. Where nobody is idle the newcomer is told to come back.
"""

import logging
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Protocol

from ..host import descriptors

_logger = logging.getLogger("gomodel")

# Whatever the system allows; a limit of open files that is too low for this many fails in other ways.
FEWEST = 8
# Of our own, besides what is open at the start: files of a look-up, a log that is opened anew, a scrape of the workers.
_SPARE = 8
# Each instance's probe, its model list, and a look-up of its name.
_PER_INSTANCE = 4
# A client that was active this recently may have its next request on the way.
_QUIET_S = 0.5
# A newcomer that is refused has this long to send the request that gets the answer; so many may be waiting at a time.
REFUSED_S = 2.0
_REFUSED_SHARE = 16
# Looking for idle clients goes through all of them, so it finds many at once and is not repeated sooner.
_LOOK_AGAIN_S = 0.1
_LOG_INTERVAL_S = 1.0


class Client(Protocol):
    """A client connection, as far as it matters here."""

    @property
    def idle_since(self) -> float | None: ...  # loop time; None while a request is being served
    def abort(self) -> None: ...


def most_clients(limit: int, used: int, instances: int) -> int:
    """How many clients there may be, where `limit` files may be open and `used` are.

    Of what is left two fifths are for clients, as much for the instances' connections that serve them, and the last
    fifth for those that lie idle (`most_idle`).
    """
    return max(FEWEST, 2 * _left(limit, used, instances) // 5)


def most_idle(limit: int, used: int, instances: int) -> int:
    """How many idle connections each of `instances` may keep."""
    return max(1, _left(limit, used, instances) // 5 // instances)


def _left(limit: int, used: int, instances: int) -> int:
    return limit - used - _SPARE - _PER_INSTANCE * instances


class ClientLimit:
    """How many clients there may be, `most`, and who has to go when there are more."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._victims: deque[Client] = deque()
        self._look_at = float("-inf")
        self._said_at = float("-inf")
        self._closed = self._refused = self._dropped = 0

    @property
    def refusals(self) -> int:
        """How many clients without room there may be at a time."""
        return max(FEWEST, self.most // _REFUSED_SHARE)

    def make_room(self, clients: Iterable[Client], now: float) -> bool:
        """Close the client that has been idle longest; whether there was one. `now` is the loop's time."""
        if not self._victims and now >= self._look_at:
            self._look_at = now + _LOOK_AGAIN_S
            idle = [(since, each) for each in clients if (since := each.idle_since) is not None]
            idle.sort(key=lambda pair: pair[0])
            self._victims.extend(each for since, each in idle[: len(idle) // 8 + 1] if now - since >= _QUIET_S)
        while self._victims:
            victim = self._victims.popleft()
            since = victim.idle_since
            if since is not None and now - since >= _QUIET_S:
                victim.abort()
                self._closed += 1
                self._say()
                return True
        return False

    def refuses(self, count: int) -> bool:
        """Whether the newest of `count` clients may stay to be told so, as there is no room for it."""
        told = count <= self.most + self.refusals
        self._refused += told
        self._dropped += not told
        self._say()
        return told

    def _say(self) -> None:
        """Once a second at most, whatever goes on."""
        now = monotonic()
        if now - self._said_at < _LOG_INTERVAL_S:
            return
        self._said_at = now
        _logger.warning(
            "%d clients are connected, as many as %d open files allow: %d idle ones closed, %d new ones answered 503, "
            "%d closed unanswered",
            self.most,
            descriptors.limit(),
            self._closed,
            self._refused,
            self._dropped,
        )
        self._closed = self._refused = self._dropped = 0
