"""Limits over several gateways: each borrows its part of every limit from Redis for some seconds, in one call for all.

Decides when leases are asked for and how much is wanted, and what holds without Redis. A request never waits for Redis
but where its caller has no lease yet. Where a caller's requests wait for their turn (contract 9.16) the line reads by
itself how many are lent, and is told here to look again. What Redis does is in `lease_script`; the lease is the host's,
so that one worker asks for all (`host_lease`). Contract 9.10.

redis is imported where an operator has named one.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterable
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
# Who waits is not refused, so that nobody asks again: what another gateway gives back is asked for with each tick.
_RENEW_WAITING_MS = 400
_HUNGRY_WAITING_MS = 1000
# What holds without Redis is said anew with every attempt to reach it.
_INSTEAD_MS = 3000
_TIMEOUT_S = 0.5
# So much of a limit is wanted beyond what is used; what more is needed is asked for when it is.
_SHARE_UNUSED = 8
_PREFIX = "{gomodel}:limits:"  # in braces, so that a cluster keeps all in one place

Amounts = tuple[int | None, int | None, int | None]


class Borrower(Protocol):
    """A caller's limits: requests at once, requests and tokens a minute; None for one that is none.

    `waits`: the first of them is waited for in the line.
    """

    @property
    def name(self) -> str: ...
    @property
    def lease(self) -> Lease: ...
    @property
    def whole(self) -> Amounts: ...
    @property
    def waits(self) -> bool: ...
    def used(self) -> tuple[int, int, int]: ...


class Leases:
    """The connection to one Redis. `up` is None before anything is known of it."""

    def __init__(
        self,
        url: Secret,
        without: Literal["share", "open", "closed"],
        previous: "Leases | None" = None,
        renewed: Callable[[], None] | None = None,
    ) -> None:
        """`without`: what holds while Redis does not answer; `previous`: whom these replace at a reload.

        `renewed` is called when who waits in line may have its turn.
        """
        self.url = url
        self._without = without
        self.up: bool | None = None
        # Whose limits are divided, and whether Redis was told last that nothing is used, nor held any more.
        self._borrowers: dict[Borrower, bool] = {}
        self._pressing: dict[Borrower, None] = {}  # to be asked for when the present call is over
        if previous is not None:
            self.up = previous.up if previous.url == url else None
            self._borrowers = dict(previous._borrowers)
        usage = host_usage.shared
        self._id = usage.id
        self._renewed = renewed
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
        self._borrowers[borrower] = False
        lease = borrower.lease.get(now)
        whole = borrower.whole
        if lease is not None:
            return _within(whole, lease)
        if self.up is not False and waiting:
            self._ask_soon(borrower, now)
            return None
        return self._instead(borrower)

    def _instead(self, borrower: Borrower) -> Amounts:
        """What holds where nothing is lent."""
        whole = borrower.whole
        if self._without == "open":
            return whole
        if self._without == "closed":
            raise Overloaded(
                "The limits of this key are not known at the moment.", code="limits_unknown", retry_after_s=2
            )
        gateways = max(borrower.lease.gateways, self._gateways)
        part = [None if each is None else math.ceil(each / gateways) for each in whole]
        return part[0], part[1], part[2]

    def approach(self, borrower: Borrower) -> None:
        """A request of a caller that `waits` comes to the line: see to it that the line knows how many may go.

        Raises Overloaded where nothing may be used without Redis.
        """
        now, lease = _now(), borrower.lease
        self._borrowers[borrower] = False
        lent, most = lease.get(now), borrower.whole[0]
        if lent is None and self.up is False:
            lease.put_instead(self._instead(borrower)[0] or 0, now + _INSTEAD_MS)
        elif lent is None or (lease.running >= lent[0] and most is not None and lent[0] < most):
            lease.fell_short(now)
            if self._task is None:
                self._ask_soon(borrower, now)
            else:  # nobody asks again for who waits
                self._pressing[borrower] = None

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
        for borrower, told_idle in list(self._borrowers.items()):
            if borrower.waits and borrower.lease.waiting:
                borrower.lease.fell_short(now)
            if told_idle and _idle(borrower, now):
                del self._borrowers[borrower]
            elif borrower.lease.claim(now, _RENEW_WAITING_MS if borrower.waits else _RENEW_MS):
                due.append(borrower)
        if due or self._presence.claim(now, _RENEW_MS):
            self._begin(due)

    def _begin(self, due: list[Borrower]) -> None:
        self._task = asyncio.create_task(self._renew(due))
        self._task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._task = None
        now, pressing = _now(), [*self._pressing]
        self._pressing.clear()
        if self._handle is not None and (due := [each for each in pressing if each.lease.claim(now, _SOON_MS)]):
            self._begin(due)

    async def _renew(self, due: list[Borrower]) -> None:
        sent = _now()
        arguments: list[str | int] = [self._id, LEASE_MS]
        for borrower in due:
            lease, idle = borrower.lease.get(sent), _idle(borrower, sent)
            arguments += self._numbers(borrower, lease, sent, idle=idle)
            self._borrowers[borrower] = idle and not any(lease or ())
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                keys = [f"{_PREFIX}gateways", *(f"{_PREFIX}key:{each.name}" for each in due)]
                found: list[int] = await self._connected()(keys=keys, args=arguments)
        except Exception as error:
            self._failed(error, due)
            return
        if self.up is False:
            _logger.info("Redis answers again: limits hold over all gateways")
        self.up = True
        self._gateways = found[0]
        for at, borrower in enumerate(due):
            granted = found[1 + 3 * at], found[2 + 3 * at], found[3 + 3 * at]
            borrower.lease.put(granted, sent, sent + LEASE_MS - _MARGIN_MS, found[0])
        self._tell(due)

    def _tell(self, due: Iterable[Borrower]) -> None:
        """The line may have more to give."""
        if self._renewed is not None and any(each.waits and each.lease.waiting for each in due):
            self._renewed()

    @staticmethod
    def _numbers(borrower: Borrower, lease: tuple[int, int, int] | None, now: int, *, idle: bool) -> Iterable[int]:
        hungry = _hungry(borrower, now)
        for limit, used, held in zip(borrower.whole, borrower.used(), lease or (0, 0, 0), strict=True):
            if limit is None:
                yield from (0, 0, 0)
                continue
            spare = limit // _SHARE_UNUSED
            if lease is None:
                spare = max(1, spare)  # for the request that waits for it
            elif idle:
                spare = 0
            # Until the answer is here the lease before holds, so what it grants has to count as used.
            want = limit if hungry else min(limit, used + spare)
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

    def _failed(self, error: Exception, due: list[Borrower]) -> None:
        """Said once for each time that it goes away. Of the error only its kind: its text may hold an address."""
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
        now = _now()
        for borrower in due:
            if borrower.waits and self._without != "closed" and borrower.lease.get(now) is None:
                borrower.lease.put_instead(self._instead(borrower)[0] or 0, now + _INSTEAD_MS)
        self._tell(due)


def _hungry(borrower: Borrower, now: int) -> bool:
    """Whether more is wanted than was lent."""
    return now - borrower.lease.short_at <= (_HUNGRY_WAITING_MS if borrower.waits else _HUNGRY_MS)


def _idle(borrower: Borrower, now: int) -> bool:
    """Whether it uses and wants nothing; what was used in the last minute is to be known as long as it counts."""
    return not any(borrower.used()) and not _hungry(borrower, now)


def _within(whole: Amounts, lease: tuple[int, int, int]) -> Amounts:
    first, second, third = whole
    return (
        None if first is None else min(first, lease[0]),
        None if second is None else min(second, lease[1]),
        None if third is None else min(third, lease[2]),
    )


def _now() -> int:
    return int(monotonic() * 1000)
