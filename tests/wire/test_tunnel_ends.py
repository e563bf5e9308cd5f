"""The end of either side of a WebSocket is the end of the other, and a side that does not read holds the other back."""

import asyncio
import contextlib

import pytest

from ..harness.leaks import nothing_left
from ..harness.scripted import PeerGone, let_peers_run
from ..harness.tunnels import CLOSE, PING, frame, opened
from ..harness.verdicts import aborted, access_lines, turned
from ..harness.wire import FLOOD_BYTES

pytestmark = pytest.mark.transports("tcp", "tls", "unix")

# No limit that could end what has to end by itself.
PATIENT = {f"HTTP_{phase}_TIMEOUT": "60s" for phase in ("RESPONSE_HEADER", "STREAM_IDLE", "REQUEST_IDLE", "WRITE_IDLE")}
# The kernel's, at whoever does not read: small, so that backpressure is felt soon.
BUFFER = 65536


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_lost_client_ends_the_instances_side_at_once(gateway, upstream, connect, how):
    handle = await gateway(vllm=upstream, **PATIENT)
    client, server = await opened(handle, upstream, connect)
    await client.send(frame(b"\x03\xe8", CLOSE))
    assert await server.exactly(8) == frame(b"\x03\xe8", CLOSE)
    client.wire.reset() if how == "reset" else client.wire.half_close()
    await server.closed
    await turned(lambda: not handle.gateway.telemetry.running.records)


@pytest.mark.transports("tcp")  # a unix socket knows no reset
@pytest.mark.parametrize("how", ["fin", "reset", "close"])
async def test_a_lost_instance_ends_the_clients_side_at_once(gateway, upstream, connect, how):
    handle = await gateway(vllm=upstream, **PATIENT)
    client, server = await opened(handle, upstream, connect)
    goodbye = frame(b"\x03\xe9going away", CLOSE, key=None)
    if how == "fin":
        await server.send(goodbye)
    {"fin": server.wire.half_close, "reset": server.wire.reset, "close": server.wire.close}[how]()
    assert await client.rest() == (goodbye if how == "fin" else b"")
    # A reset is the instance's fault; an end in good order is nobody's, least of all the client's.
    assert await aborted(handle) == ({("upstream", "data"): 1} if how == "reset" else {})
    assert access_lines(handle)[0].get("reason") == ("connection_terminated" if how == "reset" else None)


async def test_little_is_held_of_what_either_end_does_not_read(gateway, make_upstream, connect):
    upstream = await make_upstream(receive_buffer=BUFFER)
    handle = await gateway(vllm=upstream)
    ends = await opened(handle, upstream, connect, receive_buffer=BUFFER)
    flood = b"x" * (2 * FLOOD_BYTES)
    both = [asyncio.create_task(each.wire.send(flood)) for each in ends]
    for each in ends:
        assert await each.wire.blocked() < len(flood) / 2
    (downstream,) = handle.gateway._server.clients
    held = [each.get_write_buffer_size() for each in (downstream.transport, downstream.feeder.channel.transport)]
    assert min(held) > 0
    assert max(held) < 400 << 10
    for task in both:
        task.cancel()
    await asyncio.gather(*both, return_exceptions=True)


@pytest.mark.parametrize("reader", ["client", "instance"])
async def test_a_stalled_end_goes_on_where_it_stopped(gateway, make_upstream, connect, reader):
    upstream = await make_upstream(receive_buffer=BUFFER)
    ends = await opened(await gateway(vllm=upstream), upstream, connect, receive_buffer=BUFFER)
    receiver, sender = ends if reader == "client" else ends[::-1]
    sent = bytes(range(256)) * (FLOOD_BYTES >> 8)
    sending = asyncio.create_task(sender.wire.send(sent))
    await sender.wire.blocked()
    assert await receiver.exactly(len(sent)) == sent
    await sending
    await receiver.send(b"the other way as well")
    assert await sender.exactly(21) == b"the other way as well"


@pytest.mark.parametrize("silent", ["client", "instance"])
async def test_an_end_that_never_reads_is_given_up_after_the_limit(gateway, make_upstream, connect, silent):
    upstream = await make_upstream(receive_buffer=BUFFER)
    handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="300ms", HTTP_STREAM_IDLE_TIMEOUT="300ms")
    ends = await opened(handle, upstream, connect, receive_buffer=BUFFER)
    stalled, sender = ends if silent == "client" else ends[::-1]
    sending = asyncio.create_task(sender.wire.send(b"x" * (40 << 20)))
    await sender.closed
    await turned(lambda: not handle.gateway.telemetry.running.records)
    await asyncio.gather(sending, return_exceptions=True)
    assert stalled.wire.sent_bytes < 2000  # the handshakes


async def test_a_client_that_pings_and_never_reads_is_given_up_after_the_limit(gateway, make_upstream, connect):
    upstream = await make_upstream(receive_buffer=BUFFER)
    handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="300ms")
    client, server = await opened(handle, upstream, connect, receive_buffer=BUFFER)
    flooding = asyncio.create_task(server.wire.send(b"x" * (40 << 20)))

    async def ping():
        with contextlib.suppress(PeerGone):
            while True:
                await client.wire.send(frame(b"", PING))
                await asyncio.sleep(0.02)

    pinging = asyncio.create_task(ping())
    await server.closed
    assert await aborted(handle) == {("client", "write"): 1}
    await asyncio.gather(flooding, pinging, return_exceptions=True)


async def test_silence_both_ways_ends_after_the_limit_and_a_ping_puts_it_off(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, HTTP_STREAM_IDLE_TIMEOUT="400ms")
    client, server = await opened(handle, upstream, connect)
    for _ in range(4):
        await asyncio.sleep(0.12)
        await server.send(frame(b"", PING, key=None))
        assert await client.exactly(2) == frame(b"", PING, key=None)
    assert await client.rest() == b""
    await server.closed


async def buffered(handle, sender, receiver):
    """Send until some of it waits in the gateway for `receiver`, who does not read, and nobody is held back yet."""
    (downstream,) = handle.gateway._server.clients
    transport = downstream.transport if receiver == "client" else downstream.feeder.channel.transport
    while not transport.get_write_buffer_size():
        await sender.send(b"x" * 16_000)
        await let_peers_run()
    assert transport.get_write_buffer_size() < 60_000


@pytest.mark.parametrize("how", ["fin", "reset"])
@pytest.mark.parametrize("receiver", ["client", "instance"])
async def test_an_end_that_is_lost_before_it_read_all_ends_the_other_at_once(
    gateway, make_upstream, connect, receiver, how
):
    upstream = await make_upstream(receive_buffer=BUFFER)
    handle = await gateway(vllm=upstream, **PATIENT)
    ends = await opened(handle, upstream, connect, receive_buffer=BUFFER)
    lost, other = ends if receiver == "client" else ends[::-1]
    await buffered(handle, other, receiver)
    lost.wire.reset() if how == "reset" else lost.wire.half_close()
    await other.closed  # long before PATIENT ends


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_client_that_does_not_read_the_last_of_it_is_cut_off_after_the_limit(
    gateway, make_upstream, connect, how
):
    upstream = await make_upstream()
    handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="200ms")
    _, server = await opened(handle, upstream, connect, receive_buffer=BUFFER)
    await buffered(handle, server, "client")
    server.wire.reset() if how == "reset" else server.wire.half_close()
    await nothing_left(lambda: [f"{handle.gateway.connections} connections"] * handle.gateway.connections)
