"""One batch, from the look at its file to its last line: runs what is not done yet, and ends it in good order.

Decides what becomes of a line by its answers, and of the batch when it is cancelled, expires, or cannot go on for now.
Whoever is cancelled here leaves a batch that another can go on with.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from random import uniform
from time import time

from ..config.settings import Batching
from .batch_store import BatchStore
from .contents import Contents
from .ending import Ending
from .gate import Gate
from .gateway_client import Answer, GatewayClient, Outcome
from .lines import answered, json_of, not_run, request_id
from .patience import Patience
from .records import Work
from .results import ERROR, OUTPUT, LeaseLost, Results
from .validation import Verdict, error, validate
from .window import Numbered, Windows

_logger = logging.getLogger("gomodel")

# How old a result may get before it counts, and how much of them may wait for that.
_SAVE_S = 1.0
_MOST_WAITING_BYTES = 16 << 20
# Times that a line is sent when nothing comes back.
_TRIES = 3
_BACKOFF_S, _BACKOFF_MAX_S = 0.2, 15.0


class Run:
    """One batch that this process holds."""

    def __init__(
        self,
        work: Work,
        config: Batching,
        line_limit_bytes: int,
        batches: BatchStore,
        contents: Contents,
        client: GatewayClient,
        gates: Callable[[str], Gate],
        counted: Callable[[str, int], None],
    ) -> None:
        self.work = work
        self._config = config
        self._limit = line_limit_bytes
        self._batches = batches
        self._contents = contents
        self._client = client
        self._gates = gates
        self._path = contents.path(work.input_file_id)
        self._counted = counted
        self._results = Results(work, contents, batches, counted)
        self._stop = asyncio.Event()  # begin no further line
        self._room = asyncio.Event()  # results can be taken
        self._room.set()
        self._patience = Patience(work, batches, self._room.clear)
        self._why = ""  # the stop is for a reason of the batch's own
        self._lost = False
        self._abandoned = False
        self._running: set[asyncio.Task[None]] = set()  # lines
        self._over = asyncio.Event()  # none runs any more

    @property
    def paused(self) -> str:
        """Why the batch does not move, "" while it does."""
        return self._patience.paused

    def drain(self) -> None:
        """Begin no further line; the run ends when those that run are over."""
        self._stop.set()

    def abandon(self) -> None:
        """End now: what runs will be run again by whoever goes on."""
        self._abandoned = True
        self._stop.set()
        self._cancel_lines()

    def lost(self) -> None:
        """The lease is somebody else's."""
        self._lost = True
        self.abandon()

    def noticed(self, status: str) -> None:
        """The batch has this status in the database."""
        if status == "cancelling":
            self._end_early("cancelled")

    def _end_early(self, why: str) -> None:
        if not self._why:
            self._why = why
            self._stop.set()

    async def run(self) -> None:
        """Go on with the batch until it is over or `drain` is called. Raises LeaseLost."""
        work = self.work
        self.noticed(work.status)
        if work.status == "validating" and not self._stop.is_set() and not await self._look_at():
            return
        self._results = Results(self.work, self._contents, self._batches, self._counted)
        work = self.work
        left_s = max(0.0, work.expires_at - time())
        expiry = asyncio.get_running_loop().call_later(left_s, self._end_early, "expired")
        try:
            if work.total and work.status != "finalizing":
                await self._run_lines()
            if self._lost:
                raise LeaseLost
            if self._stop.is_set() and not self._why:
                return
            ending = Ending(self.work, self._limit, self._batches, self._contents, self._results, self._patience)
            await ending.end(self._why, int(self._config.file_ttl_s))
        finally:
            expiry.cancel()
            await asyncio.shield(asyncio.to_thread(self._results.close))

    async def _look_at(self) -> bool:
        """Whether the file is good and its lines can be run."""
        work = self.work
        try:
            verdict = await asyncio.to_thread(validate, self._path, work.endpoint, self._limit)
        except FileNotFoundError:
            verdict = Verdict(0, {}, [error("file_not_found", "The file is not there any more.", None)])
        errors = verdict.errors
        if not errors:
            for model, line in verdict.models.items():
                if model and await self._client.knows(model, work.owner) is False:
                    message = f"The model {model[:200]!r} does not exist."
                    errors.append(error("model_not_found", message, line, "body.model"))
        if errors:
            if await self._patience.persist(lambda: self._batches.refuse(work, errors)) is None:
                raise LeaseLost
            _logger.info("Batch %s is refused: %s", work.id, errors[0]["message"])
            return False
        only = next(iter(verdict.models)) if len(verdict.models) == 1 else None
        status = await self._patience.persist(lambda: self._batches.begin(work, verdict.total, only))
        if status is None:
            raise LeaseLost
        self.work = replace(work, status=status, total=verdict.total, done=bytes((verdict.total + 7) // 8))
        self.noticed(status)
        return True

    async def _run_lines(self) -> None:
        """Run what is not done, until that is all or the run has to stop; what was brought counts then."""
        saver = asyncio.create_task(self._keep_saving())
        dispatch = asyncio.create_task(self._dispatch())
        stop = asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait({dispatch, stop, saver}, return_when=asyncio.FIRST_COMPLETED)
            if not dispatch.done():
                dispatch.cancel()
                await asyncio.wait({dispatch})
            if not dispatch.cancelled():
                dispatch.result()
            while self._running and not saver.done():
                if self._why or self._abandoned:  # more than once: one may have begun when its turn came
                    self._cancel_lines()
                waited = {*self._running, saver} if stop.done() else {*self._running, saver, stop}
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            self._over.set()
            await saver
            await self._save()  # what came while the last save was under way
        finally:
            stop.cancel()
            dispatch.cancel()
            saver.cancel()
            self._cancel_lines()
            await asyncio.wait({saver, stop, dispatch, *self._running})

    def _cancel_lines(self) -> None:
        for task in self._running:
            task.cancel()

    async def _dispatch(self) -> None:
        windows = await asyncio.to_thread(Windows, self._path, self.work.endpoint, self._limit, self._results.has)
        try:
            while window := await asyncio.to_thread(windows.next):
                by_model: dict[str, list[Numbered]] = {}
                for each in window:
                    by_model.setdefault(each.line.model, []).append(each)
                async with asyncio.TaskGroup() as group:  # a model that is away holds up no other of the same window
                    for model, lines in by_model.items():
                        group.create_task(self._send(lines, self._gates(model)))
        finally:
            windows.close()

    async def _send(self, lines: list[Numbered], gate: Gate) -> None:
        for each in lines:
            await self._room.wait()
            await gate.enter()
            task = asyncio.create_task(self._line(each, gate))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
            task.add_done_callback(lambda _: gate.leave())  # even of one that was cancelled before it began

    async def _line(self, each: Numbered, gate: Gate) -> None:
        """Run one line until it has an answer, or has failed for good."""
        number, line = each.place + 1, each.line
        tries, delay_s = 0, _BACKOFF_S
        while True:
            answer = await self._client.ask(self.work, request_id(self.work.id, number), line.body)
            if answer.server:
                gate.servers.add(answer.server)
            if answer.outcome is Outcome.ANSWERED:
                break
            gate.pace.busy(asyncio.get_running_loop().time())
            if answer.outcome is Outcome.NOTHING:
                tries += 1
                if tries >= _TRIES:
                    break
            await gate.come_back(self._rest(delay_s * uniform(0.8, 1.2)))
            if self._stop.is_set():
                return  # another will run it, or nobody
            delay_s = min(_BACKOFF_MAX_S, delay_s * 2)
        self._take(each, answer)

    async def _rest(self, delay_s: float) -> None:
        try:
            async with asyncio.timeout(delay_s):
                await self._stop.wait()
        except TimeoutError:
            pass

    def _take(self, each: Numbered, answer: Answer) -> None:
        number, line = each.place + 1, each.line
        if not answer.status:
            message = "The connection was lost before an answer came."
            text = not_run(self.work.id, number, line.custom_id, "connection_terminated", message)
            self._results.add(each.place, ERROR, text)
        else:
            known = json_of(answer.body)
            text = answered(self.work.id, number, line.custom_id, answer.status, answer.body, known)
            self._results.add(each.place, OUTPUT if 200 <= answer.status < 300 else ERROR, text, known)
        if self._results.waiting_bytes >= _MOST_WAITING_BYTES:
            self._room.clear()

    async def _keep_saving(self) -> None:
        while not self._over.is_set():
            try:
                async with asyncio.timeout(_SAVE_S):
                    await self._over.wait()
            except TimeoutError:
                pass
            if not self._over.is_set():
                await self._save()

    async def _save(self) -> None:
        """Make what was brought count, however long that takes."""
        status = await self._patience.persist(self._results.save)
        self._room.set()
        self.noticed(status)
