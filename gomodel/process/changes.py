"""The configuration that a supervisor goes by, and what changes it: SIGHUP, files that have changed, the keys file.

Decides when files are looked at and who is told of what they say now. Reads nothing itself (`reload`, `keys_watch`).
"""

import pickle
from collections.abc import Callable
from dataclasses import replace
from time import monotonic

from ..config.settings import Config
from ..host.systemd import Notifier
from ..telemetry.logs import configure_logging
from .keys_watch import LOOK_S, KeysWatch
from .reload import Load, Rereading

# No signal's number: what the threads that read the configuration and the keys wake the supervisor with.
READ_AGAIN = 0
KEYS_READ = 255
_NEVER = float("inf")


class Changes:
    """`config` is the one in force; times are time.monotonic."""

    def __init__(
        self,
        config: Config,
        load: Load,
        notifier: Notifier,
        wake: Callable[[int], object],
        order: Callable[..., object],
    ) -> None:
        """`wake` is called in other threads with what `happened` is to be called with; `order` tells all workers."""
        self.config = config
        self._notifier = notifier
        self._order = order
        self._rereading = Rereading(load, lambda: wake(READ_AGAIN))
        self._watch = KeysWatch(lambda: wake(KEYS_READ))
        self._watch_at = self._look_at = _NEVER
        self._watch_files()
        self._look_later()

    @property
    def due(self) -> float:
        """When `look` has something to do."""
        return min(self._look_at, self._watch_at)

    @property
    def busy(self) -> bool:
        """Whether a thread reads files, and may hold locks."""
        return self._rereading.busy

    def reload(self) -> None:
        """SIGHUP: read everything again."""
        self._notifier.reloading()
        self._rereading.begin(self.config)

    def look(self, now: float) -> None:
        """See whether files have changed, when it is time to."""
        keys = self.config.keys
        if now >= self._look_at and keys is not None:
            self._look_later()
            self._watch.look(keys, self.config.master_keys)
        if now >= self._watch_at:
            self._watch_files()
            self._rereading.look(self.config)

    def stop(self) -> None:
        """Look no more."""
        self._watch_at = self._look_at = _NEVER

    def happened(self, what: int) -> bool:
        """A thread has read something; whether the configuration is another now."""
        return self._take_up() if what == READ_AGAIN else self._take_keys()

    def _take_keys(self) -> bool:
        keys = self.config.keys
        news = self._watch.news(keys) if keys is not None else None
        if news is None:
            return False
        if news.keys is not None:
            self.config = replace(self.config, keys=news.keys)
        self._order("keys", pickle.dumps(news))
        return news.keys is not None

    def _take_up(self) -> bool:
        config = self._rereading.result(self.config)
        if config is not None:
            self.config = config
            configure_logging(config.log_level, config.log_format)
            self._watch_files()
            self._look_later()
            self._order("reload", config)
        if not self._rereading.busy:
            self._notifier.reloaded()
        return config is not None

    def _watch_files(self) -> None:
        self._watch_at = monotonic() + self.config.watch_s if self.config.watch_s else _NEVER

    def _look_later(self) -> None:
        self._look_at = _NEVER if self.config.keys is None else monotonic() + LOOK_S
