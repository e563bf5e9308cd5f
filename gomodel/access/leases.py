"""Limits over several gateways: each borrows its part of every limit from Redis for some seconds, in one call for all.

Decides when leases are asked for and how much is wanted, and what holds without Redis. A request never waits for Redis
but where its caller has no lease yet. What Redis does is in `lease_script`; the lease is the host's, so that one worker
asks for all (`host_lease`). Contract 9.10.

redis is imported where an operator has named one.
"""

import asyncio
import logging
import math
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal, Protocol

from ..config.settings import Secret
from ..errors import Overloaded
from . import host_usage
from .host_lease import Lease
from .lease_script import SCRIPT

if TYPE_CHECKING:
    from redis.asyncio import Redis

_logger = logging.getLogger("gomodel")

LEASE_MS = 5000
# By the clock of the gateway a lease is over before it is by that of Redis, which starts to count later.
_MARGIN_MS = 250
_RENEW_MS = 1500
# One that fell short is asked for again at once, but no more often than this; for so long all of a limit is wanted.
_SOON_MS = 20
_HUNGRY_MS = 3000
_TICK_S = 0.5
_TIMEOUT_S = 0.5
# So much of a limit is wanted beyond what is used; what more is needed is asked for when it is.
_SHARE_UNUSED = 8
_PREFIX = "{gomodel}:limits:"  # in braces, so that a cluster keeps all in one place

Amounts = tuple[int | None, int | None, int | None]


class Borrower(Protocol):
    """A caller's limits: requests at once, requests and tokens a minute; None for one that is none."""

    @property
    def name(self) -> str: ...
    @property
    def lease(self) -> Lease: ...
    @property
    def whole(self) -> Amounts: ...
    def used(self) -> tuple[int, int, int]: ...


class Leases:
    """The connection to one Redis. `up` is None before anything is known of it."""

    def __init__(
        self, url: Secret, without: Literal["share", "open", "closed"], previous: "Leases | None" = None
    ) -> None:
        """`without`: what holds while Redis does not answer; `previous`: whom these replace at a reload."""
        self.url = url
        self._without = without
        self.up: bool | None = None
        self._borrowers: dict[Borrower, None] = {}
        if previous is not None:
            self.up = previous.up if previous.url == url else None
            self._borrowers = dict(previous._borrowers)
        usage = host_usage.shared
        self._id = usage.id
        self._gateways: int = 1 if previous is None else previous._gateways
        # This gateway is counted among the others also while its callers use nothing.
        self._presence = usage.lease("")
        self._client: Redis | None = None
        self._script: Any = None
        self._task: asyncio.Task[None] | None = None
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Renew leases from now on."""
        if self._handle is None:
            self._tick()

    def stop(self) -> None:
        """Renew no more: another does."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    async def close(self) -> None:
        """Stop, and give the connection back."""
        self.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def amounts(self, borrower: Borrower, *, waiting: bool) -> Amounts | None:
        """What a caller may use on this host now; None while that is being asked for, and `waiting` says that is fine.

        Raises Overloaded where nothing may be used without Redis.
        """
        now = _now()
        self._borrowers[borrower] = None
        lease = borrower.lease.get(now)
        whole = borrower.whole
        if lease is not None:
            return _within(whole, lease)
        if self.up is not False and waiting:
            self._ask_soon(borrower, now)
            return None
        if self._without == "open":
            return whole
        if self._without == "closed":
            raise Overloaded(
                "The limits of this key are not known at the moment.", code="limits_unknown", retry_after_s=2
            )
        gateways = max(borrower.lease.gateways, self._gateways)
        part = [None if each is None else math.ceil(each / gateways) for each in whole]
        return part[0], part[1], part[2]

    def fell_short(self, borrower: Borrower, since_s: float, *, waiting: bool) -> bool:
        """The lease is too small for a request that began at `since_s`, and the limit would not be: ask for more.

        Whether that is worth `waiting` for: until it was divided anew since.
        """
        now = _now()
        borrower.lease.fell_short(now)
        self._ask_soon(borrower, now)
        return waiting and self.up is not False and borrower.lease.divided_at < since_s * 1000

    def _ask_soon(self, borrower: Borrower, now: int) -> None:
        if self._handle is not None and self._task is None and borrower.lease.claim(now, _SOON_MS):
            self._begin([borrower])

    def _tick(self) -> None:
        self._handle = asyncio.get_running_loop().call_later(_TICK_S, self._tick)
        if self._task is not None:
            return
        now, due = _now(), []
        for borrower in list(self._borrowers):
            # What was used in the last minute is to be known to Redis as long as it counts.
            if not any(borrower.used()) and now - borrower.lease.short_at > _HUNGRY_MS:
                del self._borrowers[borrower]
            elif borrower.lease.claim(now, _RENEW_MS):
                due.append(borrower)
        if due or self._presence.claim(now, _RENEW_MS):
            self._begin(due)

    def _begin(self, due: list[Borrower]) -> None:
        self._task = asyncio.create_task(self._renew(due))
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._task = None

    async def _renew(self, due: list[Borrower]) -> None:
        sent = _now()
        arguments: list[str | int] = [self._id, LEASE_MS]
        for borrower in due:
            arguments += self._numbers(borrower, sent)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                keys = [f"{_PREFIX}gateways", *(f"{_PREFIX}key:{each.name}" for each in due)]
                found: list[int] = await self._connected()(keys=keys, args=arguments)
        except Exception as error:
            self._failed(error)
            return
        if self.up is False:
            _logger.info("Redis answers again: limits hold over all gateways")
        self.up = True
        self._gateways = found[0]
        for at, borrower in enumerate(due):
            granted = found[1 + 3 * at], found[2 + 3 * at], found[3 + 3 * at]
            borrower.lease.put(granted, sent, sent + LEASE_MS - _MARGIN_MS, found[0])

    def _numbers(self, borrower: Borrower, now: int) -> Iterable[int]:
        lease = borrower.lease.get(now) or (0, 0, 0)
        hungry = now - borrower.lease.short_at <= _HUNGRY_MS
        for limit, used, held in zip(borrower.whole, borrower.used(), lease, strict=True):
            if limit is None:
                yield from (0, 0, 0)
                continue
            # Until the answer is here the lease before holds, so what it grants has to count as used.
            want = limit if hungry else min(limit, used + limit // _SHARE_UNUSED)
            yield from (limit, min(limit, max(used, held)), want)

    def _connected(self) -> Any:
        if self._script is None:
            from redis.asyncio import Redis  # noqa: PLC0415 - see the module's docstring
            from redis.asyncio.retry import Retry  # noqa: PLC0415
            from redis.backoff import NoBackoff  # noqa: PLC0415

            self._client = Redis.from_url(
                self.url.reveal(),
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                retry=Retry(NoBackoff(), 0),
            )
            self._script = self._client.register_script(SCRIPT)
        return self._script

    def _failed(self, error: Exception) -> None:
        """Once for each time that it goes away. Of the error only its kind: its text may hold an address."""
        if self.up is not False:
            said = {
                "share": "each gateway takes its part",
                "open": "each takes the whole",
                "closed": "nobody is let in",
            }
            _logger.warning(
                "Redis does not answer (%s); of the limits of keys %s until it does",
                type(error).__name__,
                said[self._without],
            )
        self.up = False


def _within(whole: Amounts, lease: tuple[int, int, int]) -> Amounts:
    first, second, third = whole
    return (
        None if first is None else min(first, lease[0]),
        None if second is None else min(second, lease[1]),
        None if third is None else min(third, lease[2]),
    )


def _now() -> int:
    return int(monotonic() * 1000)
