"""A caller: the holder of one key of the keys file, or of the master key, and what that key opens.

Decides which models a key is good for (contract section 9). Knows nothing of how a key is presented or found
(`callers`) and of routes (`rights`).
"""

import re
from collections import defaultdict
from fnmatch import translate

from ..config.settings import Key
from ..telemetry.record import Record
from .host_usage import HostUsage
from .leases import Leases
from .limits import Limits

# What stands for the model where a request names none: only a pattern for the whole instance matches it.
_ANY_MODEL = "*"
# Verdicts that are remembered: callers name a few models again and again, and may name any number once.
_REMEMBERED = 256


class Caller:
    """Who asks. One object for each name while the process lives, whatever becomes of its entry."""

    __slots__ = (
        "_allowed",
        "_matches",
        "_usage",
        "added_fields",
        "alters",
        "ended",
        "entry",
        "leases",
        "limited",
        "limits",
        "name",
        "running",
        "waits_beyond",
    )

    def __init__(self, entry: Key, usage: HostUsage, leases: Leases | None = None) -> None:
        """`usage`: where it is counted; `leases`: where its limits are divided among several gateways."""
        self._usage = usage
        self.leases = leases
        self.name = entry.name
        self.limits: Limits | None = None
        self.running = 0  # its requests in this process
        self.ended: defaultdict[int, int] = defaultdict(int)  # by status
        self.configure(entry)

    def configure(self, entry: Key) -> None:
        """Go by `entry`, of the same name, from now on."""
        self.entry = entry
        # What is written to an instance with each of its requests.
        self.added_fields = b"" if entry.priority is None else b"X-Vllm-Priority: %d\r\n" % entry.priority
        self._matches: re.Pattern[str] | None = None  # made when it is needed: a file may have thousands of entries
        self._allowed: dict[tuple[str, str], bool] = {}
        self.waits_beyond = entry.waits_beyond
        # What each request asks first: whether its caller's entry changes anything of where it may go, or how, or when.
        self.alters = bool(entry.models or self.added_fields or self.waits_beyond is not None)
        self.limited = any((entry.refused_beyond, entry.requests_per_minute, entry.tokens_per_minute))
        if self.limits is not None:
            self.limits.configure(entry)
        elif self.limited or self.waits_beyond is not None:
            self.limits = Limits(entry, self._usage.account(entry.name), self._usage.lease(entry.name))
            self.limits.leases = self.leases

    def borrow(self, leases: Leases | None) -> None:
        """Divide its limits so from now on."""
        self.leases = leases
        if self.limits is not None:
            self.limits.leases = leases
            self.limits.configure(self.entry)  # what was lent may be no more

    def allows(self, instance: str, model: str) -> bool:
        """Whether it may ask `instance` for `model`; with "" for a model, whether for any there may be.

        A pattern is compared, case included, to `<instance>/<model>` and to the model alone (fnmatch: `*`, `?`,
        `[...]`).
        """
        if not self.entry.models:
            return True
        asked = instance, model
        found = self._allowed.get(asked)
        if found is None:
            if len(self._allowed) >= _REMEMBERED:
                self._allowed.clear()
            found = self._allowed[asked] = self._match(f"{instance}/{model or _ANY_MODEL}", model or _ANY_MODEL)
        return found

    def _match(self, *names: str) -> bool:
        if self._matches is None:
            self._matches = re.compile("|".join(map(translate, self.entry.models)))
        return any(map(self._matches.match, names))

    def leave(self, record: Record, now: float) -> None:
        """One of its requests is over; `now` is time.monotonic."""
        self.running -= 1
        self.ended[record.status] += 1
        if self.limits is not None:
            self.limits.leave(record, now)
