"""Health probes: asks every replica's /health in the background.

Decides how often to ask and what an answer means. Knows nothing of the requests that report to the same `Health`, nor
of what /health/ready makes of it (`operations.readiness`).
"""

import asyncio
import random
from collections.abc import Callable, Iterable
from time import monotonic

from ..config.settings import Server
from ..errors import GatewayError, LoopDetected, Overloaded
from ..http1.message import ResponseMessage
from ..http1.response_fields import ResponseFields
from ..telemetry.bugs import reported
from .channel import Channel
from .health import FORGIVEN, State
from .other_scheme import BAD_REQUEST, doubtful, speaks_other
from .replica import ASLEEP, Replica
from .sleep import NoSuchRoute, is_asleep, is_asleep_by_its_metrics

TIMEOUT_S = 2.0
INTERVAL_S = 10.0
# While an instance is down or in doubt: a restart should be noticed by whoever waits for it, not by a request.
RETRY_S = 1.5
# Of one that can be put to sleep: a request that arrives there meanwhile waits until it is woken up.
SLEEP_INTERVAL_S = 2.0
# Many gateways started by one deployment must not ask in step.
_JITTER = 0.2
# An answer on /health/ready waits this long for the very first verdict; Kubernetes waits a second for the answer.
FIRST_VERDICT_S = 0.5

_ENGINE_DEAD = 503
_BAD_REQUEST = 400
_LOOP = 508  # said by a gomodel that finds its own probe at its door


