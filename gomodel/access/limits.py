"""The limits of one caller: requests at once, and requests and tokens a minute, over all workers of this host.

Decides who is let in, what a refusal says and when coming back makes sense (contract section 9). Tokens are counted
when an answer has said how many there were, so that limit bounds the requests after it. How the numbers of several
workers come together is `host_usage`'s.
"""

from time import monotonic

from ..config.settings import Key
from ..errors import RateLimited
from ..telemetry.record import Record
from .host_lease import Lease
from .host_usage import WINDOW_S, Account
from .leases import Leases

# Nobody can say when one of the requests that run will end.
_SOON_S = 1
# By then the gateways have divided a limit anew.
_REDIVIDED_S = 2
_NAMES = ("in_flight", "requests_per_minute", "tokens_per_minute")
_SAID = ("requests at once", "requests a minute", "tokens a minute")


class Limits:
    """What one caller may use, and the requests of this process that count against it."""

    __slots__ = (
        "_account",
        "_held",
        "_in_flight",
        "_requests",
        "_tokens",
        "lease",
        "leases",
        "name",
        "refused",
        "whole",
    )

    def __init__(self, entry: Key, account: Account, lease: Lease) -> None:
        """`lease`: what this host has of the limits where `leases` says that there are other gateways."""
        self._account = account
        self._held: dict[Record, int] = {}  # when each began
        self.name = entry.name
        self.lease = lease
        self.leases: Leases | None = None
        self.refused: dict[str, int] = {}  # by what was exceeded
        self.configure(entry)

    def configure(self, entry: Key) -> None:
        """Hold to the limits of `entry` from now on; requests that run go on, and count."""
        self.whole = self._in_flight, self._requests, self._tokens = (
            entry.refused_beyond,
            entry.requests_per_minute,
            entry.tokens_per_minute,
        )

    def admit(self, record: Record, *, waiting: bool = True) -> bytes | None:
        """Count a request that begins, and the fields that its answer has of it.

        None when another worker is deciding about this caller at this moment, or Redis is being asked: ask again soon,
        and at last without `waiting`. Raises RateLimited for one request too many.
        """
        if self.leases is not None:
            amounts = self.leases.amounts(self, waiting=waiting)
            if amounts is None:
                return None
            self._in_flight, self._requests, self._tokens = amounts
        account, now = self._account, int(monotonic())
        running, began, spent = account.look(now)
        if not (waiting and account.margin and self._close(running, began, account.margin)):
            return self._decide(record, now, running, began, spent, waiting=waiting)
        if not account.lock():
            return None
        try:
            return self._decide(record, now, *account.look(now), waiting=waiting)
        finally:
            account.unlock()

    def _close(self, running: int, began: int, margin: int) -> bool:
        """Whether requests that other workers are about to let in could matter; at the limit they cannot any more."""
        in_flight, requests = self._in_flight, self._requests
        return (in_flight is not None and in_flight - margin <= running < in_flight) or (
            requests is not None and requests - margin <= began < requests
        )

    def _decide(self, record: Record, now: int, running: int, began: int, spent: int, *, waiting: bool) -> bytes | None:
        in_flight, requests, tokens = self._in_flight, self._requests, self._tokens
        exceeded = (
            in_flight is not None and running >= in_flight,
            requests is not None and began >= requests,
            tokens is not None and spent >= tokens,
        )
        if True not in exceeded:
            self._account.enter(now)
            self._held[record] = now
            return b"" if requests is None and tokens is None else self._fields(began + 1, spent)
        which = exceeded.index(True)
        lent = self.leases is not None and self.whole[which] != (in_flight, requests, tokens)[which]
        if lent and self.leases is not None and self.leases.fell_short(self, record.started, waiting=waiting):
            return None
        raise self._refusal(which, now, began, spent, lent=lent)

    def _refusal(self, which: int, now: int, began: int, spent: int, *, lent: bool) -> RateLimited:
        what = _NAMES[which]
        self.refused[what] = self.refused.get(what, 0) + 1
        if which == 0:
            after_s = _SOON_S
        elif which == 1:
            after_s = self._account.frees_at(now, requests=self._requests or 1)
        else:
            after_s = self._account.frees_at(now, tokens=self._tokens or 1)
        if lent:
            after_s = min(after_s, _REDIVIDED_S)
        limit = self.whole[which]
        fields = self._fields(began, spent).decode().split("\r\n")[:-1]
        headers = dict(field.split(": ") for field in fields)
        return RateLimited(
            f"The key '{self.name}' may have {limit} {_SAID[which]}.", retry_after_s=after_s, headers=headers
        )

    def _fields(self, began: int, spent: int) -> bytes:
        """What OpenAI's clients read of their limits: all is free again when a minute has passed without use."""
        (_, all_requests, all_tokens), fields = self.whole, b""
        requests, tokens = self._requests, self._tokens
        if requests is not None and all_requests is not None:
            fields = (
                b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\n"
                b"x-ratelimit-reset-requests: %b\r\n" % (all_requests, max(0, requests - began), _RESET[began > 0])
            )
        if tokens is not None and all_tokens is not None:
            fields += (
                b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\n"
                b"x-ratelimit-reset-tokens: %b\r\n" % (all_tokens, max(0, tokens - spent), _RESET[spent > 0])
            )
        return fields

    def holds(self, record: Record) -> bool:
        """Whether the request was let in, and is not over."""
        return record in self._held

    def leave(self, record: Record) -> None:
        """A request is over: of one that no instance was tried for nothing is counted; nothing if it was not let in."""
        began = self._held.pop(record, None)
        if began is None:
            return
        self._account.leave()
        if not record.tried:
            self._account.take_back(began, int(monotonic()))

    def spend(self, tokens: int) -> None:
        """An answer has said how many tokens it took."""
        self._account.spend(int(monotonic()), tokens)

    def lent(self) -> tuple[int, int, int] | None:
        """What this host has of the limits now, where there are other gateways."""
        return self.lease.get(int(monotonic() * 1000)) if self.leases is not None else None

    def used(self) -> tuple[int, int, int]:
        """Of this host: the requests that run, those of the last minute, and the tokens of the last minute."""
        return self._account.look(int(monotonic()))


_RESET = (b"0s", b"%dm0s" % (WINDOW_S // 60))
