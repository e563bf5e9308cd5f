"""What is known of one replica's health: up, down, draining, or nothing yet.

Decides which failures count at once and how much slowness is forgiven. Knows nothing of who asks the instance or of
what a request is; the breaker beside it counts other failures, those of instances that do answer.
"""

import enum
import logging
from collections.abc import Callable
from time import monotonic

from ..config.settings import variable_of
from .other_scheme import SPEAKS_PLAIN_HTTP, SPEAKS_TLS

_logger = logging.getLogger("gomodel")

# A saturated vLLM misses a deadline of two seconds now and then while it generates at full speed.
MISSES = 3
FORGIVEN = frozenset({"connection_terminated", "connection_timeout", "http_response_timeout"})
_SCHEMES = {SPEAKS_TLS: "https://", SPEAKS_PLAIN_HTTP: "http://"}
# Said by an instance that shuts down: refuses whatever is new although its /health still answers 200.
DRAINING = "draining"
KEY_REFUSED = "instance_key_refused"
# Longer than a vLLM takes to go once it refuses requests.
DRAIN_DOUBT_S = 30.0


class State(enum.Enum):
    """What operators read on /health/ready."""

    UNKNOWN = "unknown"
    UP = "up"
    DOWN = "down"
    DRAINING = "draining"


class Health:
    """One instance's state; requests report failures and, only while `settled` is false, successes."""

    __slots__ = (
        "_misses",
        "_name",
        "code",
        "failed_at",
        "failures",
        "key_changed",
        "key_refused",
        "key_refused_at",
        "on_fall",
        "settled",
        "since",
        "state",
        "title",
    )

    def __init__(self, name: str) -> None:
        self._name = name
        self.title = name  # what the log calls it
        self._misses = 0
        self.state = State.UNKNOWN
        self.since = monotonic()
        self.settled = False  # up and nothing in doubt: a success says nothing new
        self.failures = 0  # how many counted; an attempt that began before the last one says nothing of now
        self.code = ""  # of the last failure, an RFC 9209 word or one of vLLM's own life cycle
        self.failed_at = 0.0
        self.key_refused = False  # it answers, and does nothing for the gateway's key
        self.key_refused_at = 0.0
        self.key_changed = False  # in place of one that was refused, and not tried yet
        self.on_fall: Callable[[], None] | None = None

    def ok(self, failures: int) -> None:
        """The instance did a request that began when `failures` had been counted.

        One that began earlier does not count: streams end well on an instance that takes nothing new any more.
        """
        if failures == self.failures:
            self._rise()

    def alive(self, failures: int) -> None:
        """The same for a probe, which does not see a drain; but what answers much later is not going away."""
        if self.state is not State.DRAINING or monotonic() - self.failed_at > DRAIN_DOUBT_S:
            self.ok(failures)

    def failed(self, code: str, *, probe: bool = False) -> None:
        """An instance took no request, or no `probe`, for the reason `code`.

        That it speaks the other scheme only a probe finds out, and only a probe takes it back.
        """
        if probe or not self.other_scheme:
            self.code = code
        self.failed_at = monotonic()
        self.settled = False
        if code in FORGIVEN:
            self._misses += 1
            if self._misses < MISSES:
                return
        self.failures += 1
        self._enter(State.DRAINING if code == DRAINING else State.DOWN)

    @property
    def other_scheme(self) -> bool:
        """Whether it is down, and speaks TLS where plain http is set or the reverse, which says more than failures."""
        return self.state is State.DOWN and self.code in _SCHEMES

    def refuse_key(self) -> None:
        """The instance answered 401 to the gateway's own key, or for want of one."""
        if self.key_refused:
            return
        self.key_refused, self.key_changed = True, False
        self.key_refused_at = self.failed_at = monotonic()
        self.code = KEY_REFUSED
        self.settled = False
        _logger.warning(
            "Instance %s refuses the key of the gateway; it gets no request that others can take. Set %s to its key",
            self.title,
            variable_of(self._name, "API_KEY"),
        )
        if self.on_fall is not None:
            self.on_fall()

    def change_key(self) -> None:
        """The gateway has another key for the instance: what is known of the old one says nothing of it."""
        self.key_changed = self.key_changed or self.key_refused
        self.key_refused = False

    @property
    def key_doubted(self) -> bool:
        """Whether it is worth finding out if the instance takes the gateway's key."""
        return self.key_refused or self.key_changed

    def accept_key(self) -> None:
        """The instance answered what it guards with a key."""
        if self.key_doubted:
            how = "now" if self.key_changed else "again"
            self.key_refused = self.key_changed = False
            _logger.info("Instance %s accepts the key of the gateway %s", self.title, how)

    def _rise(self) -> None:
        self._misses = 0
        self.settled = not self.key_refused
        self._enter(State.UP)

    def _enter(self, state: State) -> None:
        if state is self.state:
            return
        before, self.state = self.state, state
        self.since = monotonic()
        if state is State.UP:
            _logger.info("Instance %s is up", self.title)
            return
        if state is State.DRAINING:
            _logger.warning("Instance %s is shutting down", self.title)
        else:
            scheme = _SCHEMES.get(self.code)
            said = f". {variable_of(self._name, 'BASE_URL')} should begin with {scheme}" if scheme else ""
            _logger.warning("Instance %s is down: %s%s", self.title, self.code, said)
        if before is not State.DOWN and self.on_fall is not None:
            self.on_fall()
