"""The limits of one caller: requests at once, and requests and tokens a minute, over all workers of this host.

Decides who is let in, what a refusal says and when coming back makes sense (contract section 9). Tokens are counted
when an answer has said how many there were, so that limit bounds the requests after it. How the numbers of several
workers come together is `host_usage`'s.
"""

from time import monotonic

from ..config.settings import Key
from ..errors import RateLimited
from ..telemetry.record import Record
from .host_usage import WINDOW_S, Account

# Nobody can say when one of the requests that run will end.
_SOON_S = 1
_FULL = "1m0s"


class Limits:
    """What one caller may use, and the requests of this process that count against it."""

    __slots__ = ("_account", "_held", "_in_flight", "_name", "_requests", "_tokens", "refused")

    def __init__(self, entry: Key, account: Account) -> None:
        self._account = account
        self._held: set[Record] = set()
        self._name = entry.name
        self.refused: dict[str, int] = {}  # by what was exceeded
        self.configure(entry)

    def configure(self, entry: Key) -> None:
        """Hold to the limits of `entry` from now on; requests that run go on, and count."""
        self._in_flight = entry.in_flight
        self._requests = entry.requests_per_minute
        self._tokens = entry.tokens_per_minute

    def admit(self, record: Record, *, locking: bool = True) -> bytes | None:
        """Count a request that begins, and the fields that its answer has of it.

        None when another worker is deciding about this caller at this moment: the caller has to ask again. Without
        `locking` nobody is taken heed of. Raises RateLimited for one request too many.
        """
        account, now = self._account, int(monotonic())
        running, began, spent = account.look(now)
        if not (locking and account.margin and self._close(running, began, account.margin)):
            return self._decide(record, now, running, began, spent)
        if not account.lock():
            return None
        try:
            return self._decide(record, now, *account.look(now))
        finally:
            account.unlock()

    def _close(self, running: int, began: int, margin: int) -> bool:
        """Whether requests that other workers are about to let in could matter; at the limit they cannot any more."""
        in_flight, requests = self._in_flight, self._requests
        return (in_flight is not None and in_flight - margin <= running < in_flight) or (
            requests is not None and requests - margin <= began < requests
        )

    def _decide(self, record: Record, now: int, running: int, began: int, spent: int) -> bytes:
        in_flight, requests, tokens = self._in_flight, self._requests, self._tokens
        if requests is not None and began >= requests:
            self._refuse("requests_per_minute", requests, now, began, spent)
        if tokens is not None and spent >= tokens:
            self._refuse("tokens_per_minute", tokens, now, began, spent)
        if in_flight is not None and running >= in_flight:
            self._refuse("in_flight", in_flight, now, began, spent)
        self._account.enter(now)
        self._held.add(record)
        return b"" if requests is None and tokens is None else self._fields(began + 1, spent)

    def _refuse(self, what: str, limit: int, now: int, began: int, spent: int) -> None:
        self.refused[what] = self.refused.get(what, 0) + 1
        if what == "in_flight":
            after_s, said = _SOON_S, f"{limit} requests at once"
        elif what == "requests_per_minute":
            after_s, said = self._account.frees_at(now, requests=limit), f"{limit} requests a minute"
        else:
            after_s, said = self._account.frees_at(now, tokens=limit), f"{limit} tokens a minute"
        fields = self._fields(began, spent).decode().split("\r\n")[:-1]
        headers = dict(field.split(": ") for field in fields)
        raise RateLimited(f"The key '{self._name}' may have {said}.", retry_after_s=after_s, headers=headers)

    def _fields(self, began: int, spent: int) -> bytes:
        """What OpenAI's clients read of their limits: all is free again when a minute has passed without use."""
        requests, tokens, fields = self._requests, self._tokens, b""
        if requests is not None:
            fields = (
                b"x-ratelimit-limit-requests: %d\r\nx-ratelimit-remaining-requests: %d\r\n"
                b"x-ratelimit-reset-requests: %b\r\n" % (requests, max(0, requests - began), _RESET[began > 0])
            )
        if tokens is not None:
            fields += (
                b"x-ratelimit-limit-tokens: %d\r\nx-ratelimit-remaining-tokens: %d\r\n"
                b"x-ratelimit-reset-tokens: %b\r\n" % (tokens, max(0, tokens - spent), _RESET[spent > 0])
            )
        return fields

    def holds(self, record: Record) -> bool:
        """Whether the request was let in, and is not over."""
        return record in self._held

    def leave(self, record: Record) -> None:
        """A request is over; nothing for one that was not let in."""
        if record in self._held:
            self._held.remove(record)
            self._account.leave()

    def spend(self, tokens: int) -> None:
        """An answer has said how many tokens it took."""
        self._account.spend(int(monotonic()), tokens)

    def used(self) -> tuple[int, int, int]:
        """Of this host: the requests that run, those of the last minute, and the tokens of the last minute."""
        return self._account.look(int(monotonic()))


_RESET = (b"0s", b"%dm0s" % (WINDOW_S // 60))
