"""Who waits for a connection to one server, and when one is opened for them: first come, first served.

Whoever waits gets what is ready first, a connection that has become idle or a new one that was opened for it, or for
somebody who needs none any more: a crowd that the server answers quickly needs few connections. A few are opened at a
time, since each costs as much as some requests; who has waited for a moment has one opened whatever becomes of the
others, so that nobody waits behind a connect that hangs, and a server that answers slowly has its connections as soon
as it needs them. Under way are never more than those who wait and a few: a connect that nobody needs any more is given
up, at once where its client has left. Only the failure of the connect that was made for it fails who waits. Decides
who gets which; how one is opened is for `pool`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from ..errors import GatewayError
from .channel import Channel

AT_ONCE = 16
PROMPT_S = 0.025
OPENED = "ok"  # what `opened` is told of a connect that did not fail


class Seeker(Protocol):
    """Whoever waits for a connection."""

    @property
    def gone(self) -> bool: ...  # wants none any more
    def opened(self, code: str) -> None: ...  # what became of the connect that was made for it
    def on_channel(self, channel: Channel) -> None: ...
    def on_no_channel(self, error: GatewayError) -> None: ...


Opened = Callable[[Channel | None, GatewayError | None], None]


class Dial(Protocol):
    """A connect under way."""

    def cancel(self) -> Any: ...


class Line:
    """Those who wait, in their order: `waiting` is false where nobody does."""

    def __init__(self, dial: Callable[[Opened], Dial], keep: Callable[[Channel], None]) -> None:
        """`dial` opens a connection and says what came of it, later; `keep` takes one that nobody waits for."""
        self.waiting: OrderedDict[Seeker, float | None] = OrderedDict()  # since when without a connect of its own
        self._dial = dial
        self._keep = keep
        self._dialing = 0
        self._own: dict[Seeker, Dial] = {}  # the connects of those who wait
        self._spare: OrderedDict[Seeker, Dial] = OrderedDict()  # of those who have got another connection
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def join(self, seeker: Seeker) -> None:
        """Wait for a connection."""
        self.waiting[seeker] = self._loop.time()
        if self._dialing < AT_ONCE and self._dialing < len(self.waiting):
            self._dial_for(seeker)
        else:
            self._be_prompt()

    def leave(self, seeker: Seeker) -> None:
        """Wait no more, since the client has left."""
        self.waiting.pop(seeker, None)
        dial = self._own.pop(seeker, None)
        if dial is not None:
            dial.cancel()

    def serve(self, take: Callable[[], Channel | None]) -> None:
        """Give those who wait what `take` has for them."""
        while self.waiting and (channel := take()) is not None:
            self._give(channel)

    def give_up(self, error: GatewayError) -> None:
        """Nobody gets a connection any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self.waiting:
            seeker, _ = self.waiting.popitem(last=False)
            if not seeker.gone:
                seeker.on_no_channel(error)

    def _give(self, channel: Channel) -> None:
        """To the first who wants it."""
        while self.waiting:
            seeker, _ = self.waiting.popitem(last=False)
            dial = self._own.pop(seeker, None)
            if dial is not None:
                self._spare[seeker] = dial
                if len(self._spare) > AT_ONCE:
                    self._spare.popitem(last=False)[1].cancel()
            if not seeker.gone:
                seeker.on_channel(channel)
                return
        self._keep(channel)

    def _dial_for(self, seeker: Seeker) -> None:
        self.waiting[seeker] = None
        self._dialing += 1
        self._own[seeker] = self._dial(partial(self._dialed, seeker))

    def _dialed(self, seeker: Seeker, channel: Channel | None, error: GatewayError | None) -> None:
        self._dialing -= 1
        wanted = self._own.pop(seeker, None) or self._spare.pop(seeker, None)
        if channel is not None or wanted is not None:
            seeker.opened(OPENED if error is None else error.code)
        if channel is not None:
            if seeker in self.waiting:
                self.waiting.move_to_end(seeker, last=False)
            self._give(channel)
        elif error is not None and seeker in self.waiting:
            del self.waiting[seeker]
            if not seeker.gone:
                seeker.on_no_channel(error)
        if self._dialing < AT_ONCE and self._dialing < len(self.waiting):
            following = next((each for each, since in self.waiting.items() if since is not None), None)
            if following is not None:
                self._dial_for(following)

    def _be_prompt(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(PROMPT_S, self._late)

    def _late(self) -> None:
        """Open one for each who has waited long enough."""
        self._timer = None
        due = self._loop.time() - PROMPT_S
        for each in [each for each in self.waiting if each.gone]:
            self.leave(each)
        lacking = [(each, since) for each, since in self.waiting.items() if since is not None]
        for each, since in lacking:
            if since <= due:
                self._dial_for(each)
        if any(since > due for _, since in lacking):
            self._be_prompt()
