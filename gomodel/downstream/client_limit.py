"""The limit of client connections: it leaves the file descriptors that the clients' requests need.

No key is needed to open a connection, so without a limit anybody could take every descriptor, and no request of anybody
would get a connection to an instance. Decides which client makes room for another: the one that has been idle longest.
Where nobody is idle the newcomer is told to come back. How many there may be is said in `host.descriptors`.
"""

import logging
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Protocol

from ..host import descriptors

_logger = logging.getLogger("gomodel")

# A client that was active this recently may have its next request on the way.
_QUIET_S = 0.5
# A newcomer that is refused has this long to send the request that gets the answer, and that sure of its place it is
# when others come; so many may be waiting at a time.
REFUSED_S = 2.0
_SURE_S = 0.1
_REFUSED_SHARE = 16
# Looking for idle clients goes through all of them, so it finds many at once and is not repeated sooner.
_LOOK_AGAIN_S = 0.1
_LOG_INTERVAL_S = 1.0


class Client(Protocol):
    """A client connection, as far as it matters here."""

    @property
    def idle_since(self) -> float | None: ...  # loop time; None while a request is being served
    def abort(self) -> None: ...


class Refused(Protocol):
    """A client for whom there was no room."""

    @property
    def to_spare(self) -> bool: ...  # nothing is being done for it: it has not asked yet, or has its answer
    def abort(self) -> None: ...


class ClientLimit:
    """How many clients there may be, `most`, and who has to go when there are more."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._victims: deque[Client] = deque()
        self._waiting: dict[Refused, float] = {}  # who was refused and is still there, since when; the oldest first
        self._look_at = float("-inf")
        self._said_at = float("-inf")
        self._closed = self._refused = self._dropped = 0

    @property
    def refusals(self) -> int:
        """How many clients without room there may be at a time."""
        return max(descriptors.FEWEST_CLIENTS, self.most // _REFUSED_SHARE)

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

    def may_wait(self, count: int, now: float) -> bool:
        """Whether the newest of `count` clients, for whom there is no room, may stay to be told so.

        When as many wait already as may, whoever was refused longest ago has to give up its place: else those who say
        nothing would keep everybody from an answer.
        """
        told = count <= self.most + self.refusals or self._give_up_place(now)
        self._refused += told
        self._dropped += not told
        self._say()
        return told

    def waits(self, client: Refused, now: float) -> None:
        """A client has been refused, and is told so when it asks."""
        self._waiting[client] = now

    def left(self, client: Refused) -> None:
        """A client is gone, or shall be no concern of this any more."""
        self._waiting.pop(client, None)

    def _give_up_place(self, now: float) -> bool:
        for client, since in self._waiting.items():
            if now - since < _SURE_S:
                return False
            if client.to_spare:
                del self._waiting[client]
                client.abort()
                return True
        return False

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
