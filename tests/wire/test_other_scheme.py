"""Plain http spoken to a port for TLS and the reverse: probes and --check find it out and say it in words."""

import asyncio
import logging
import socket
import ssl
from typing import Any

import pytest

from gomodel.config.load import from_environ
from gomodel.process.check import print_table
from gomodel.upstream.other_scheme import SPEAKS_PLAIN_HTTP, SPEAKS_TLS

from ..harness.scripted import SAFETY_S, request
from ..harness.tls import server_context
from ..harness.verdicts import ask, own_error, post, shows, tells_nothing, turned

LIST = b'{"object":"list","data":[{"id":"m"}]}'
OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(LIST), LIST)
NGINX = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno\n"
ALERT = b"\x15\x03\x01\x00\x02\x02\x28"
HANDSHAKE = b"\x16"
READY = request("GET", "/health/ready")


class Port:
    """Answers what begins like TLS with `tls`, anything else with `plain`: bytes before it closes, or None for silence.

    `tls` of True shakes hands and then says nothing, a list shakes hands and answers with its only item.
    """

    def __init__(self, *, plain: bytes | None, tls: bytes | list[bytes] | bool | None) -> None:
        self._plain, self._tls = plain, tls
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._sock.setblocking(False)
        self.port = self._sock.getsockname()[1]
        self.first_bytes: list[bytes] = []
        self._socks: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        asyncio.get_running_loop().add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        sock, _ = self._sock.accept()
        sock.setblocking(False)
        self._socks.append(sock)
        self._tasks.add(asyncio.create_task(self._serve(sock)))

    async def _serve(self, sock: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            seen = asyncio.Event()
            loop.add_reader(sock, seen.set)
            await seen.wait()
            loop.remove_reader(sock)
            first = sock.recv(1, socket.MSG_PEEK)
            self.first_bytes.append(first)
            said = self._tls if first == HANDSHAKE else self._plain
            if isinstance(said, list | bool):
                await self._shake(sock, said)
                return
            if said is None:
                await asyncio.sleep(SAFETY_S)
            sock.recv(1 << 16)
            sock.send(said or b"")
        except OSError:
            pass
        finally:
            sock.close()

    async def _shake(self, sock: socket.socket, said: list[bytes] | bool) -> None:
        wire = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = server_context().wrap_bio(*wire, server_side=True)
        loop = asyncio.get_running_loop()
        shaken = False
        while True:
            try:
                if not shaken:
                    tls.do_handshake()
                    shaken = True
                data = tls.read(1 << 16)
            except ssl.SSLWantReadError:
                data = b""
            except ssl.SSLError:
                return
            if data and isinstance(said, list):
                tls.write(said[0])
            await loop.sock_sendall(sock, wire[1].read())
            if data and isinstance(said, list):
                return
            if not (more := await loop.sock_recv(sock, 1 << 16)):
                return
            wire[0].write(more)

    async def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._sock)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for each in (self._sock, *self._socks):
            each.close()


