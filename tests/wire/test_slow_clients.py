"""Clients that send or read slowly, or not at all: they cost little, end in time and hold up nobody else.

Slow is not stalled: whoever moves on within the limit is served to the last byte (contract sections 1 and 7).
"""

import asyncio
import hashlib
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from gomodel.telemetry.record import Phase

from ..conftest import LOOP
from ..harness.leaks import nothing_left
from ..harness.processes import RUN, WITHOUT_UVLOOP
from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    PeerGone,
    ReadBody,
    ReadHead,
    Repeat,
    Stall,
    WaitFor,
    chunked,
    head,
    request,
)
from ..harness.tls import PEM
from ..harness.verdicts import CHAT, OK, aborted, access_lines, own_error, post, turned
from ..harness.wire import FLOOD_BYTES

STALLED_STREAMS = 40
STALLED_KIB = 600  # 200 to 350, by how the kernel deals out pages; 1,600 were seen where a layer had no bound
CHUNKS = 200
MORE_THAN_BUFFERS = Repeat(CHUNKS, (chunked(b"~" * 65536),))
BODY = bytes(range(256)) * (5 << 12)


@pytest.mark.transports("tcp", "tls", "unix")
@pytest.mark.parametrize("framing", [("Content-Length", "100"), ("Transfer-Encoding", "chunked")])
@pytest.mark.parametrize("sent", [b"", b'{"messages":[', b'{"model":"vllm/m",'])
async def test_an_upload_that_stalls_is_a_408_and_never_a_complete_request(gateway, upstream, connect, framing, sent):
    upstream.on_request(ReadHead(), ReadBody())
    handle = await gateway(vllm=upstream, HTTP_REQUEST_IDLE_TIMEOUT="150ms")
    client = await connect(handle)
    await client.send(request("POST", CHAT, [framing]) + (chunked(sent) if framing[1] == "chunked" and sent else sent))
    answer = await client.read_response()
    own_error(answer, 408, "request_timeout", "invalid_request_error")
    assert (answer.get("Connection"), answer.end) == ("close", "fin")
    for connection in upstream.connections:
        await connection.over
    assert [each.complete for each in upstream.requests] == ([False] if b"model" in sent else [])
    assert await aborted(handle) == {("client", "request"): 1}
    assert access_lines(handle)[0]["reason"] == "request_timeout"
    assert handle.replica().breaker.closed


async def test_an_upload_that_moves_on_within_the_limit_is_served_however_slow(gateway, upstream, connect):
    upstream.on_request(OK)
    client = await connect(await gateway(vllm=upstream, HTTP_REQUEST_IDLE_TIMEOUT="400ms"))
    body = b'{"model":"vllm/m"}'
    await client.send(request("POST", CHAT, [("Content-Length", str(len(body)))]))
    for at in range(0, len(body), 2):
        await client.send(body[at : at + 2])
        await asyncio.sleep(0.06)
    assert (await client.read_response()).status == 200
    assert upstream.requests[0].body == b'{"model":"m"}'


async def test_an_upload_that_stalls_while_the_answer_streams_truncates_the_answer(gateway, upstream, connect):
    upstream.on_request(ReadHead(), SSE_HEAD + chunked(b"x"), ReadBody())
    handle = await gateway(vllm=upstream, HTTP_REQUEST_IDLE_TIMEOUT="150ms", HTTP_STREAM_IDLE_TIMEOUT="150ms")
    client = await connect(handle)
    await client.send(request("POST", "/p/vllm/x", [("Content-Length", "100")]) + b"12345")
    answer = await client.read_response()
    assert (answer.status, answer.body, answer.complete, answer.malformed) == (200, b"x", False, None)
    await upstream.connections[0].over
    assert not upstream.requests[0].complete


async def asked(handle, upstream, connect, fields, answer=None):
    """A client that has asked and not read, before a gateway whose kernel holds little for it.

    Without an `answer` it is one of two reads, the second of which pauses writing and is the last: the instance is
    done before the client is waited for.
    """
    go = asyncio.Event()
    start = head(200, [("Content-Length", "120000")]) + BODY[:60_000]
    upstream.on_request(*(answer or (start, WaitFor(go), BODY[60_000:120_000])))
    client = await connect(handle, receive_buffer=4096)
    await turned(lambda: handle.gateway.connections == 1)
    (downstream,) = handle.gateway._server.clients
    downstream.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await client.send(post(headers=fields))
    await turned(lambda: downstream.transport.get_write_buffer_size() > 0)
    go.set()
    return client


