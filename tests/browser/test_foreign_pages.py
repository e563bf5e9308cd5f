"""What pages of another origin can do with the gateway in a real browser, and what they cannot."""

import http.server
import threading
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from .conftest import KEY, Gateway

Start = Callable[..., Gateway]
BODY = {"model": "demo/llama-sim", "stream": True, "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}

ASK = """async ([url, method, headers, body]) => {
  try {
    const answer = await fetch(url, {method, headers, body: body && JSON.stringify(body)});
    let pieces = 0, text = "";
    for await (const piece of answer.body.pipeThrough(new TextDecoderStream())) { pieces++; text += piece; }
    return {status: answer.status, id: answer.headers.get("X-Request-Id"), pieces, text};
  } catch (error) { return {error: error.name}; }
}"""

OPEN = """([url, protocols]) => new Promise(resolve => {
  const socket = new WebSocket(url, protocols);
  socket.onmessage = event => resolve({protocol: socket.protocol, type: JSON.parse(event.data).type});
  socket.onclose = event => resolve({closed: event.code});
})"""


class _Empty(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>another site</title>")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site() -> Iterator[str]:
    """The origin of an empty page that the gateway did not serve."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def foreign(browser: Browser, site: str) -> Iterator[Page]:
    """A tab that shows that page; what it is refused its console may say."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(site)
    yield page
    context.close()


def ask(page: Page, gateway: Gateway, path: str, method: str = "POST", key: str | None = KEY, body: Any = BODY) -> Any:
    headers = {"Content-Type": "application/json", "X-Stainless-OS": "browser"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    return page.evaluate(ASK, [gateway.url + path, method, headers, body if method == "POST" else None])


def test_a_page_that_is_allowed_streams_and_reads_errors(foreign: Page, site: str, start: Start) -> None:
    gateway = start("--demo", CORS_ALLOW_ORIGINS=site)
    answer = ask(foreign, gateway, "v1/chat/completions", body={**BODY, "model": "vllm/demo/llama-sim"})
    assert (answer["status"], answer["text"].endswith("data: [DONE]\n\n")) == (200, True)
    assert answer["pieces"] > 1
    assert answer["id"]
    for path, method, key, status in (
        ("v1/models", "GET", KEY, 200),
        ("v1/models", "GET", "wrong", 401),
        ("v1/nothing/", "DELETE", KEY, 404),
        ("v1/chat/completions", "PUT", KEY, 405),
        ("p/vllm/v1/models", "GET", KEY, 200),
    ):
        answer = ask(foreign, gateway, path, method, key)
        assert (answer.get("status"), bool(answer.get("id"))) == (status, True), path


def test_a_page_that_is_not_allowed_reads_nothing(foreign: Page, start: Start) -> None:
    gateway = start("--demo", CORS_ALLOW_ORIGINS="https://another.example")
    for method in ("GET", "POST"):
        assert ask(foreign, gateway, "v1/models", method) == {"error": "TypeError"}


def test_a_page_opens_a_websocket_with_the_key_as_a_subprotocol(foreign: Page, start: Start) -> None:
    gateway = start("--demo")
    url = gateway.url.replace("http", "ws") + "v1/realtime?model=vllm/demo/llama-sim"
    opened = foreign.evaluate(OPEN, [url, ["realtime", f"openai-insecure-api-key.{KEY}"]])
    assert opened == {"protocol": "realtime", "type": "session.created"}
    assert foreign.evaluate(OPEN, [url, ["realtime", "openai-insecure-api-key.wrong"]]) == {"closed": 1006}


def test_without_a_key_a_page_of_another_site_gets_nowhere(foreign: Page, start: Start) -> None:
    gateway = start(VLLM_BASE_URL="http://127.0.0.1:9/v1")
    url = gateway.url.replace("http", "ws")
    assert foreign.evaluate(OPEN, [f"{url}v1/realtime", []]) == {"closed": 1006}
    # What is sent without asking first: the browser hides the answer, so the gateway says what it was.
    sent = """async url => (await fetch(url, {method: "POST", mode: "no-cors", body: "{}"})).type"""
    assert foreign.evaluate(sent, f"{gateway.url}v1/embeddings") == "opaque"
    with urllib.request.urlopen(f"{gateway.url}metrics") as metrics:
        counted = [line for line in metrics.read().decode().splitlines() if 'route="/v1/embeddings"' in line]
    assert [line for line in counted if line.startswith("gomodel_requests_total")] == [
        'gomodel_requests_total{code="403",model="",route="/v1/embeddings",upstream=""} 1.0'
    ]
    assert ask(foreign, gateway, "v1/models", "GET", key=None) == {"error": "TypeError"}
    # The gateway's own page may still ask.
    foreign.goto(gateway.url)
    assert ask(foreign, gateway, "admin/requests/none", "DELETE", key=None)["status"] == 404
