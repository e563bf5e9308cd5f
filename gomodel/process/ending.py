"""The end of a gateway of several workers: begun, insisted on, and the exit status that comes of it.

Decides when workers that do not end are killed, and what the end of one makes of the gateway's own exit status
(contract section 7). Knows nothing of processes; the clock is passed in.
"""

# The exit status of a worker that aborted running requests on order.
CUT_SHORT = 3
_NEVER = float("inf")


class Ending:
    """`begin` it, as often as it gets more urgent; `status` when the last worker is gone."""

    __slots__ = ("_cut_short", "_failed", "_signal", "begun", "kill_at", "limited", "overdue")

    def __init__(self) -> None:
        self.begun = False
        self.limited = False  # what runs has to end in time
        self.overdue = False  # and has not
        self.kill_at = _NEVER
        self._signal = 0  # that insisted on it
        self._cut_short = False
        self._failed = False

    def hand_over(self) -> None:
        """Begin, with no limit of time: another release takes what is new."""
        self.begun = True

    def begin(self, now: float, limit_s: float, *, failed: bool = False, insisted: int = 0) -> None:
        """End within `limit_s`: because the gateway `failed`, or a signal, the second one, `insisted`."""
        self.begun = self.limited = True
        self.kill_at = now + limit_s
        self._failed |= failed
        self._signal = insisted or self._signal

    def kills(self, now: float) -> bool:
        """Whether the limit is over; true once."""
        if now < self.kill_at:
            return False
        self.kill_at = _NEVER
        self.overdue = True
        return True

    def lost(self, status: int) -> bool:
        """A worker ended with `status`, negative for a signal; False where that makes the end a failure."""
        if status == CUT_SHORT or (status and self._signal):
            self._cut_short = True
        elif status:
            self._failed = True
            return False
        return True

    @property
    def status(self) -> int:
        """The exit status: as a shell shows the signal that cut requests short, 1 after a failure, else 0."""
        return 128 + self._signal if self._cut_short and self._signal else int(self._failed)
