"""Whom a request waited for: the engine, the gateway or its client. The three add up to the time it took."""

import asyncio
import socket

import pytest

from gomodel.telemetry.record import CLIENT, ENGINE, GATEWAY, PHASE_WORDS

from ..harness.scripted import LAST_CHUNK, SSE_HEAD, Fin, ReadBody, ReadHead, WaitFor, chunked, head, request
from ..harness.verdicts import CHAT, OK, access_lines, ask, counted, post, turned

BODY = b'{"model":"vllm/m","messages":[]}'
LONG = {
    "HTTP_RESPONSE_HEADER_TIMEOUT": "600s",
    "HTTP_STREAM_IDLE_TIMEOUT": "600s",
    "HTTP_REQUEST_IDLE_TIMEOUT": "600s",
    "HTTP_WRITE_IDLE_TIMEOUT": "600s",
    "HTTP_UPSTREAM_KEEPALIVE": "600s",
}


@pytest.fixture
async def patient(gateway, upstream, clock):
    """A gateway that has a connection to its instance, and whose limits no test comes near."""
    return await gateway(LONG, vllm=upstream)


async def warm(handle, upstream, connect):
    upstream.on_request(OK)
    client = await connect(handle)
    await ask(client)
    await counted(handle, 1)
    handle.logs.records.clear()
    return client


def waits_for(handle):
    return [each.waits_for for each in handle.gateway.telemetry.running.records]


async def in_phase(handle, phase):
    await turned(lambda: [PHASE_WORDS[each.phase] for each in handle.gateway.telemetry.running.records] == [phase])


async def blame(handle, requests=2):
    """engine_ms, gateway_ms and client_ms of the only line, which add up to what the request took."""
    await counted(handle, requests)
    [line] = access_lines(handle)
    found = [line["engine_ms"], line["gateway_ms"], line["client_ms"]]
    assert sum(found) == pytest.approx(line["duration_ms"], abs=1)
    return found


async def test_what_the_instance_takes_is_the_engines(patient, upstream, connect, clock):
    client = await warm(patient, upstream, connect)
    go, more = asyncio.Event(), asyncio.Event()
    upstream.on_request(
        WaitFor(go), SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(more), chunked(b"data: 2\n\n"), LAST_CHUNK
    )
    await client.send(post())
    await in_phase(patient, "head")
    clock.advance(5)
    go.set()
    await in_phase(patient, "data")
    clock.advance(2)
    more.set()
    assert (await client.read_response()).complete
    assert await blame(patient) == [7000, 0, 0]


@pytest.mark.parametrize("known", [b"", BODY[:20]], ids=["before the model is known", "behind the model"])
async def test_a_slow_upload_is_the_clients(patient, upstream, connect, clock, known):
    client = await warm(patient, upstream, connect)
    go = asyncio.Event()
    upstream.on_request(ReadHead(), ReadBody(), WaitFor(go), OK)
    await client.send(request("POST", CHAT, [("Content-Length", str(len(BODY)))]) + known)
    await turned(lambda: waits_for(patient) == [CLIENT])
    clock.advance(3)
    await client.send(BODY[len(known) :])
    await in_phase(patient, "head")
    clock.advance(4)
    go.set()
    assert (await client.read_response()).complete
    assert await blame(patient) == [4000, 0, 3000]


async def test_an_answer_that_is_not_read_is_the_clients(patient, upstream, connect, clock):
    await warm(patient, upstream, connect)
    go = asyncio.Event()
    size = 1 << 20
    upstream.on_request(head(200, [("Content-Length", str(size))]) + b"x" * 1000, WaitFor(go), b"x" * (size - 1000))
    client = await connect(patient, receive_buffer=4096)
    await turned(lambda: patient.gateway.connections == 2)
    for each in patient.gateway._server.clients:
        each.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    await client.send(post())
    await in_phase(patient, "data")
    clock.advance(1)
    go.set()
    await in_phase(patient, "write")
    clock.advance(6)
    assert len((await client.read_response()).body) == size
    assert await blame(patient) == [1000, 0, 6000]


