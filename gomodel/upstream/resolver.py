"""DNS: looks up the host names of instances, each on a daemon thread of its own, so that none waits for another.

Event loops look names up in a pool of threads that the whole process shares: a few names whose server never answers
fill it, and nobody's name is looked up any more; and the pool keeps the process from exiting. Here a host has one
thread at most, and only while its look-up runs.

Decides how long an answer is good for, and that the last good addresses stay in use while a look-up fails or hangs.
Knows nothing of instances, ports or connections.
"""

import asyncio
import errno
import logging
import socket
import threading
from functools import partial

from aiohttp.abc import AbstractResolver, ResolveResult

from ..host import descriptors

_logger = logging.getLogger("gomodel")

# Kubernetes moves a name within seconds; `getaddrinfo` does not tell the time to live of its answer.
TTL_S = 10.0
# A new connection waits this long for fresh addresses when there are old ones.
PATIENCE_S = 0.5
# After a look-up that failed while there are old addresses.
RETRY_S = 5.0
# The name server's own word, not a failure to ask it: whoever has these addresses now is somebody else.
_NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})

Address = tuple[int, str]  # family, number


class LookUps:
    """Look-ups of host names, each on a thread that nobody waits for at the end; one of a name at a time."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[tuple[Address, ...]]] = {}

    def ask(self, host: str) -> asyncio.Future[tuple[Address, ...]]:
        """The addresses of `host`, or OSError; all who ask meanwhile share the future, which none may cancel."""
        future = self._running.get(host)
        if future is None or future.done():
            loop = asyncio.get_running_loop()
            future = self._running[host] = loop.create_future()
            future.add_done_callback(partial(self._ended, host))
            thread = threading.Thread(target=_run, args=(loop, future, host), name=f"resolve {host}", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # the process may have no more threads
                _settle(future, OSError(errno.ENOMEM, "no thread"))
        return future

    def _ended(self, host: str, future: asyncio.Future[tuple[Address, ...]]) -> None:
        future.exception()  # which others may not look at
        if self._running.get(host) is future:
            del self._running[host]


def _run(loop: asyncio.AbstractEventLoop, future: asyncio.Future[tuple[Address, ...]], host: str) -> None:
    """In the thread."""
    outcome: tuple[Address, ...] | OSError
    try:
        outcome = _addresses(host)
    except OSError as exc:
        outcome = exc
    try:
        loop.call_soon_threadsafe(_settle, future, outcome)
    except RuntimeError:
        pass  # the loop is closed: nobody wants to know any more


def _settle(future: asyncio.Future[tuple[Address, ...]], outcome: tuple[Address, ...] | OSError) -> None:
    if isinstance(outcome, OSError):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


class Pinned(AbstractResolver):
    """Every name has this one address."""

    def __init__(self, number: str) -> None:
        family = socket.AF_INET6 if ":" in number else socket.AF_INET
        self._address = int(family), number

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The address, whatever `host` is."""
        return [_result(host, port, self._address)]

    async def close(self) -> None:
        """Nothing to give back."""


def _result(host: str, port: int, address: Address) -> ResolveResult:
    family, number = address
    return ResolveResult(
        hostname=host,
        host=number,
        port=port,
        family=family,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )


class Resolver(AbstractResolver):
    """The names of all instances; `resolve` is what a TCPConnector with `use_dns_cache=False` asks."""

    def __init__(self, look_ups: LookUps | None = None) -> None:
        self._look_ups = look_ups or LookUps()
        self._names: dict[str, _Name] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of `host`, another one first each time. Raises OSError (socket.gaierror for a DNS failure)."""
        name = self._names.get(host)
        if name is None:
            name = self._names[host] = _Name(host, self._look_ups)
        found = await name.addresses()
        return [_result(host, port, each) for each in found if family in (socket.AF_UNSPEC, each[0])]

    def only(self, host: str) -> Address | None:
        """The address of `host` where it is known without asking, and the only one."""
        name = self._names.get(host)
        return name.only() if name is not None else None

    async def close(self) -> None:
        """Nothing to give back: a look-up that runs ends by itself, and nobody waits for it."""


class _Name:
    """One host name: what is known of it and the look-up that runs."""

    def __init__(self, host: str, look_ups: LookUps) -> None:
        self._host = host
        self._look_ups = look_ups
        self._loop = asyncio.get_running_loop()
        self._known: tuple[Address, ...] = ()
        self._error: OSError | None = None  # of the last look-up
        self._good_until = self._retry_at = float("-inf")
        self._begun: float | None = None  # when the look-up that runs began
        self._failing = False
        self._waiting: set[asyncio.Future[None]] = set()
        self._turn = 0

    async def addresses(self) -> tuple[Address, ...]:
        """Fresh ones; the last good ones when there are none in time. Raises OSError when nothing is known."""
        now = self._loop.time()
        if now >= self._good_until:
            if self._begun is None and now >= self._retry_at:
                self._look_up(now)
            if not self._known:
                await self._answer()
            elif not self._failing and self._begun is not None:
                try:
                    async with asyncio.timeout_at(self._begun + PATIENCE_S):
                        await self._answer()
                except TimeoutError:
                    self._doubt("does not answer")
        if not self._known:
            assert self._error is not None
            raise type(self._error)(*self._error.args)
        self._turn = (self._turn + 1) % len(self._known)
        return self._known[self._turn :] + self._known[: self._turn]

    def only(self) -> Address | None:
        """See Resolver."""
        return self._known[0] if len(self._known) == 1 and self._loop.time() < self._good_until else None

    async def _answer(self) -> None:
        """Return when the look-up that runs has ended."""
        if self._begun is None:
            return
        waiter = self._loop.create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _look_up(self, now: float) -> None:
        self._begun = now
        self._look_ups.ask(self._host).add_done_callback(self._ended)

    def _ended(self, look_up: asyncio.Future[tuple[Address, ...]]) -> None:
        now = self._loop.time()
        error = look_up.exception()
        assert error is None or isinstance(error, OSError)
        found = look_up.result() if error is None else ()
        self._begun = None
        self._error = error
        if found:
            if self._failing:
                self._failing = False
                _logger.info("The name %s can be looked up again", self._host)
            self._known = found
            self._good_until = now + TTL_S
        elif isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME:
            self._known = ()
            self._failing = False
            self._retry_at = now
        elif self._known:
            self._retry_at = now + RETRY_S
            self._doubt("cannot be asked")
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)

    def _doubt(self, why: str) -> None:
        if not self._failing:
            self._failing = True
            _logger.warning("The name server %s for %s: its last addresses stay in use", why, self._host)


def _addresses(host: str) -> tuple[Address, ...]:
    """Ask the system, blocking. Raises OSError, of an errno in `descriptors.EXHAUSTED` when that is the reason."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    except UnicodeError:
        raise socket.gaierror(socket.EAI_NONAME, "no host name") from None
    except socket.gaierror as error:
        # Without a descriptor the C library often says that the name is unknown, or the server silent.
        number = descriptors.shortage()
        if number is not None:
            raise OSError(number, "no descriptor") from error
        raise
    numeric = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
    # getnameinfo for the scope of a link-local address, which the number alone does not hold.
    pairs = ((int(family), socket.getnameinfo(address, numeric)[0]) for family, _, _, _, address in found)
    return tuple(dict.fromkeys(pairs))
