"""HTTP/1.0 reads to the end of the connection what has no length: so where an end cannot be told from a break over
its connection it gets no such answer, and where it can a break is a reset (RFC 9112 8).

What nginx does by default towards `proxy_pass https://gomodel` and `http://unix:`. Judged by h11, http.client and curl.
"""

import asyncio
import http.client
import shutil
import socket

import pytest

from ..harness.scripted import LAST_CHUNK, SSE_HEAD, Fin, Reset, Stall, WaitFor, chunked, head, request, response, sse
from ..harness.tls import PEM, client_context
from ..harness.verdicts import CHAT, aborted, access_lines, ask, own_error, post

pytestmark = pytest.mark.transports("tcp", "tls", "unix", "tls>tcp", "unix>tls")

EVENT = b"data: 1\n\n"
STREAMS = [
    pytest.param(SSE_HEAD + chunked(EVENT), id="chunked"),
    pytest.param(head(200, [("Content-Type", "text/event-stream")]) + EVENT, id="by close"),
    pytest.param(head(200, [("Content-Type", "application/json"), ("Transfer-Encoding", "chunked")]), id="no event"),
]


def old(raw: bytes) -> bytes:
    return raw.replace(b"HTTP/1.1", b"HTTP/1.0", 1)


def resettable(transports) -> bool:
    return transports.client == "tcp"


@pytest.mark.parametrize("sent", STREAMS)
@pytest.mark.parametrize(("path", "anthropic"), [(CHAT, False), ("/v1/messages", True), ("/p/vllm/v1/messages", True)])
async def test_an_answer_of_unknown_length_is_refused_where_its_break_would_look_like_its_end(
    gateway, upstream, connect, transports, sent, path, anthropic
):
    upstream.on_request(sent, Stall())
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await client.send(old(post(path)))
    answer = await client.read_head()
    if resettable(transports):
        assert (answer.status, answer.get("Content-Length")) == (200, None)
        return
    answer = await client.read_rest()
    assert (answer.status, answer.get("Upgrade"), answer.get("Connection")) == (426, "HTTP/1.1", "Upgrade, close")
    assert answer.complete
    if anthropic:
        error = answer.json()["error"]
        assert (answer.json()["type"], error["type"]) == ("error", "invalid_request_error")
        assert "proxy_http_version 1.1" in error["message"]
    else:
        assert "proxy_http_version 1.1" in own_error(answer, 426, "http_1_1_required", "invalid_request_error")
    await upstream.requests[0].connection.closed  # no slot is held for an answer that nobody gets
    assert access_lines(handle)[0]["reason"] == "http_1_1_required"
    assert handle.replica().breaker.closed


@pytest.mark.parametrize(
    "sent",
    [
        response(b"whole", 200, [("Content-Type", "application/json")]),
        response(b"whole", 404),
        head(200, [("Transfer-Encoding", "chunked")]) + chunked(b"who", b"le") + LAST_CHUNK,
    ],
)
async def test_an_answer_whose_length_is_known_is_served(gateway, upstream, connect, sent):
    upstream.on_request(sent)
    answer = await ask(await connect(await gateway(vllm=upstream)), old(post()))
    assert (answer.body, answer.complete, answer.get("Content-Length"), answer.end) == (b"whole", True, "5", "fin")


@pytest.mark.parametrize(("method", "sent"), [("HEAD", head()), ("GET", head(204)), ("GET", head(304))])
async def test_an_answer_without_a_body_is_served(gateway, upstream, connect, method, sent):
    upstream.on_request(sent)
    answer = await ask(await connect(await gateway(vllm=upstream)), old(request(method, "/p/vllm/x")), method)
    assert (answer.status, answer.body, answer.complete) == (int(sent[9:12]), b"", True)


# How an answer breaks off that has begun.
BREAKS = {
    "fin": ((Fin(),), {}),
    "reset": ((Reset(),), {}),
    "silence": ((Stall(),), {"HTTP_STREAM_IDLE_TIMEOUT": "150ms"}),
    "an operator": ((Stall(),), {}),
}


async def broken_off(gateway, upstream, how, begun, go):
    steps, settings = BREAKS[how]
    upstream.on_request(begun, WaitFor(go), *steps)
    return await gateway(vllm=upstream, **settings)