async def test_the_line_is_the_gateways_and_has_its_own_word(gateway, upstream, connect, clock):
    handle = await gateway({**LONG, "VLLM_MAX_IN_FLIGHT": "1"}, vllm=upstream)
    go = asyncio.Event()
    upstream.on_request(WaitFor(go), OK)
    upstream.on_request(OK)
    first, second = await connect(handle), await connect(handle)
    await first.send(post())
    await in_phase(handle, "head")
    await second.send(post())
    running = handle.gateway.telemetry.running.records
    await turned(lambda: [each for each in running if each.place is not None and each.place.waiting])
    clock.advance(8)
    go.set()
    assert (await first.read_response()).status == (await second.read_response()).status == 200
    await counted(handle, 2)
    lines = {line["engine_ms"]: line for line in access_lines(handle)}
    assert sorted(lines) == [0, 8000]
    assert (lines[0]["gateway_ms"], lines[0]["queue_ms"], lines[0]["client_ms"]) == (8000, 8000, 0)
    assert "queue_ms" not in lines[8000]


async def test_a_client_that_leaves_its_upload_has_taken_the_time_until_then(patient, upstream, connect, clock):
    await warm(patient, upstream, connect)
    client = await connect(patient)
    await client.send(request("POST", CHAT, [("Content-Length", "100")]) + b'{"messages":[')
    await turned(lambda: waits_for(patient) == [CLIENT])
    clock.advance(9)
    client.fin()
    assert await blame(patient) == [0, 0, 9000]
    assert sum(patient.gateway.telemetry.waits[CLIENT].counts) == 1


async def test_the_histograms_have_what_the_lines_have(patient, upstream, connect, clock):
    client = await warm(patient, upstream, connect)
    go = asyncio.Event()
    upstream.on_request(WaitFor(go), OK)
    await client.send(post())
    await in_phase(patient, "head")
    clock.advance(5)
    go.set()
    await client.read_response()
    await ask(client, request("GET", "/health"))
    await counted(patient, 3)
    waits = patient.gateway.telemetry.waits
    assert {whom: (sum(each.counts), each.sum) for whom, each in waits.items()} == {
        ENGINE: (2, pytest.approx(5)),
        GATEWAY: (2, pytest.approx(0)),
        CLIENT: (0, 0),
    }


async def test_of_a_websocket_nobody_is_blamed(patient, upstream, connect):
    switch = head(101, [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Accept", "x")])
    upstream.on_request(switch, Fin())
    client = await connect(patient)
    fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]
    await client.send(request("GET", "/p/vllm/ws", [*fields, ("Sec-WebSocket-Version", "13")]))
    await client.read_until(b"\r\n\r\n")
    client.fin()
    await counted(patient, 1)
    [line] = access_lines(patient)
    assert (line["status"], "engine_ms" in line) == (101, False)
    assert [sum(each.counts) for each in patient.gateway.telemetry.waits.values()] == [0, 0, 0]


STREAM = SSE_HEAD + chunked(b"data: 1\n\n") + chunked(b"data: 2\n\n")


async def test_what_was_made_for_a_client_who_left_is_in_the_ledger(patient, upstream, connect, clock):
    go = asyncio.Event()
    upstream.on_request(STREAM, WaitFor(go), chunked(b"data: 3\n\n"), WaitFor(asyncio.Event()))
    client = await connect(patient)
    await client.send(post())
    await client.read_until(b"data: 2\n\n")
    clock.advance(7)
    go.set()
    await client.read_until(b"data: 3\n\n")
    client.fin()
    await counted(patient, 1)
    waste = patient.gateway.telemetry.waste
    assert {key: (each.seconds, each.events) for key, each in waste.by_key.items()} == {
        ("vllm", ""): (pytest.approx(7), 3)
    }
    assert sum(waste.cancels["vllm"].counts) == 1
    await upstream.connections[0].closed


async def test_an_answer_that_its_client_waited_for_is_no_waste(patient, upstream, connect):
    upstream.on_request(STREAM, LAST_CHUNK)
    await ask(await connect(patient))
    await counted(patient, 1)
    waste = patient.gateway.telemetry.waste
    assert (dict(waste.by_key), [sum(each.counts) for each in waste.cancels.values()]) == ({}, [])