class Probes:
    """One task per replica that asks it, from `start` to `close`."""

    def __init__(self, replicas: Iterable[Replica], on_alive: Callable[[Replica], None] | None = None) -> None:
        """`on_alive` is called after every probe that was answered."""
        self._replicas: tuple[Replica, ...] = tuple(replicas)
        self._on_alive = on_alive
        self._tasks: dict[Replica, asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._asking = False
        self._sleepless: dict[Replica, float] = {}  # who do not say whether they are asleep, by when they came up
        self._verdict = asyncio.Event()  # one is up, or something is known of all
        self._other: dict[Server, str] = {}  # what speaks_other said, while a server's probes go on to fail so

    @property
    def asking(self) -> bool:
        """Whether replicas are being asked."""
        return self._asking

    def start(self) -> None:
        """Ask every replica now and from now on."""
        self._asking = True
        self.follow(self._replicas)

    def follow(self, replicas: Iterable[Replica]) -> None:
        """These are the replicas from now on: ask those that came, and no more those that left."""
        self._replicas = tuple(replicas)
        if not self._asking:
            return
        left = self._tasks.keys() - set(self._replicas)
        for replica in left:
            self._tasks.pop(replica).cancel()
            self._sleepless.pop(replica, None)
        for replica in self._replicas:
            if replica not in self._tasks:
                task = self._tasks[replica] = asyncio.create_task(self._watch(replica))
                task.add_done_callback(reported("A health probe"))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
        self._judge()

    def stop(self) -> None:
        """Ask no more."""
        for task in self._tasks.values():
            task.cancel()

    async def close(self) -> None:
        """Stop, and return when nothing is left of it."""
        self.stop()
        self._asking = False
        self._tasks = {}
        if self._running:
            await asyncio.wait(self._running)

    async def first_verdict(self) -> None:
        """Return when an instance is up or all are known not to be, after FIRST_VERDICT_S in any case."""
        if self.asking and not self._verdict.is_set():
            try:
                async with asyncio.timeout(FIRST_VERDICT_S):
                    await self._verdict.wait()
            except TimeoutError:
                pass

    async def _watch(self, replica: Replica) -> None:
        health = replica.health
        fell = asyncio.Event()
        health.on_fall = fell.set
        seen = _Activity(replica)
        while True:
            before, seen = seen, _Activity(replica)
            await self._ask(replica, streaming=seen.pieces > before.pieces)
            fell.clear()
            sleeps = await self._look_for_sleep(replica, silent=seen.is_silent_since(before))
            if health.settled:
                try:
                    async with asyncio.timeout(_about(SLEEP_INTERVAL_S if sleeps else INTERVAL_S)):
                        await fell.wait()
                except TimeoutError:
                    continue
            await asyncio.sleep(_about(RETRY_S))

    async def _ask(self, replica: Replica, *, streaming: bool) -> None:
        health = replica.health
        failures, began = health.failures, monotonic()
        code = await self._in_words(replica, await ask(replica))
        if code is None or (streaming and code in FORGIVEN):
            return  # whoever sends to clients is alive, however late it answers us
        if code:
            replica.failed(code, probe=True)
        else:
            health.alive(failures)
            if health.state is State.UP:
                replica.breaker.probed(monotonic(), began)
            if self._on_alive is not None:
                self._on_alive(replica)
        self._judge()

    async def _look_for_sleep(self, replica: Replica, *, silent: bool) -> bool:
        """Bar one that is asleep; whether it is to be asked soon again.

        One that does not say it is asked again when it was down, and when it is `silent` in the middle of requests.
        """
        health = replica.health
        if health.state is State.DOWN:
            replica.bar(ASLEEP, False)  # what it fails with says more than how it was
        suspected = silent or replica.is_barred(ASLEEP)
        if health.state is not State.UP or (self._sleepless.get(replica) == health.since and not suspected):
            return False
        try:
            asleep, says_so = await is_asleep(replica), True
        except NoSuchRoute:
            self._sleepless[replica] = health.since
            asleep, says_so = await is_asleep_by_its_metrics(replica) if suspected else False, False
        if asleep is not None:
            replica.bar(ASLEEP, asleep)
        return says_so or replica.is_barred(ASLEEP)

    async def _in_words(self, replica: Replica, code: str | None) -> str | None:
        """The same, or that the server speaks the other scheme, which is found out once."""
        server = replica.server
        if not code or not doubtful(server, code):
            self._other.pop(server, None)
            return code
        if server not in self._other:
            self._other[server] = await speaks_other(replica.pool.session, server)
        return self._other[server] or ("" if code == BAD_REQUEST else code)

    def _judge(self) -> None:
        states = [each.health.state for each in self._replicas]
        if State.UP in states or (states and State.UNKNOWN not in states):
            self._verdict.set()


def _about(seconds: float) -> float:
    return seconds * (1 + random.uniform(-_JITTER, _JITTER))


class _Activity:
    """What was seen of a replica's answers at one moment, of the requests of this process."""

    def __init__(self, replica: Replica) -> None:
        self.pieces = sum(replica.gaps.counts)
        self._answers = replica.answers
        self._running = replica.requests.own

    def is_silent_since(self, before: "_Activity") -> bool:
        """Whether requests ran at both moments and nothing was answered in between."""
        return bool(before._running and self._running) and (before.pieces, before._answers) == (
            self.pieces,
            self._answers,
        )


class _Answer:
    """Takes the head of one response; a `Sink`."""

    def __init__(self) -> None:
        self.status: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def on_response(self, message: ResponseMessage, fields: ResponseFields, data: bytes, complete: bool) -> None:
        if not self.status.done():
            self.status.set_result(message.code)

    def on_data(self, data: bytes, complete: bool) -> None:
        """Nobody reads the body."""

    def on_failure(self, error: GatewayError) -> None:
        if not self.status.done():
            self.status.set_exception(error)

    def on_writable(self) -> None:
        """The question is one write."""


async def ask(replica: Replica) -> str | None:
    """Ask GET /health over a connection of its own: "" when alive, else what is wrong; None when we could not ask.

    vLLM answers 200, or 503 when its engine is dead. Any other answer below 500 means that something serves there,
    perhaps without such a route, unless it is a 400, which no vLLM says to this. Redirects are not followed.
    """
    channel: Channel | None = None
    answer = _Answer()
    head = b"GET %b/health HTTP/1.1\r\n%bX-Request-Id: %b\r\nConnection: close\r\n\r\n" % (
        replica.root_path.encode(),
        replica.own_fields,
        replica.pool.mark,
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            channel = await replica.pool.connect(probe=True)
            replica.pool.forget(channel)
            channel.pool = None  # an answer without `Connection: close` must not lend it to a request
            channel.begin(answer, (head,), True, False)
            status = await answer.status
    except TimeoutError:
        return "connection_timeout" if channel is None else "http_response_timeout"
    except Overloaded:
        return None  # no descriptor left in this process; that is not the instance's fault
    except GatewayError as error:
        return error.code
    finally:
        if channel is not None:
            channel.discard()
    # From elsewhere, or the connection would have shown it.
    replica.pool.judge(leads_back=status == _LOOP)
    if status == _LOOP:
        return LoopDetected.code
    if status == _ENGINE_DEAD:
        return "engine_dead"
    if status == _BAD_REQUEST:
        return BAD_REQUEST
    return "" if status < 500 else "destination_unavailable"
