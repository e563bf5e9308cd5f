"""What stands behind the clients: a gomodel process as an operator starts it, and the simulated vLLM.

Decides how both are started and ended. Knows nothing of clients.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from aiohttp import web

from gomodel.simulator import build_app

ROOT = Path(__file__).resolve().parents[2]
START_S = 30
STOP_S = 15
# A busy machine is slow; what takes longer does not happen.
PATIENCE_S = 15


def until(what: str, found: Callable[[], bool]) -> None:
    """Ask `found` until it is true. Raises AssertionError after PATIENCE_S."""
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE_S} s: {what}")
        time.sleep(0.02)


def closed_port() -> socket.socket:
    """A port of loopback that refuses connections for as long as the socket is open, until somebody listens on it."""
    held = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    held.bind(("127.0.0.1", 0))
    return held


def base_url(bound: socket.socket) -> str:
    """The base URL of a vLLM on `bound`."""
    return f"http://127.0.0.1:{bound.getsockname()[1]}/v1"


@contextlib.contextmanager
def simulated_vllm(bound: socket.socket, model: str, api_key: str | None = None) -> Iterator[None]:
    """The simulated vLLM listens on `bound`, in a thread and as fast as it can, until the block ends."""
    loop = asyncio.new_event_loop()
    listening, ending = threading.Event(), asyncio.Event()

    async def serve() -> None:
        app = build_app(model=model, tokens_per_s=0, api_key=api_key)
        runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, bound).start()
        listening.set()
        await ending.wait()
        await runner.cleanup()
        await asyncio.sleep(0)  # transports that were closed just now are let go in the loop's next turn

    def run() -> None:
        with contextlib.closing(loop):
            loop.run_until_complete(serve())

    thread = threading.Thread(target=run, name=model)
    thread.start()
    try:
        if not listening.wait(START_S):
            raise RuntimeError("the simulated vLLM did not start")
        yield
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join()


@contextlib.contextmanager
def gomodel(directory: Path, settings: Mapping[str, str]) -> Iterator[str]:
    """`python -m gomodel` with these settings and no others; the URL it serves. It must end with status 0."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOST": "127.0.0.1", "PORT": str(port)}
    log = directory / "gomodel.log"
    guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*guard, sys.executable, "-m", "gomodel"],
            env={**environment, "GOMODEL_DRAIN_TIMEOUT": "2s", **settings},
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_until_healthy(process, url, log)
        yield url
        process.send_signal(signal.SIGTERM)
        status = process.wait(STOP_S)
        if status:
            raise AssertionError(f"gomodel ended with status {status}:\n{_tail(log)}")
    finally:
        process.kill()
        process.wait()


def _wait_until_healthy(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"gomodel did not start, exit status {process.poll()}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])
