"""Over TLS and unix sockets, to clients and to instances, the same holds as over plain TCP."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest
from aiohttp import connector

from ..harness.scripted import SSE_HEAD, Close, Fin, ReadBody, ReadHead, Stall, chunked, request
from ..harness.tls import KEY_AND_CERTIFICATE
from ..harness.verdicts import CHAT, aborted, access_lines, ask, post, turned
from ..harness.wire import FLOOD_BYTES

EVENT = b"data: 1\n\n"


@pytest.fixture
def pem(tmp_path: Path) -> str:
    path = tmp_path / "pem"
    path.write_text(KEY_AND_CERTIFICATE)
    return str(path)


@pytest.fixture
async def secure(gateway, upstream, pem):
    """A gateway that serves TLS, and what opens a connection to it."""
    handle = await gateway(vllm=upstream, TLS_CERT_FILE=pem, TLS_KEY_FILE=pem)
    context = ssl.create_default_context(cafile=pem)
    context.check_hostname = False
    writers = []

    async def open_client():
        reader, writer = await asyncio.open_connection("127.0.0.1", handle.port, ssl=context)
        writers.append(writer)
        return reader, writer

    yield handle, open_client
    for writer in writers:
        writer.transport.abort()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.parametrize("phase", ["head", "data"])
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_tls_client_that_leaves_ends_the_generation(secure, upstream, how, phase):
    handle, open_client = secure
    upstream.on_request(*([SSE_HEAD + chunked(EVENT)] if phase == "data" else []), Stall())
    reader, writer = await open_client()
    writer.write(post())
    seen = await upstream.wait_for_request()
    if phase == "data":
        await reader.readuntil(EVENT)
    writer.close() if how == "close" else writer.transport.abort()
    await seen.connection.closed
    assert await aborted(handle) == {("client", phase): 1}
    await turned(lambda: handle.gateway.connections == 0)


async def test_a_tls_client_that_leaves_with_everything_unread_ends_the_generation(secure, upstream):
    handle, open_client = secure
    upstream.on_request(SSE_HEAD, *[chunked(b"x" * 65536)] * 400, Stall())
    reader, writer = await open_client()
    reader._transport.pause_reading()
    writer.write(post())
    connection = await upstream.wait_for_connection()
    await connection.wire.blocked()
    writer.transport.abort()
    await connection.closed
    assert await aborted(handle) == {("client", "write"): 1}


@pytest.fixture
async def over_unix(gateway, make_upstream, connect, tmp_path):
    """A gateway on a unix socket, its upstream, which takes little at a time, and a client."""
    path = str(tmp_path / "s")
    upstream = await make_upstream(receive_buffer=4096)
    return await gateway(vllm=upstream, GOMODEL_UNIX_SOCKET=path), upstream, await connect(path=path)


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_client_of_a_unix_socket_that_is_held_back_is_seen_leaving(over_unix, how):
    handle, upstream, client = over_unix
    upstream.on_request(ReadHead(), Stall())
    sending = asyncio.create_task(client.send(request("POST", "/p/vllm/x", body=bytes(FLOOD_BYTES))))
    connection = (await upstream.wait_for_request()).connection
    await client.wire.blocked()
    sending.cancel()
    getattr(client, how)()
    await connection.closed
    assert await aborted(handle) == {("client", "head"): 1}


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"G", b"POST /v1/chat/completions HTTP/1.0\r\n\r\n"]
)
async def test_plain_http_on_the_tls_port_is_told_so(secure, connect, sent):
    handle, open_client = secure
    client = await connect(handle, tls=False)
    await client.send(sent)
    answer = await client.read_head()
    while not answer.complete:
        await client.read_chunk()
    assert (answer.status, answer.get("Content-Type"), answer.get("Connection")) == (400, "text/plain", "close")
    assert b"https://" in answer.body
    client.fin()
    reader, writer = await open_client()
    writer.write(request("GET", "/health"))
    assert (await reader.readline()).startswith(b"HTTP/1.1 200")


async def test_what_is_neither_tls_nor_http_on_the_tls_port_is_closed_without_a_word(secure, connect):
    handle, _ = secure
    client = await connect(handle, tls=False)
    await client.send(b"\x00\x01\x02\x03\x04\x05\x06\x07\x08")
    rest = await client.read_all_until_close()
    assert b"HTTP" not in rest


@pytest.fixture
async def tls_instance(no_leaks, pem, monkeypatch):
    """`await tls_instance(serve)`: an instance that gomodel trusts; returns its base URL. `serve` is asyncio's own."""
    trusting = ssl.create_default_context(cafile=pem)
    trusting.check_hostname = False
    monkeypatch.setattr(connector, "_SSL_CONTEXT_VERIFIED", trusting)
    servers = []

    async def start(serve):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context))
        return f"https://127.0.0.1:{servers[0].sockets[0].getsockname()[1]}/v1"

    yield start
    for server in servers:
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize("alerted", [True, False])
async def test_a_body_that_ends_with_a_tls_connection_is_whole_only_if_the_end_was_said(
    gateway, tls_instance, connect, alerted
):
    async def serve(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of the answ")
        await writer.drain()
        writer.close() if alerted else writer.transport.abort()

    handle = await gateway(vllm=await tls_instance(serve))
    answer = await ask(await connect(handle), request("GET", "/p/vllm/x"))
    assert (answer.status, answer.body, answer.complete) == (200, b"half of the answ", alerted)
    assert await aborted(handle) == ({} if alerted else {("upstream", "data"): 1})


async def test_a_tls_instance_that_refuses_uploads_by_closing_does_not_open_the_breaker(gateway, tls_instance, connect):
    async def serve(reader, writer):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"Content-Length: 2\r\n" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            writer.close()
        else:
            writer.transport.abort()

    handle = await gateway(vllm=await tls_instance(serve), CIRCUIT_BREAKER_FAILURE_THRESHOLD="1")
    client = await connect(handle)
    await client.send(request("POST", "/p/vllm/x", [("Content-Length", "100")]) + b"x")
    answer = await client.read_response()
    assert (answer.status, answer.json()["error"]["code"]) == (502, "connection_terminated")
    assert access_lines(handle)[0]["ended_by"] == "upstream"
    answer = await ask(await connect(handle), request("POST", "/p/vllm/x", body=b"{}"))
    assert (answer.status, answer.body) == (200, b"ok")


@pytest.mark.parametrize("pause", [False, True])
async def test_an_early_answer_whose_head_and_body_come_apart_is_whole(gateway, make_upstream, connect, pause):
    """uvicorn writes them apart; the reset that follows, over an upload nobody reads, must not cost the body."""
    upstream = await make_upstream(receive_buffer=4096)
    body = b'{"error":"too long"}'
    head = b"HTTP/1.1 413 X\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
    told = asyncio.Event()

    async def wait_until_relayed(connection):
        await connection.until(told.wait())

    upstream.on_request(ReadHead(), head, *([wait_until_relayed] if pause else []), body, Close())
    client = await connect(await gateway(vllm=upstream))
    sending = asyncio.create_task(client.send(request("POST", CHAT, body=b'{"model":"vllm/m"}' + b" " * (8 << 20))))
    await client.read_head()
    told.set()
    answer = await client.read_rest()
    assert (answer.status, answer.body, answer.complete) == (413, body, True)
    await asyncio.gather(sending, return_exceptions=True)


async def test_an_instance_that_breaks_off_its_answer_to_a_streamed_upload_counts_for_the_breaker(
    gateway, upstream, connect
):
    handle = await gateway(vllm=upstream, CIRCUIT_BREAKER_FAILURE_THRESHOLD="3")
    for _ in range(3):
        upstream.on_request(ReadBody(), SSE_HEAD + chunked(EVENT), Fin())
        client = await connect(handle)
        await client.send(post()[:-1])
        await upstream.wait_for_connection()
        await client.send(post()[-1:])
        await client.read_head()
        assert not (await client.read_rest()).complete
    await turned(lambda: not handle.gateway.telemetry.running.records)
    assert not handle.replica().breaker.closed
