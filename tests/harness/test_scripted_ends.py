"""How and when a connection ended, and what went over it segment by segment, is observed and not guessed."""

import asyncio

import pytest

from .scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    CloseWhenIdle,
    Fin,
    ReadBody,
    ReadHead,
    ReadRequest,
    Reset,
    SendByteByByte,
    SendPieces,
    Set,
    Stall,
    WaitFor,
    chunked,
    request,
    response,
)

GET = request("GET", "/x")
OK = response(b"ok")


@pytest.mark.parametrize("pieces", ["whole", "bytes", "lines"])
async def test_segments_arrive_as_they_were_sent(upstream, connect, pieces):
    raw = request("POST", "/x", [("A", "b")], body=b"12345")
    client = await connect(upstream)
    send = {"whole": client.send, "bytes": client.send_byte_by_byte, "lines": client.send_split_at_crlf}[pieces]
    upstream.on_request(SendByteByByte(OK))
    await send(raw)
    assert (await client.read_response()).body == b"ok"
    (connection,) = upstream.connections
    expected = {"whole": 1, "bytes": len(raw), "lines": raw.count(b"\r\n") + 1}[pieces]
    assert len(connection.wire.segments) == expected
    assert upstream.requests[0].raw == raw


async def test_each_piece_is_read_by_itself_by_a_waiting_client(upstream, connect):
    upstream.on_request(SendPieces((SSE_HEAD, chunked(b"a"), chunked(b"b"), LAST_CHUNK)))
    client = await connect(upstream)
    await client.send(GET)
    await client.read_response()
    assert client.wire.segments == [SSE_HEAD, chunked(b"a"), chunked(b"b"), LAST_CHUNK]


@pytest.mark.parametrize("leave", ["fin", "reset", "half_close"])
@pytest.mark.parametrize("reads", [True, False])
async def test_the_end_of_a_client_is_noticed_within_a_few_turns_of_the_loop(upstream, connect, leave, reads):
    stalled = asyncio.Event()
    upstream.on_request(ReadRequest() if reads else ReadHead(), Set(stalled), Stall())
    client = await connect(upstream)
    await client.send(request("POST", "/x", body=b"x" * 100_000)[:-1])
    upstream_request = await upstream.wait_for_request()
    if not reads:
        await stalled.wait()
    assert upstream_request.ended is None
    left_at = getattr(client, leave)()
    for _ in range(4):
        await asyncio.sleep(0)
    closed = upstream.connections[0].closed
    assert closed.done
    assert closed.at >= left_at
    assert await closed == upstream_request.ended == ("reset" if leave == "reset" else "fin")
    assert not upstream_request.complete
    assert upstream.open_connections == []


async def test_a_fin_stays_a_fin_when_later_bytes_are_answered_with_a_reset(upstream, connect):
    go_on = asyncio.Event()
    upstream.on_request(WaitFor(go_on), OK)
    client = await connect(upstream)
    await client.send(GET)
    await upstream.wait_for_request()
    client.fin()
    await upstream.connections[0].wire.send(b"too late")
    assert await upstream.connections[0].closed == "fin"


async def test_a_client_that_closes_with_bytes_unread_still_ends_with_a_fin_first(upstream, connect):
    sent = asyncio.Event()
    upstream.on_request(OK, Set(sent), Stall())
    client = await connect(upstream)
    await client.send(GET)
    await sent.wait()
    client.fin()
    assert await upstream.connections[0].closed == "fin"


async def test_an_upload_that_breaks_off_is_recorded_to_its_last_byte(upstream, connect):
    raw = request("POST", "/x", body=[b"abc", b"defg"])
    client = await connect(upstream)
    await client.send(raw[:-7])
    upload = await upstream.wait_for_request()
    client.fin()
    assert await upload.connection.closed == "fin"
    await upload.connection.over
    assert (upload.raw, upload.body, upload.complete, upload.done.done) == (raw[:-7], b"abcdefg", False, False)


async def test_a_script_reads_no_further_than_it_was_told(make_upstream, connect):
    upstream = await make_upstream(receive_buffer=4096)
    stalled = asyncio.Event()
    upstream.on_request(ReadHead(), ReadBody(at_least=10), Set(stalled), Stall(), ReadBody(), OK)
    client = await connect(upstream, receive_buffer=4096)
    body = b"x" * 20_000_000
    sending = asyncio.create_task(client.send(request("POST", "/x", body=body)))
    await stalled.wait()
    taken = await client.wire.blocked()
    assert 10 <= len(upstream.requests[0].body) < taken < len(body)
    upstream.release()
    await sending
    assert (await client.read_response()).body == b"ok"
    assert upstream.requests[0].body == body


async def test_a_client_that_does_not_read_stops_the_sender(make_upstream, connect):
    upstream = await make_upstream(send_buffer=8192)
    upstream.on_request(response(b"x" * 5_000_000))
    client = await connect(upstream, receive_buffer=4096)
    await client.send(GET)
    connection = await upstream.wait_for_connection()
    assert await connection.wire.blocked() < 1_000_000
    assert await client.read_some(100) == response(b"x" * 5_000_000)[:100]
    assert len(await client.read_until(b"x" * 1000)) >= 1000


async def test_connection_scripts_act_before_anything_is_read(upstream, connect):
    upstream.on_accept(Reset())
    upstream.on_accept(Fin())
    upstream.on_accept(ReadRequest(), OK, ReadRequest(), Fin())
    upstream.repeat(OK)
    ends = []
    for _ in range(4):
        client = await connect(upstream)
        if len(ends) > 1:
            await client.send(GET + GET)
            assert (await client.read_response()).body == b"ok"
        answer = await client.read_response()
        ends.append((answer.status, answer.end))
    assert ends == [(0, "reset"), (0, "fin"), (0, "fin"), (200, "keepalive")]


async def test_an_idle_connection_is_closed_by_the_upstream_and_a_busy_one_is_not(upstream, connect):
    upstream.on_request(OK, CloseWhenIdle(5))
    upstream.on_request(OK, CloseWhenIdle(0.01))
    client = await connect(upstream)
    await client.send(GET)
    assert (await client.read_response()).end == "keepalive"
    await client.send(GET)
    assert (await client.read_response()).complete
    assert await client.closed == "fin"
