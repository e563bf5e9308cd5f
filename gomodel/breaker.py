"""When an instance is left alone: a circuit breaker over consecutive failures (contract section 7).

Knows nothing of what a failure is; its callers report connection-level failures and 502/503/504, never a 4xx and
never a client that left. Times are seconds of any monotonic clock, given by the caller.
"""

from .config import BreakerConfig


class Breaker:
    """Closed until `failure_threshold` failures in a row; then open for `timeout_s`; then one probe at a time."""

    __slots__ = ("_config", "_failures", "_opened_at", "_probing", "_successes", "closed")

    def __init__(self, config: BreakerConfig) -> None:
        self._config = config
        self.closed = True
        self._failures = 0
        self._successes = 0
        self._opened_at = 0.0
        self._probing = False

    def configure(self, config: BreakerConfig) -> None:
        """Count by `config` from now on; what was counted stays."""
        self._config = config

    def retry_after_s(self, now: float) -> float:
        """Seconds until a probe may pass; 0 when one may pass now."""
        if self.closed:
            return 0.0
        return max(0.0, self._opened_at + self._config.timeout_s - now)

    def candidate(self, now: float) -> bool:
        """Whether a request could pass now; changes nothing."""
        return self.closed or (not self._probing and self.retry_after_s(now) <= 0)

    def admit(self, now: float) -> bool:
        """Let a request pass, or not. One that passes while `closed` is false is the probe, and says so at its end.

        An admitted request ends in success, failure or abandon.
        """
        if self.closed:
            return True
        if not self.candidate(now):
            return False
        self._probing = True
        return True

    def success(self, *, probe: bool) -> None:
        """The instance answered. Once open only the probe counts: what began before says nothing of what comes now."""
        if self.closed:
            self._failures = 0
        elif probe:
            self._probing = False
            self._successes += 1
            if self._successes >= self._config.success_threshold:
                self.closed = True
                self._failures = 0

    def failure(self, now: float, *, probe: bool) -> None:
        """The instance failed; a failed probe opens the breaker for another `timeout_s`."""
        if self.closed:
            self._failures += 1
            if self._failures < self._config.failure_threshold:
                return
        elif not probe:
            return
        self.closed = False
        self._probing = False
        self._successes = 0
        self._opened_at = now

    def abandon(self, *, probe: bool) -> None:
        """The request ended without a verdict, as when the client left; a probe's place is free again."""
        if probe:
            self._probing = False