@pytest.fixture
async def open_port(no_leaks: Any) -> Any:
    ports: list[Port] = []

    def opened(**said: Any) -> Port:
        ports.append(Port(**said))
        return ports[-1]

    yield opened
    for each in ports:
        await each.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Probes that a test can wait for: the next one follows soon, and only who says nothing is soon given up."""
    monkeypatch.setattr("gomodel.upstream.probes.RETRY_S", 0.01)
    monkeypatch.setattr("gomodel.upstream.probes.SLEEP_INTERVAL_S", 0.01)
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    quiet = is_silent(params.get("said", {"tls": b""}))
    monkeypatch.setattr("gomodel.upstream.probes.TIMEOUT_S", 0.25 if quiet else SAFETY_S)
    monkeypatch.setattr("gomodel.upstream.other_scheme._ANSWER_S", 0.05 if quiet else SAFETY_S)


def is_silent(said: dict[str, Any]) -> bool:
    """Whether a port that speaks so does not shake hands, or answers nothing after it."""
    return said["tls"] in (None, True)


# What a port for TLS says to plain http, and to a client that has shaken hands.
TLS_PORTS: dict[str, dict[str, Any]] = {
    "closes without a word": {"plain": b"", "tls": [OK]},
    "says 400": {"plain": NGINX, "tls": [OK]},
    "sends an alert": {"plain": ALERT, "tls": [OK]},
    "answers no request": {"plain": b"", "tls": True},
}
PLAIN_PORTS: dict[str, dict[str, Any]] = {
    "waits for a line end": {"plain": OK, "tls": None},
    "closes without a word": {"plain": OK, "tls": b""},
    "says 400": {"plain": OK, "tls": NGINX},
}
NEITHER: list[tuple[str, dict[str, Any], str]] = [
    ("http", {"plain": b"", "tls": b""}, "connection_terminated"),
    ("http", {"plain": b"SSH-2.0-x\r\n", "tls": b"SSH-2.0-x\r\n"}, "http_protocol_error"),
    ("https", {"plain": b"", "tls": b"SSH-2.0-x\r\n"}, "tls_protocol_error"),
    ("https", {"plain": NGINX, "tls": ALERT}, "tls_protocol_error"),
]


async def comes_to(gateway: Any, url: str, code: str) -> Any:
    handle = await gateway(vllm=url, probes=True, RETRY_MAX_RETRIES="0")
    health = handle.gateway.providers.replicas[0].health
    await turned(lambda: health.state.value == "down" and health.code == code)
    return handle


async def said_to_operators(handle: Any, connect: Any, caplog: pytest.LogCaptureFixture, code: str, end: str) -> None:
    line = f"Instance vllm is down: {code}. VLLM_BASE_URL should begin with {end}"
    assert [each for each in caplog.messages if "is down" in each] == [line]
    ready = await ask(await connect(handle), READY)
    assert (ready.status, ready.json()["instances"]["vllm"]["last_error"]) == (503, code)


@pytest.mark.parametrize("said", TLS_PORTS.values(), ids=TLS_PORTS.keys())
async def test_plain_http_to_a_port_for_tls_is_found_out_by_a_probe(open_port, gateway, connect, caplog, said):
    caplog.set_level(logging.WARNING, "gomodel")
    there = open_port(**said)
    handle = await comes_to(gateway, f"http://127.0.0.1:{there.port}/v1", SPEAKS_TLS)
    await said_to_operators(handle, connect, caplog, SPEAKS_TLS, "https://")
    answer = await ask(await connect(handle), post())
    assert not shows(answer.raw.decode(), there.port)
    assert there.first_bytes.count(HANDSHAKE) == 1


@pytest.mark.parametrize(
    ("scheme", "said", "code"),
    [
        *(("http", said, SPEAKS_TLS) for said in TLS_PORTS.values()),
        *(("https", said, SPEAKS_PLAIN_HTTP) for said in PLAIN_PORTS.values()),
    ],
)
async def test_a_request_that_fails_or_is_refused_there_takes_nothing_back(
    open_port, gateway, connect, caplog, monkeypatch, scheme, said, code
):
    caplog.set_level(logging.INFO, "gomodel")
    there = open_port(**said)
    url = f"{scheme}://127.0.0.1:{there.port}/v1"
    monkeypatch.setattr("gomodel.upstream.probes.RETRY_S", SAFETY_S)
    soon = "50ms" if is_silent(said) else f"{SAFETY_S:g}s"
    handle = await gateway(vllm=url, probes=True, RETRY_MAX_RETRIES="0", HTTP_CONNECT_TIMEOUT=soon)
    health = handle.gateway.providers.replicas[0].health
    await turned(lambda: health.code == code)
    await said_on_ready(handle, connect, code)
    client = await connect(handle)
    for _ in range(4):
        assert (await ask(client, post())).status >= 400
        await said_on_ready(handle, connect, code)
    assert "Instance vllm is up" not in caplog.messages


async def said_on_ready(handle: Any, connect: Any, code: str) -> None:
    ready = await ask(await connect(handle), READY)
    assert (ready.status, ready.json()["instances"]["vllm"]["last_error"]) == (503, code)


@pytest.mark.parametrize("said", PLAIN_PORTS.values(), ids=PLAIN_PORTS.keys())
async def test_https_to_a_port_for_plain_http_is_found_out_by_a_probe(open_port, gateway, connect, caplog, said):
    caplog.set_level(logging.WARNING, "gomodel")
    there = open_port(**said)
    handle = await comes_to(gateway, f"https://127.0.0.1:{there.port}/v1", SPEAKS_PLAIN_HTTP)
    await said_to_operators(handle, connect, caplog, SPEAKS_PLAIN_HTTP, "http://")
    assert there.first_bytes.count(b"G") == 1


@pytest.mark.parametrize(("scheme", "said", "code"), NEITHER)
async def test_what_speaks_neither_keeps_its_word_and_is_asked_once(open_port, gateway, connect, scheme, said, code):
    there = open_port(**said)
    handle = await comes_to(gateway, f"{scheme}://127.0.0.1:{there.port}/v1", code)
    before = len(there.first_bytes)
    await turned(lambda: len(there.first_bytes) >= before + 3)
    tries = sum((each == HANDSHAKE) != (scheme == "https") for each in there.first_bytes)
    assert tries in (1, 2)  # aiohttp asks once more where a connection closes without an answer
    tells_nothing(handle, await ask(await connect(handle), READY))


async def test_a_plain_server_that_says_400_to_probes_is_up(open_port, gateway, connect):
    there = open_port(plain=NGINX, tls=b"")
    handle = await gateway(vllm=f"http://127.0.0.1:{there.port}/v1", probes=True)
    await turned(lambda: handle.gateway.providers.replicas[0].health.state.value == "up")


async def test_what_was_found_out_is_forgotten_once_a_probe_is_answered(open_port, gateway, monkeypatch):
    monkeypatch.setattr("gomodel.upstream.probes.INTERVAL_S", 0.01)
    there = open_port(plain=b"", tls=[OK])
    handle = await comes_to(gateway, f"http://127.0.0.1:{there.port}/v1", SPEAKS_TLS)
    health = handle.gateway.providers.replicas[0].health
    there._plain = OK
    await turned(lambda: health.state.value == "up")
    there._plain, there._tls = b"", b""
    await turned(lambda: health.state.value == "down" and health.code == "connection_terminated")


@pytest.mark.parametrize(
    ("scheme", "said", "hint"),
    [
        *(("http", said, "It speaks TLS: its base URL should begin with https://.") for said in TLS_PORTS.values()),
        *(
            ("https", said, "It does not speak TLS: its base URL should begin with http://.")
            for said in PLAIN_PORTS.values()
        ),
        ("http", {"plain": b"", "tls": b""}, ""),
    ],
)
async def test_check_says_which_scheme_is_right(open_port, capsys, scheme, said, hint):
    there = open_port(**said)
    url = f"{scheme}://127.0.0.1:{there.port}/v1"
    assert await print_table(from_environ({"VLLM_BASE_URL": url, "HTTP_CONNECT_TIMEOUT": "250ms"})) == 0
    out = capsys.readouterr().out
    assert hint in out
    assert ("its base URL should begin" in out) is bool(hint)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_request_makes_no_second_try(open_port, gateway, connect, scheme):
    there = open_port(plain=b"", tls=b"")
    handle = await gateway(vllm=f"{scheme}://127.0.0.1:{there.port}/v1", RETRY_MAX_RETRIES="0")
    answer = await ask(await connect(handle), request("POST", "/p/vllm/x", body=b"x"))
    own_error(answer, 502, answer.json()["error"]["code"])
    assert len(there.first_bytes) == 1
