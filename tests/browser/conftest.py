"""A headless Chromium, gateways as real processes, and clients that hold requests open.

Decides how these are started and that a page which breaks its own policy fails the test. CHROMIUM names the browser's
program where it is not found by itself; SCREENSHOTS names a directory to keep the pictures in.
"""

import contextlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
KEY = "demo"
LIMIT_S = 30.0
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Gateway:
    """A running gateway, and what to do with it."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, prefix: str) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}{prefix}/"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Stream(threading.Thread):
    """A client that reads a stream to its end; `outcome` is "complete" or "cut"."""

    def __init__(self, gateway: Gateway, model: str, tokens: int) -> None:
        super().__init__(daemon=True)
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=LIMIT_S)
        body = {"model": model, "stream": True, "min_tokens": tokens, "max_tokens": tokens, "messages": _MESSAGES}
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        self.outcome = ""
        self._sock = self._connection.sock
        self.start()

    def run(self) -> None:
        try:
            with self._connection.getresponse() as answer:
                answer.read()  # readline would take the end of a connection for that of the answer
            self.outcome = "complete"
        except (http.client.HTTPException, OSError):
            self.outcome = "cut"
        self._connection.close()

    def leave(self) -> None:
        """Hang up, whatever there is still to read."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self.join(LIMIT_S)


_MESSAGES = [{"role": "user", "content": "Tell me about rivers."}]


def stalled_upload(gateway: Gateway, model: str, target: str = "/v1/chat/completions") -> socket.socket:
    """A request that names its model and never sends the rest of its body; it runs until the socket is closed."""
    sock = socket.create_connection(("127.0.0.1", gateway.port), LIMIT_S)
    body = json.dumps({"model": model, "messages": _MESSAGES})
    head = (
        f"POST {target} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {KEY}\r\nContent-Length: {len(body) + 1}\r\n\r\n"
    )
    sock.sendall((head + body).encode())
    return sock


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """`start("--demo", PORT="18080")`: python -m gomodel, listening; stopped at the end."""
    running: list[Gateway] = []

    def run(*arguments: str, **variables: str) -> Gateway:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOST": "127.0.0.1", "PORT": str(port)}
        environ["LOG_LEVEL"] = "info"  # of which the line that is waited for is
        process = subprocess.Popen(
            [sys.executable, "-m", "gomodel", *arguments],
            env={**environ, **variables},
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        running.append(Gateway(process, port, variables.get("BASE_PATH", "")))
        assert process.stderr is not None
        for line in process.stderr:
            if b"Limits:" in line:
                break
        else:
            raise AssertionError(f"gomodel ended with status {process.wait()}")
        # Nobody reads on; the pipe must not fill up.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        return running[-1]

    yield run
    for gateway in running:
        gateway.stop()
        assert gateway.process.stderr is not None
        gateway.process.stderr.close()


@pytest.fixture
def stream(start: Callable[..., Gateway]) -> Iterator[Callable[..., Stream]]:
    """`stream(gateway, "vllm/model", tokens=20)` asks for a stream and reads it; all have left at the end."""
    running: list[Stream] = []

    def run(gateway: Gateway, model: str = "vllm/demo/llama-sim", tokens: int = 2000) -> Stream:
        running.append(Stream(gateway, model, tokens))
        return running[-1]

    yield run
    for each in running:
        each.leave()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _PROGRAMS)), None)
    if program is None:
        pytest.fail("no Chromium found: apt-get install chromium, or set CHROMIUM")
    with sync_playwright() as playwright:
        # Chromium refuses to sandbox itself for root.
        options = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty tab of its own. It fails the test when a page broke its policy, had an error, or asked somebody else."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.set_default_timeout(LIMIT_S * 1000)
    problems: list[str] = []

    def console(message: ConsoleMessage) -> None:
        # What the network answered is the test's business; the browser reports it here all the same.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            problems.append(message.text)

    def asked(request: Request) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "data:")) or KEY in request.url:
            problems.append(f"asked for {request.url}")

    page.on("console", console)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", asked)
    yield page
    context.close()
    assert problems == []


@pytest.fixture
def picture(page: Page, tmp_path: Path) -> Callable[[str], None]:
    """`picture("dark")` takes a screenshot of the whole page."""
    directory = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    directory.mkdir(parents=True, exist_ok=True)

    def take(name: str) -> None:
        page.screenshot(path=directory / f"{name}.png", full_page=True)

    return take
