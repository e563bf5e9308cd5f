"""A real redis-server on a unix socket, which a test can stop, suspend and start again."""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .leaks import Inventory
from .wire import SAFETY_S

MISSING = shutil.which("redis-server") is None
needs_redis = pytest.mark.skipif(MISSING, reason="redis-server is not installed (Debian: apt-get install redis-server)")


class Redis:
    """A server that keeps nothing on disk; `url` is what GOMODEL_REDIS_URL takes."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "redis.sock"
        self.url = f"unix://{self._path}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Starts it, and returns when it takes connections."""
        options = ("--port", "0", "--unixsocket", str(self._path), "--save", "", "--daemonize", "no")
        self._process = await asyncio.create_subprocess_exec(
            "redis-server", *options, cwd=self._path.parent, stdout=asyncio.subprocess.PIPE
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(SAFETY_S):
            async for line in self._process.stdout:
                if b"ready to accept connections" in line.lower():
                    return
        raise AssertionError("redis-server does not start")

    def suspend(self) -> None:
        """It neither answers nor closes."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    async def stop(self) -> None:
        """Kills it, with all that it knew."""
        if self._process is not None:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.communicate()
            self._process = None


@pytest.fixture
async def redis(no_leaks: Inventory, tmp_path: Path) -> AsyncIterator[Redis]:
    server = Redis(tmp_path)
    await server.start()
    yield server
    await server.stop()
