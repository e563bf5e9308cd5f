"""The circuit breaker of one server: closed, open after failures in a row, tried again by one request at a time.

Decides when a server is left alone and what brings it back (contract section 7). Knows nothing of what a failure is:
its callers report connection-level failures and 502/503/504, never a 4xx or a busy server, never a client that left.
Times are seconds of any monotonic clock, given by the caller.

Two things close it: a trial, which is a request let through after `timeout_s`; and a health probe that was answered, if
it began after the last failure. A probe is not believed twice in a row: when requests go on failing after one closed
the breaker, as on a server whose engine is dead behind a live /health, only a trial closes it again.
"""

import logging
from types import TracebackType

from ..config.settings import BreakerConfig

_logger = logging.getLogger("gomodel")


class Admission:
    """A request's pass through a breaker: a context in which it says how it went; without a word nothing is counted."""

    __slots__ = ("_breaker",)
    trial = False

    def __init__(self, breaker: "Breaker") -> None:
        self._breaker = breaker

    def __enter__(self) -> "Admission":
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """An ordinary request that ends without a verdict changes nothing."""

    def succeeded(self, now: float) -> None:
        """The server answered."""
        self._breaker._succeeded()

    def failed(self, now: float, cause: str) -> None:
        """The server failed; `cause` is a word for the log and /health/ready."""
        self._breaker._failed(now, cause)


class Trial(Admission):
    """The pass of a request that finds out whether the server is back. Its first verdict closes or reopens the breaker;
    left without one it makes room for the next trial at once."""

    __slots__ = ("_open",)
    trial = True

    def __init__(self, breaker: "Breaker") -> None:
        super().__init__(breaker)
        self._open = True

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        if self._open:
            self._breaker._abandoned()

    def succeeded(self, now: float) -> None:
        if self._open:
            self._open = False
            self._breaker._answered_trial(now)
        else:
            self._breaker._succeeded()

    def failed(self, now: float, cause: str) -> None:
        if self._open:
            self._open = False
            self._breaker._failed_trial(now, cause)
        else:
            self._breaker._failed(now, cause)


class Breaker:
    """Closed until `failure_threshold` requests in a row failed; then open, with a trial each `timeout_s` at most."""

    __slots__ = (
        "_config",
        "_doubtful",
        "_failures",
        "_successes",
        "_trial_at",
        "_vouched",
        "cause",
        "closed",
        "doubted",
        "failed_at",
        "opened_at",
        "ordinary",
        "title",
    )

    def __init__(self, config: BreakerConfig, title: str = "") -> None:
        """`title` is what the log calls the server."""
        self._config = config
        self.title = title
        self.ordinary = Admission(self)  # of all that pass while it is closed
        self.closed = True
        self._failures = 0
        self.doubted = False  # while closed: whether the success of an ordinary request would change anything
        self._successes = 0
        self.opened_at = 0.0
        self.cause = ""  # of the last failure, an RFC 9209 word or the status
        self.failed_at = 0.0
        self._trial_at = 0.0  # when the next trial may begin
        self._vouched = False  # a probe closed it, and no request has confirmed that yet
        self._doubtful = False  # open again after a probe closed it in vain: the next one is not believed

    def configure(self, config: BreakerConfig) -> None:
        """Count by `config` from now on; what was counted stays."""
        self._config = config

    def retry_after_s(self, now: float) -> float:
        """Seconds until a request may pass; 0 when one may pass now."""
        return 0.0 if self.closed else max(0.0, self._trial_at - now)

    def candidate(self, now: float) -> bool:
        """Whether a request could pass now; changes nothing."""
        return self.closed or now >= self._trial_at

    def admit(self, now: float) -> Admission | None:
        """Let a request pass, or not: None. While open it is a `Trial`, and the next one begins `timeout_s` later, even
        if this one is still waiting: one slow answer must not keep everybody else away."""
        if self.closed:
            return self.ordinary
        if now < self._trial_at:
            return None
        self._trial_at = now + self._config.timeout_s
        return Trial(self)

    def probed(self, now: float, began: float) -> None:
        """A health probe that began at `began` was answered well; counts as a successful trial, and not for sure."""
        if not self.closed and began > self.failed_at and not self._doubtful:
            self._count_success(now, vouched=True)

    def _succeeded(self) -> None:
        """Once open, what began before says nothing of what comes now."""
        if self.closed:
            self._failures = 0
            self._vouched = self.doubted = False

    def _failed(self, now: float, cause: str) -> None:
        if not self.closed:
            return
        self._failures += 1
        self.doubted = True
        self.cause = cause
        self.failed_at = now
        if self._failures < self._config.failure_threshold:
            return
        self.closed = False
        self.opened_at = now
        self._doubtful = self._vouched
        self._wait(now, cause)
        timeout_s = self._config.timeout_s
        _logger.warning("Instance %s: circuit open, next try in %g s: %s", self.title, timeout_s, cause)

    def _failed_trial(self, now: float, cause: str) -> None:
        if self.closed:
            self._failed(now, cause)
        else:
            self._wait(now, cause)

    def _answered_trial(self, now: float) -> None:
        if self.closed:
            self._succeeded()
        else:
            self._trial_at = now
            self._count_success(now, vouched=False)

    def _abandoned(self) -> None:
        self._trial_at = float("-inf")

    def _wait(self, now: float, cause: str) -> None:
        self._successes = 0
        self.cause = cause
        self.failed_at = now
        self._trial_at = now + self._config.timeout_s

    def _count_success(self, now: float, *, vouched: bool) -> None:
        self._successes += 1
        if self._successes < self._config.success_threshold:
            return
        self.closed = True
        self._vouched = vouched
        # A probe's word lasts until the first request that refutes it.
        self._failures = self._config.failure_threshold - 1 if vouched else 0
        self.doubted = vouched
        seconds = now - self.opened_at
        _logger.info("Instance %s: circuit closed after %.1f s", self.title, seconds)