@pytest.mark.transports("tcp", "unix")
@pytest.mark.parametrize("fields", [[], [("Connection", "close")]])
@pytest.mark.parametrize("whole", [False, True], ids=["streaming", "complete"])
async def test_a_client_that_never_reads_is_cut_off_and_its_stream_ended(gateway, upstream, connect, fields, whole):
    handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="200ms")
    await asked(handle, upstream, connect, fields, None if whole else (SSE_HEAD, MORE_THAN_BUFFERS))
    await nothing_left(lambda: [repr(each) for each in handle.gateway._server.clients])
    if not whole:
        await upstream.connections[0].closed
    assert await aborted(handle) == ({} if whole else {("client", "write"): 1})
    assert handle.replica().breaker.closed


@pytest.mark.transports("tcp", "tls", "unix")
async def test_an_upload_that_goes_on_is_no_sign_of_life_from_a_client_that_does_not_read(gateway, upstream, connect):
    upstream.on_request(ReadHead(), SSE_HEAD, MORE_THAN_BUFFERS, ReadBody())
    handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="300ms")
    client = await connect(handle, receive_buffer=4096)
    await client.send(request("POST", "/p/vllm/x", [("Content-Length", "100000")]) + b"x")
    uploading = asyncio.create_task(dribble(client, [b"x"] * 1000, 0.02))
    await nothing_left(lambda: [repr(each) for each in handle.gateway._server.clients])
    assert await aborted(handle) == {("client", "write"): 1}
    await upstream.connections[0].closed
    await uploading


@pytest.mark.transports("tcp", "tls", "unix")
async def test_a_client_that_does_not_read_is_waited_for_when_its_upload_has_ended_too(gateway, upstream, connect):
    upstream.on_request(ReadHead(), SSE_HEAD, MORE_THAN_BUFFERS)
    handle = await gateway(vllm=upstream)
    client = await connect(handle, receive_buffer=4096)
    await client.send(request("POST", "/p/vllm/x", [("Content-Length", "2")]) + b"x")
    await turned(lambda: [each.phase for each in handle.gateway.telemetry.running.records] == [Phase.WRITE])
    [record] = handle.gateway.telemetry.running.records
    relay, since = record.owner, record.since
    await client.send(b"x")
    await turned(lambda: relay.channel.sent)
    assert (record.phase, record.since) == (Phase.WRITE, since)
    client.reset()
    assert await aborted(handle) == {("client", "write"): 1}
    await upstream.connections[0].closed


async def slowly(client, size: int, piece: int, every_s: float) -> bytes:
    """The body of that many bytes of a response, `piece` by `piece`."""
    while b"\r\n\r\n" not in client.received:
        await client.read_some(piece)
    left = size - len(client.received.partition(b"\r\n\r\n")[2])
    while left > 0 and (data := await client.read_some(piece)):
        left -= len(data)
        await asyncio.sleep(every_s)
    return client.received.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("fields", [[], [("Connection", "close")]])
async def test_the_end_of_an_answer_reaches_a_reader_that_is_slow_but_reads(gateway, upstream, connect, fields):
    handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="200ms")
    client = await asked(handle, upstream, connect, fields)
    body = await slowly(client, 120_000, 2048, 0.015)
    assert hashlib.sha256(body).digest() == hashlib.sha256(BODY[:120_000]).digest()
    if fields:
        assert await client.read_some(1) == b""
        return
    upstream.on_request(OK)
    await client.send(post())
    assert (await client.read_response()).body == b'{"id":"ok"}'


async def test_a_stream_reaches_a_reader_that_is_slow_but_reads(gateway, upstream, connect):
    upstream.on_request(head(200, [("Content-Length", str(len(BODY)))]), BODY)
    handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="250ms")
    client = await connect(handle, receive_buffer=65536)
    await client.send(post())
    assert hashlib.sha256(await slowly(client, len(BODY), 16384, 0.005)).digest() == hashlib.sha256(BODY).digest()


