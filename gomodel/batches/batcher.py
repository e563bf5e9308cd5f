"""The batcher: answers for files and batches, and runs the batches whose leases it gets.

Decides how many batches run at once, when leases are kept, and what the end of the gateway means: what was done is made
to count, and the rest is left to whoever comes next.
"""

import asyncio
import logging
import os
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from ..config.settings import Config
from ..host import private_sockets
from .api import Api
from .batch_store import BatchStore
from .contents import Contents
from .database import Database, DatabaseAway
from .file_store import FileStore
from .gates import Gates
from .gateway_client import GatewayClient
from .line import BEAT_S, Line
from .results import LeaseLost
from .run import Run
from .sweeper import Sweeper
from .usage_keeper import UsageKeeper
from .usage_store import UsageStore

_logger = logging.getLogger("gomodel")

# Batches that one gateway runs at once; their lines take turns.
_MOST_RUNS = 8
# How often is looked whether there is work, where nobody says so: another gateway may have died.
_LOOK_S = 2.0
_HEARTBEAT_S = 8.0
_OPEN_AGAIN_S = 1.0
_LOCK_S = 0.5
_COUNT_S = 5.0
# For what is done to count at the end.
_END_S = 3.0


async def serve(config: Config, directory: str, line: Line) -> int:
    """Serve until the other end of `line` is gone; the exit status."""
    assert config.batches.data_dir is not None
    contents = Contents(Path(config.batches.data_dir))
    try:
        await asyncio.to_thread(contents.prepare)
    except OSError as error:
        _logger.error("GOMODEL_DATA_DIR cannot be used: %s", error.strerror)
        return 1
    batcher = Batcher(config, contents, directory, line)
    runner = web.AppRunner(batcher.api.app(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    sock = private_sockets.bind(f"{directory}{private_sockets.API}")
    await web.SockSite(runner, sock).start()
    try:
        await batcher.run()
    finally:
        await runner.cleanup()
        await batcher.close()
    return 0


class Batcher:
    """`run` until the gateway is gone, then `close`."""

    def __init__(self, config: Config, contents: Contents, directory: str, line: Line) -> None:
        self._config = config
        self._batching = batching = config.batches
        url = batching.database_url
        self._database = Database(None if url is None else url.reveal(), contents.data_dir)
        self._contents = contents
        self._batches = BatchStore(self._database)
        files = FileStore(self._database)
        self._line = line
        self._client = GatewayClient(
            f"{directory}{private_sockets.LINES}", config.base_path.rstrip("/"), batching.priority
        )
        self._sweeper = Sweeper(files, self._batches, contents, batching.file_ttl_s)
        usage = UsageStore(self._database)
        self._usage = UsageKeeper(usage)
        self.api = Api(batching, files, self._batches, contents, usage, self._changed, self._paused)
        self._runs: dict[str, tuple[Run, asyncio.Task[None]]] = {}
        self._gates = Gates(batching.concurrency)
        self._looked = asyncio.Event()
        self._draining = False
        self._handing_over = False
        self._lock: int | None = None  # of the directory, where SQLite is in it

    async def run(self) -> None:
        """Serve until the gateway is gone."""
        tasks = [
            asyncio.create_task(each)
            for each in (self._beat(), self._work(), self._keep_leases(), self._every_second())
        ]
        tasks.append(asyncio.create_task(self._count()))
        tasks.append(asyncio.create_task(self._sweep()))
        tasks.append(asyncio.create_task(self._keep_usage()))
        hearing = asyncio.create_task(self._hear())
        try:
            await asyncio.wait({hearing, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in tasks:
                if task.done():
                    task.result()  # a bug; the gateway starts another process
        finally:
            for task in (hearing, *tasks):
                task.cancel()
            await asyncio.wait({hearing, *tasks})
            await self._end()

    async def _keep_usage(self) -> None:
        await self.api.ready.wait()
        await self._usage.run()

    async def _end(self) -> None:
        with suppress(TimeoutError, DatabaseAway):
            async with asyncio.timeout(_END_S):
                if not self.api.ready.is_set():  # a short life, but something may have been used in it
                    await self._database.open()
                await self._usage.finish()
        for run, _ in self._runs.values():
            run.abandon()
        running = {task for _, task in self._runs.values()}
        if running:
            _, late = await asyncio.wait(running, timeout=_END_S)
            for task in late:
                task.cancel()
            await asyncio.wait(running)

    async def close(self) -> None:
        """Give everything back."""
        await self._client.close()
        await self._database.close()

    async def _hear(self) -> None:
        while (message := await self._line.receive()) is not None:
            match message:
                case ("drain" | "hand_over" as how,):
                    self._draining = True
                    self._handing_over = how == "hand_over"
                    for run, _ in self._runs.values():
                        run.drain()
                    self._let_others_on()
                case ("reload", config):
                    self._reload(config)
                case ("usage", run, rows):
                    self._usage.hear(run, rows)
                case ("pressure", said):
                    self._gates.adapt(said, asyncio.get_running_loop().time())

    def _reload(self, config: Config) -> None:
        self._config = config
        self._batching = self.api.config = config.batches
        self._sweeper.file_ttl_s = config.batches.file_ttl_s
        self._client.priority = config.batches.priority
        self._gates.concurrency = config.batches.concurrency

    async def _beat(self) -> None:
        while True:
            self._line.send("beat")
            await asyncio.sleep(BEAT_S)

    def _changed(self) -> None:
        """A caller has made, ended or deleted something."""
        self._looked.set()
        self._sweeper.wake()

    def _paused(self, batch_id: str) -> str | None:
        held = self._runs.get(batch_id)
        return held[0].paused if held is not None else None

    async def _work(self) -> None:
        """Open the database, then take whatever batch is free."""
        said = ""
        while True:
            try:
                await self._database.open()
            except DatabaseAway as away:
                if said != str(away):
                    said = str(away)
                    _logger.error("Files and batches have to wait: %s", said)
                await asyncio.sleep(_OPEN_AGAIN_S)
            else:
                break
        self.api.ready.set()
        if not self._database.shared:
            await self._succeed()
        while True:
            self._looked.clear()
            try:
                await self._renew()
                while not self._draining and len(self._runs) < _MOST_RUNS:
                    work = await self._batches.claim(self._runs.keys())
                    if work is None:
                        break
                    run = Run(
                        work,
                        self._batching,
                        self._config.body_limit_bytes,
                        self._batches,
                        self._contents,
                        self._client,
                        self._gates.of,
                        lambda state, count: self._line.send("lines", state, count),
                    )
                    self._runs[work.id] = run, asyncio.create_task(self._hold(run))
            except DatabaseAway:
                pass  # whoever calls is told, and batches that run say so
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._looked.wait()
            except TimeoutError:
                pass

    async def _succeed(self) -> None:
        """Wait until no other batcher has this directory; what the last one held is free then, however it ended."""
        while True:
            self._lock = await asyncio.to_thread(self._contents.lock)
            if self._lock is not None:
                break
            await asyncio.sleep(_LOCK_S)
        self._let_others_on()
        while True:
            try:
                await self._batches.free()
            except DatabaseAway:
                await asyncio.sleep(_OPEN_AGAIN_S)
            else:
                return

    def _let_others_on(self) -> None:
        """Give the directory up to the release that takes over, once no batch of it runs here."""
        if self._handing_over and not self._runs and self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _hold(self, run: Run) -> None:
        batch_id = run.work.id
        try:
            await run.run()
            await self._batches.release(run.work)
        except LeaseLost:
            _logger.warning("Batch %s is gone on with by another gateway", batch_id)
        except DatabaseAway:
            pass  # its lease runs out by itself
        except Exception:
            _logger.exception("Batch %s failed inside the gateway; it is tried again when its lease is over", batch_id)
        finally:
            del self._runs[batch_id]
            self._looked.set()
            self._let_others_on()

    async def _keep_leases(self) -> None:
        while True:
            await asyncio.sleep(_HEARTBEAT_S)
            try:
                await self._renew()
            except DatabaseAway:
                pass  # the lease may run out, and whoever gets it goes on

    async def _renew(self) -> None:
        """Keep the leases, and see what callers want of the batches."""
        for run, task in list(self._runs.values()):
            status = await self._batches.renew(run.work)
            if status is None:
                if not task.done():
                    run.lost()
            else:
                run.noticed(status)

    async def _sweep(self) -> None:
        await self.api.ready.wait()
        await self._sweeper.run()

    async def _count(self) -> None:
        await self.api.ready.wait()
        while True:
            try:
                self._line.send("batches", await self._batches.counts())
            except DatabaseAway:
                pass
            await asyncio.sleep(_COUNT_S)

    async def _every_second(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            if self._runs:
                self._line.send("pressure?")
            else:
                self._gates.clear()
