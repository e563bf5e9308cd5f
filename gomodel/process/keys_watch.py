"""The keys file while it is in use: looked at now and then, read again when it has changed, in a thread of its own.

Decides when a changed file is whole, and that one which cannot be used changes nothing but a line in the log and a
gauge. A file that was renamed into its place, and Kubernetes' swap of the link that leads to it, are changes as any.
Knows nothing of who takes up what it has read. No loop and no supervisor waits for a file.
"""

import logging
import os
from collections.abc import Callable, Iterable
from threading import Thread
from time import sleep, time
from typing import NamedTuple

from ..config.files import Files
from ..config.keys_file import KEYS_FILE_BYTES, digests_of, parse
from ..config.settings import ConfigError, Keys, Secret
from ..telemetry.logs import count

_logger = logging.getLogger("gomodel")

# Between two looks. With the time that a file takes to be whole and to be read it stays below five seconds until a
# key that was taken out is refused (contract section 9).
LOOK_S = 1.5
# Whoever writes a file in place has mostly written all of it in this time; so many readings in a row must agree.
SETTLE_S = 0.1
AGREED = 3
READINGS = 20
# A file that was written so short a time ago may be written again within one tick of the file system's clock.
_FRESH_S = 1.0

_Sign = tuple[int, int, int, int]


class News(NamedTuple):
    """What has become of the file: keys to go by from now on, or None; and whether it is of no use as it is."""

    keys: Keys | None
    broken: bool


class KeysWatch:
    """Looks at the keys file when it is told to; `busy` while a thread of its own does."""

    def __init__(self, finished: Callable[[], object]) -> None:
        """`finished` is called in that thread when `news` may have something to say."""
        self._finished = finished
        self._sign: _Sign | None = None  # of the file that was read last
        self._found: Keys | ConfigError | None = None
        self._problems: tuple[str, ...] = ()  # that were said already
        self.busy = False

    def look(self, current: Keys, masters: Iterable[Secret]) -> None:
        """See whether the file of `current` says something else now; nothing while a look is under way."""
        if not self.busy:
            self.busy = True
            try:
                Thread(target=self._look, args=(current.path, digests_of(masters)), daemon=True, name="keys").start()
            except RuntimeError:  # there is no thread left; the next look may have one
                self.busy = False

    def news(self, current: Keys) -> News | None:
        """What the last look has found, logged; None when all is as it was. `current` are the keys in use."""
        self.busy = False
        found, self._found = self._found, None
        if found is None:
            return None
        before = self._problems
        if isinstance(found, ConfigError):
            self._problems = found.problems
            if found.problems == before:
                return None
            _logger.error("The keys file is not used, the keys before stay: %s", "; ".join(found.problems))
            return News(None, broken=True)
        self._problems = ()
        if found == current:
            return News(None, broken=False) if before else None
        _logger.info("The keys file was read again: %s", count(len(found.entries), "key"))
        return News(found, broken=False)

    def _look(self, path: str, masters: frozenset[bytes]) -> None:
        try:
            self._found = self._read(path, masters)
        except OSError as error:
            self._found = ConfigError([f"{path!r} cannot be read: {error.strerror}"])
        except ConfigError as error:
            self._found = ConfigError(f"{path!r} {problem}" for problem in error.problems)
        finally:
            self._finished()

    def _read(self, path: str, masters: frozenset[bytes]) -> Keys | None:
        sign = _sign(path)
        if sign == self._sign:
            return None
        data = _whole(path)
        self._sign = sign if time() - sign[-1] / 1e9 > _FRESH_S else None
        return Keys(path, parse(data, masters))


def _sign(path: str) -> _Sign:
    """What is another when the file is another, or has been written. Raises OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _whole(path: str) -> bytes:
    """What is in the file when it has stopped changing. Raises OSError."""
    before, agreed = None, 0
    for _ in range(READINGS):
        data = Files().read(path, KEYS_FILE_BYTES)
        agreed = agreed + 1 if data == before else 1
        if agreed == AGREED:
            return data
        before = data
        sleep(SETTLE_S)
    raise OSError(0, "it is being written")
