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
from .host_usage import REQUESTS, RUNNING, TOKENS, WINDOW_S, Account
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
        "_in_flight",
        "_most_requests",
        "_most_running",
        "_most_tokens",
        "_requests",
        "_said",
        "_said_of_both",
        "_tokens",
        "held",
        "lease",
        "leases",
        "name",
        "refused",
        "waits",
        "whole",
    )

    def __init__(self, entry: Key, account: Account, lease: Lease) -> None:
        """`lease`: what this host has of the limits where `leases` says that there are other gateways."""
        self._account = account
        # The requests that were let in and are not over, and when the second was over in which each began.
        self.held: dict[Record, int] = {}
        self.name = entry.name
        self.lease = lease
        self.leases: Leases | None = None
        self.refused: dict[str, int] = {}  # by what was exceeded
        self.configure(entry)

    def configure(self, entry: Key) -> None:
        """Hold to the limits of `entry` from now on; requests that run go on, and count.

        `whole` has also what is waited for, which is lent as the others are, and given by the line.
        """
        self.waits = entry.waits_beyond is not None
        self.whole = entry.in_flight, entry.requests_per_minute, entry.tokens_per_minute
        self._in_flight, self._requests, self._tokens = entry.refused_beyond, *self.whole[1:]
        self._said = _template(*self.whole[1:])
        self._bound()

    def _bound(self) -> None:
        """Say what is let in without a closer look, and what is said of it."""
        in_flight, requests, tokens = self._in_flight, self._requests, self._tokens
        self._most_running = _MANY if in_flight is None else in_flight
        self._most_requests = _MANY if requests is None else requests
        self._most_tokens = _MANY if tokens is None else tokens
        both = requests is not None and tokens is not None
        self._said_of_both = _template(*self.whole[1:], used=True) if both else b""

    def admit(self, record: Record, now_s: float, *, waiting: bool = True) -> bytes | None:
        """Count a request that begins, and the fields that its answer has of it; `now_s` is time.monotonic.

        None when another worker is deciding about this caller at this moment, or Redis is being asked: ask again soon,
        and at last without `waiting`. Raises RateLimited for one request too many.
        """
        account = self._account
        until, cells = account.until, account.cells
        if (
            now_s < until
            and self.leases is None
            and cells[RUNNING] < self._most_running
            and (began := cells[REQUESTS]) < self._most_requests
            and (spent := cells[TOKENS]) < self._most_tokens
        ):  # nearly all, where one worker decides
            cells[RUNNING] += 1
            cells[REQUESTS] = began = began + 1
            self.held[record] = until
            if spent and self._said_of_both:
                return self._said_of_both % (self._most_requests - began, self._most_tokens - spent)
            return self._fields(began, spent)
        return self._look_closer(record, int(now_s), waiting=waiting)

    def _look_closer(self, record: Record, now: int, *, waiting: bool) -> bytes | None:
        """The same where others decide as well, at the beginning of a second, and at a limit."""
        if self.leases is not None:
            amounts = self.leases.amounts(self, waiting=waiting)
            if amounts is None:
                return None
            now_lent = None if self.waits else amounts[0], *amounts[1:]
            if now_lent != (self._in_flight, self._requests, self._tokens):
                self._in_flight, self._requests, self._tokens = now_lent
                self._bound()
        account = self._account
        running, began, spent = account.look(now)
        margin = account.margin
        if (
            running + margin < self._most_running and began + margin < self._most_requests and spent < self._most_tokens
        ):  # as `_decide`, without a call
            account.enter()
            self.held[record] = account.second + 1
            return self._fields(began + 1, spent)
        if not (waiting and margin and self._close(running, began, margin)):
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
        """The same near a limit, or at it."""
        in_flight, requests, tokens = self._in_flight, self._requests, self._tokens
        if in_flight is not None and running >= in_flight:
            which = 0
        elif requests is not None and began >= requests:
            which = 1
        elif tokens is not None and spent >= tokens:
            which = 2
        else:
            self._account.enter()
            self.held[record] = self._account.second + 1
            return self._fields(began + 1, spent)
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
        requests, tokens = self._requests, self._tokens
        if requests is None:
            if tokens is None:
                return b""
            return self._said % (tokens - spent if spent < tokens else 0, _RESET[spent > 0])
        left = requests - began if began < requests else 0
        if tokens is None:
            return self._said % (left, _RESET[began > 0])
        return self._said % (left, _RESET[began > 0], tokens - spent if spent < tokens else 0, _RESET[spent > 0])

    def leave(self, record: Record, now_s: float) -> None:
        """A request is over, and its tokens are spent, as far as its answer said how many.

        Of one that no instance was tried for nothing is counted, and nothing of one that was not let in.
        """
        account = self._account
        until, usage = self.held.pop(record, None), record.usage
        if now_s < account.until and until is not None and usage is not None and record.tried:
            cells = account.cells  # nearly all, as above
            cells[RUNNING] -= 1
            cells[TOKENS] += usage.prompt + usage.completion
            return
        now = int(now_s)
        if until is not None:
            account.leave()
            if not record.tried:
                account.take_back(until - 1, now)
        if usage is not None:
            account.spend(now, usage.prompt + usage.completion)

    def lent(self) -> tuple[int, int, int] | None:
        """What this host has of the limits now, where there are other gateways."""
        return self.lease.get(int(monotonic() * 1000)) if self.leases is not None else None

    def used(self) -> tuple[int, int, int]:
        """Of this host: the requests that run, those of the last minute, and the tokens of the last minute."""
        running, began, spent = self._account.look(int(monotonic()))
        return self.lease.running if self.waits else running, began, spent


_RESET = (b"0s", b"%dm0s" % (WINDOW_S // 60))
_MANY = 1 << 62


def _template(requests: int | None, tokens: int | None, *, used: bool = False) -> bytes:
    """The fields of those limits that there are, but for what is left of each and when it is free again.

    `used`: some of each is, so that the latter is known.
    """
    reset = _RESET[True] if used else b"%b"
    return b"".join(
        b"x-ratelimit-limit-%b: %d\r\nx-ratelimit-remaining-%b: %%d\r\nx-ratelimit-reset-%b: %b\r\n"
        % (what, limit, what, what, reset)
        for what, limit in ((b"requests", requests), (b"tokens", tokens))
        if limit is not None
    )