async def test_the_instance_is_read_at_the_pace_of_the_client(gateway, upstream, connect):
    upstream.on_request(SSE_HEAD, MORE_THAN_BUFFERS, LAST_CHUNK)
    handle = await gateway(vllm=upstream)
    client = await connect(handle, receive_buffer=4096)
    await client.send(post())
    connection = await upstream.wait_for_connection()
    await connection.wire.blocked()
    (downstream,) = handle.gateway._server.clients
    assert downstream.transport.get_write_buffer_size() < 400 << 10
    # Somebody else is served as if nothing was the matter.
    upstream.on_request(OK)
    other = await connect(handle)
    await other.send(post())
    assert (await other.read_response()).body == b'{"id":"ok"}'
    client.wire._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    seen = 0
    while not client.received.endswith(LAST_CHUNK):
        seen += (await client.read_some(1 << 20)).count(b"~")
    assert seen == CHUNKS * 65536


def resident_kib(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


async def cost_of_stalled(make_upstream, connect, run, transports, what: str) -> float:
    """KiB for each of many clients, in a process of its own."""
    upstream = await make_upstream(send_buffer=65536, receive_buffer=4096)
    env = {"VLLM_BASE_URL": upstream.base_url, "SSL_CERT_FILE": PEM}
    if tls := transports.client == "tls":
        env |= {"TLS_CERT_FILE": PEM, "TLS_KEY_FILE": PEM}
    process = await run(env, code=RUN if LOOP == "uvloop" else WITHOUT_UVLOOP + RUN)
    target = SimpleNamespace(port=await process.listening())
    upstream.lenient = True
    if what == "answer":
        upstream.repeat(SSE_HEAD, MORE_THAN_BUFFERS)
    else:
        upstream.repeat(ReadHead(), Stall())
    clients, sending = [], []
    upload = request("POST", CHAT, body=b'{"model":"m"' + bytes(FLOOD_BYTES))

    async def stall(count: int) -> int:
        for _ in range(count):
            client = await connect(target, receive_buffer=4096, tls=tls)
            client.wire._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
            clients.append(client)
            if what == "answer":
                await client.send(post(model="m"))
                await client.read_head()
            else:
                sending.append(asyncio.create_task(client.wire.send(upload)))
        wires = [each.wire for each in (upstream.connections if what == "answer" else clients)]
        before = -1
        while before != (sent := sum(wire.sent_bytes for wire in wires)):
            before = sent
            await asyncio.sleep(0.3)
        return resident_kib(process.pid)

    warm = await stall(5)
    grown = await stall(STALLED_STREAMS)
    assert len(clients) == len([each for each in upstream.open_connections if not each.current.is_probe])
    for task in sending:
        task.cancel()
    await asyncio.gather(*sending, return_exceptions=True)
    return (grown - warm) / STALLED_STREAMS


@pytest.mark.transports("tcp", "tls", "unix")
@pytest.mark.parametrize("what", ["answer", "upload"])
async def test_a_stalled_stream_costs_little_memory(make_upstream, connect, run, transports, what):
    assert await cost_of_stalled(make_upstream, connect, run, transports, what) <= STALLED_KIB


async def dribble(client, pieces, every_s: float) -> None:
    try:
        for piece in pieces:
            await client.send(piece)
            await asyncio.sleep(every_s)
    except PeerGone:
        return


@pytest.mark.transports("tcp", "unix")
@pytest.mark.parametrize("after_a_request", [False, True])
async def test_a_head_that_does_not_end_is_cut_at_the_limit_whatever_dribbles(
    gateway, upstream, connect, monkeypatch, after_a_request
):
    monkeypatch.setattr("gomodel.downstream.arrivals.HEAD_S", 0.4)
    handle = await gateway(vllm=upstream)
    clients = [await connect(handle) for _ in range(30)]
    if after_a_request:
        for client in clients:
            await client.send(request("GET", "/health"))
            assert (await client.read_response()).status == 200
    begun = asyncio.get_running_loop().time()
    partial = [b"GET / HTTP/1.1\r\n", *(b"X: a\r\n" for _ in range(5000))]
    slow = [asyncio.create_task(dribble(client, partial, 0.02)) for client in clients]
    upstream.on_request(SSE_HEAD + chunked(b"x"), Stall())
    stream = await connect(handle)
    await stream.send(post())
    await stream.read_head()
    for client in clients:
        await client.closed
    assert asyncio.get_running_loop().time() - begun > 0.3
    await asyncio.gather(*slow)
    await turned(lambda: handle.gateway.connections == 1)
    assert not stream.closed.done
    assert len(upstream.connections) == 1