def break_off(handle, how, go) -> None:
    go.set()
    if how == "an operator":
        (record,) = handle.gateway.telemetry.running.records
        record.abort("aborted_by_operator")


@pytest.mark.parametrize("how", BREAKS)
@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
@pytest.mark.parametrize("sized", [True, False])
async def test_no_answer_that_broke_off_looks_whole(gateway, upstream, connect, transports, how, path, sized):
    go = asyncio.Event()
    begun = head(200, [("Content-Length", "100")]) + EVENT if sized else SSE_HEAD + chunked(EVENT)
    handle = await broken_off(gateway, upstream, how, begun, go)
    client = await connect(handle)
    await client.send(old(post(path)))
    answer = await client.read_head()
    if answer.status == 426:
        assert not sized
        assert not resettable(transports)
        return
    await client.read_body_until(EVENT)
    break_off(handle, how, go)
    await client.read_rest()
    assert (answer.status, answer.complete) == (200, False)
    if not sized:
        assert answer.end == "reset"
    assert len(await aborted(handle)) == 1


def connection(handle, transports) -> http.client.HTTPConnection:
    """http.client over what the gateway listens on, speaking HTTP/1.0."""
    made: http.client.HTTPConnection
    if transports.client == "tls":
        made = http.client.HTTPSConnection("127.0.0.1", handle.port, context=client_context(), timeout=10)
    else:
        made = http.client.HTTPConnection("127.0.0.1", handle.port, timeout=10)
    if transports.client == "unix":
        made.sock = socket.socket(socket.AF_UNIX)
        made.sock.settimeout(10)
        made.sock.connect(handle.config.unix_socket)
    made._http_vsn, made._http_vsn_str = 10, "HTTP/1.0"  # type: ignore[attr-defined]
    return made


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("sized", [True, False])
async def test_pythons_own_client_takes_no_broken_answer_for_a_whole_one(gateway, upstream, transports, how, sized):
    go = asyncio.Event()
    begun = head(200, [("Content-Length", "100")]) + EVENT if sized else SSE_HEAD + chunked(EVENT)
    handle = await broken_off(gateway, upstream, how, begun, go)
    loop = asyncio.get_running_loop()

    def ask_for_it() -> tuple[int, bytes | str]:
        client = connection(handle, transports)
        try:
            client.request("POST", CHAT, b'{"model":"vllm/m"}')
            answer = client.getresponse()
            loop.call_soon_threadsafe(go.set)
            return answer.status, answer.read()
        except (http.client.HTTPException, OSError) as error:
            return 0, type(error).__name__
        finally:
            client.close()

    status, outcome = await asyncio.to_thread(ask_for_it)
    assert (status, outcome) != (200, EVENT)
    assert status in ((0,) if sized or resettable(transports) else (426,)), outcome


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
@pytest.mark.parametrize("sent", ["broken", "whole", "sized"])
async def test_curl_takes_no_broken_answer_for_a_whole_one(gateway, upstream, transports, sent):
    if sent == "sized":
        upstream.on_request(response(b"ok"))
    else:
        end = [Reset()] if sent == "broken" else [chunked(EVENT), LAST_CHUNK]
        upstream.on_request(SSE_HEAD + chunked(EVENT), *end)
    handle = await gateway(vllm=upstream)
    scheme = "https" if transports.client == "tls" else "http"
    via = ["--unix-socket", handle.config.unix_socket] if transports.client == "unix" else []
    process = await asyncio.create_subprocess_exec(
        *("curl", "-0", "-s", "-m", "10", "--fail-with-body", "--cacert", PEM, *via, "--json", '{"model":"vllm/m"}'),
        f"{scheme}://127.0.0.1:{handle.port or 80}{CHAT}",
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    if sent == "sized":
        assert (process.returncode, output) == (0, b"ok")
    elif process.returncode == 0:  # also over TLS and unix sockets, when all of it came at once
        assert (sent, output) == ("whole", EVENT * 2)
    elif not resettable(transports):
        assert process.returncode == 22
        assert b"http_1_1_required" in output


async def test_a_client_of_http_1_1_is_served_as_ever(gateway, upstream, connect):
    upstream.on_request(sse([1, 2]))
    answer = await ask(await connect(await gateway(vllm=upstream)))
    assert (answer.get("Transfer-Encoding"), answer.complete, answer.end) == ("chunked", True, "keepalive")
