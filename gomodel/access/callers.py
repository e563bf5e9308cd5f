"""All callers there are: found by the SHA-256 of the key that is presented.

Decides whom a key belongs to now, and when what was found out with one head stops to hold for the next: when the keys
file changes, and when a key expires. A look-up takes as long with 10,000 keys as with ten, and its time tells nothing:
whoever guesses does not know the digest that is compared. Reads no file.
"""

import asyncio
from collections.abc import Iterable
from hashlib import sha256
from time import time

from ..config.keys_file import MASTER, digests_of
from ..config.settings import Key, Keys, Secret
from . import host_usage
from .caller import Caller
from .leases import Leases

# How often is looked whether a key has expired, where one can: clocks are set, and machines sleep.
_LOOK_S = 2.0


class Callers:
    """The holders of keys. `verdict` is remembered with a head that was let in, and holds while it is the same."""

    def __init__(
        self,
        keys: Keys,
        masters: Iterable[Secret],
        previous: "Callers | None" = None,
        leases: Leases | None = None,
    ) -> None:
        """`masters`: each is a master key; `previous`: whom these replace at a reload, and what was counted of them.

        `leases`: where there are several gateways.
        """
        self.leases = leases
        self._usage = host_usage.shared
        self._masters = digests_of(masters)
        self._met: dict[str, Caller] = previous._met if previous is not None else {}
        for caller in self._met.values():
            caller.borrow(leases)
        self._handle: asyncio.TimerHandle | None = None
        self._looking = False
        self.broken: bool = previous is not None and previous.broken  # the file has changed and cannot be used
        self.take(keys)

    def take(self, keys: Keys) -> None:
        """Let in by `keys` from now on. Requests that run go on, whatever became of their key."""
        self.keys = keys
        # Who holds the master key is held to nothing.
        master = Key(MASTER, tuple(self._masters), passthrough=True, admin=True, metrics=True)
        self._by_digest = {digest: each for each in (*keys.entries, master) for digest in each.digests}
        self._by_name = {each.name: each for each in (*keys.entries, master)}
        for entry in self._by_digest.values():
            caller = self._met.get(entry.name)
            if caller is not None and caller.entry is not entry:
                caller.configure(entry)
        self.verdict = object()
        self._expect()
        if self._looking:
            self.start()

    def find(self, presented: Iterable[bytes]) -> Caller | None:
        """Whose key the first of `presented` is that is anybody's."""
        for key in presented:
            caller = self._caller(self._by_digest.get(sha256(key).digest()))
            if caller is not None:
                return caller
        return None

    def named(self, name: str) -> Caller | None:
        """The holder of a key by its name, as long as that key is good."""
        return self._caller(self._by_name.get(name))

    def _caller(self, entry: Key | None) -> Caller | None:
        if entry is None or entry.expires_at <= time():
            return None
        caller = self._met.get(entry.name)
        if caller is None:
            caller = self._met[entry.name] = Caller(entry, self._usage, self.leases)
        return caller

    def entries(self) -> Iterable[Key]:
        """Those of the file, and that of the master key."""
        return {id(each): each for each in self._by_digest.values()}.values()

    @property
    def met(self) -> Iterable[Caller]:
        """Those who have asked since the process began; some may have no entry any more."""
        return self._met.values()

    def _expect(self) -> None:
        """Note when the next key expires."""
        now = time()
        self._expires_at = min((at for each in self.keys.entries if (at := each.expires_at) > now), default=_NEVER)

    def start(self) -> None:
        """Look for keys that expire."""
        self._stop_looking()
        self._looking = True
        if self.leases is not None:
            self.leases.start()
        if self._expires_at < _NEVER:
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(max(0.0, min(_LOOK_S, self._expires_at - time())), self._look)

    def stop(self) -> None:
        """Look no more."""
        self._stop_looking()
        if self.leases is not None:
            self.leases.stop()

    async def close(self) -> None:
        """Stop, and give back what is held."""
        self.stop()
        if self.leases is not None:
            await self.leases.close()

    def _stop_looking(self) -> None:
        self._looking = False
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        if time() >= self._expires_at:
            self.verdict = object()
            self._expect()
        self.start()


_NEVER = float("inf")
