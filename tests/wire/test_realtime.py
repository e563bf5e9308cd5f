"""/v1/realtime?model=<selector>: the instance is chosen before the handshake, and real libraries talk through it."""

import asyncio

import pytest
from aiohttp import ClientSession, DummyCookieJar, WSCloseCode, WSMsgType, web
from aiohttp.test_utils import TestServer

from gomodel.simulator import build_app

from ..harness.scripted import request
from ..harness.tunnels import BINARY, frame, handshake, opened
from ..harness.verdicts import ask, own_error, turned

UPDATE = b'{"type": "session.update", "model": "%s"}'


@pytest.fixture
async def serve(no_leaks):
    """`await serve(handler)` or `await serve(app)`: a server of aiohttp's own, as a base URL."""
    servers = []

    async def start(what):
        app = what
        if not isinstance(app, web.Application):
            app = web.Application()
            app.router.add_get("/v1/realtime", what)
            app.router.add_get("/any", what)
        servers.append(TestServer(app, host="127.0.0.1"))
        await servers[-1].start_server()
        return str(servers[-1].make_url("/v1"))

    yield start
    for server in servers:
        await server.close()


@pytest.fixture
async def dial(no_leaks):
    """`await dial(handle, path, **options)`: aiohttp's own client."""
    session = ClientSession(cookie_jar=DummyCookieJar())

    async def connect(handle, path="/v1/realtime?model=vllm/m", **options):
        return await session.ws_connect(f"http://127.0.0.1:{handle.port}{path}", max_msg_size=0, **options)

    yield connect
    await session.close()


async def echo(request):
    socket = web.WebSocketResponse(protocols=("b", "c"), max_msg_size=0, autoping=False)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT and message.data == "close":
            await socket.close(code=4321, message=b"as you like")
        elif message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await socket.send_bytes(message.data)
        elif message.type is WSMsgType.PING:
            await socket.pong(message.data)
    return socket


@pytest.mark.parametrize(
    ("model", "instance", "target"),
    [
        ("?model=vllm/m", "vllm", "?model=m"),
        ("?model=vllm-b/m", "vllm-b", "?model=m"),
        ("?model=vllm/meta-llama/L-8B", "vllm", "?model=meta-llama/L-8B"),
        ("?model=vllm%2Fm", "vllm", "?model=m"),
        ("?a=%2F+&model=vllm-b/m&b", "vllm-b", "?a=%2F+&model=m&b"),
        ("?xmodel=vllm/n&model=vllm/m", "vllm", "?xmodel=vllm/n&model=m"),
        ("?model=vllm/never-listed", "vllm", "?model=never-listed"),
        ("?model=vllm/x%2Fy&z=1", "vllm", "?model=x%2Fy&z=1"),
        ("?=&model=vllm-b/a+b%20c%c3%a9&=", "vllm-b", "?=&model=a+b%20c%c3%a9&="),
        ("?model=vll%6D%2fm/n==&MODEL=vllm/m", "vllm", "?model=m/n==&MODEL=vllm/m"),
        ("?mod%65l=vllm//m", "vllm", "?mod%65l=/m"),
        ("?model=b", "vllm-b", "?model=b"),
        ("?model=org/both", "vllm", "?model=org/both"),
        ("?model=org%2Fboth", "vllm", "?model=org%2Fboth"),
    ],
)
@pytest.mark.usefixtures("first_of_equals")
async def test_the_selector_of_the_query_chooses_the_instance(gateway, make_upstream, connect, model, instance, target):
    upstreams = {
        "vllm": await make_upstream(models=("m", "org/both")),
        "vllm-b": await make_upstream(models=("b", "org/both")),
    }
    handle = await gateway(vllm=upstreams["vllm"], vllm_b=upstreams["vllm-b"])
    client, server = await opened(handle, upstreams[instance], connect, handshake(f"/v1/realtime{model}"))
    assert upstreams[instance].requests[0].target == f"/v1/realtime{target}"
    await client.send(frame(b"hello"))
    assert await server.exactly(11) == frame(b"hello")
    assert [len(each.requests) for each in upstreams.values()].count(0) == 1


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "model_required"),
        ("?model=", 400, "model_required"),
        ("?model=vllm/", 400, "model_required"),
        ("?model=nobody/m", 404, "model_not_found"),
        ("?model=VLLM/m", 404, "model_not_found"),
    ],
)
async def test_a_selector_that_chooses_none_is_refused_before_the_handshake(
    gateway, make_upstream, connect, query, status, code
):
    one, other = await make_upstream(), await make_upstream()
    client = await connect(await gateway(vllm=one, vllm_b=other))
    answer = await ask(client, handshake(f"/v1/realtime{query}"))
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["param"]) == (status, code, "model")
    assert one.requests + other.requests == []


@pytest.mark.parametrize(
    "query",
    [
        "model=vllm/m&model=vllm-b/m",
        "model=vllm/m&model=vllm/m",
        "model=vllm/m&a=b&mod%65l=vllm-b/m",
        "mod%65l=vllm/m&model=vllm-b/m",
        "model=vllm/m&model=",
        "model&model=vllm/m",
    ],
)
async def test_a_second_model_in_the_query_is_refused_since_servers_disagree_on_which_counts(
    gateway, make_upstream, connect, query
):
    one, other = await make_upstream(), await make_upstream()
    for handle in (await gateway(vllm=one, vllm_b=other), await gateway(vllm=one)):
        answer = await ask(await connect(handle), handshake(f"/v1/realtime?{query}"))
        assert answer.status == 400
        assert "second `model`" in answer.json()["error"]["message"]
    assert one.requests + other.requests == []


async def test_a_query_of_thousands_of_fields_is_refused_unread(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream))
    answer = await ask(client, handshake("/v1/realtime?" + "&" * 1001 + "model=vllm/m"))
    assert (answer.status, upstream.requests) == (400, [])


@pytest.mark.parametrize("query", ["", "?a=b", "?model=anything"])
async def test_one_instance_needs_no_selector(gateway, upstream, connect, query):
    handle = await gateway(vllm=upstream)
    await opened(handle, upstream, connect, handshake(f"/v1/realtime{query}"))
    assert upstream.requests[0].target == f"/v1/realtime{query}"


async def test_a_bare_model_goes_to_the_next_instance_when_one_cannot_be_reached(gateway, make_upstream, connect):
    gone, upstream = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=gone, vllm_b=upstream)
    await ask(await connect(handle), request("GET", "/v1/models"))
    gone.stop_listening()
    await opened(handle, upstream, connect, handshake("/v1/realtime?model=m"))
    refused = await ask(await connect(handle), handshake("/v1/realtime?model=vllm/m"))
    own_error(refused, 502, "connection_refused")


@pytest.mark.parametrize("path", ["/v1/realtime?model=vllm/m", "/v1/realtime?model=m", "/v1/realtime"])
@pytest.mark.parametrize("way", ["whole", "in pieces", "with the handshake"])
async def test_the_first_event_loses_its_instance_and_the_rest_nothing(gateway, upstream, connect, path, way):
    sent = frame(UPDATE % b"vllm/m") + frame(UPDATE % b"vllm/n") + frame(b"x" * 999, BINARY)
    expected = frame(UPDATE % b"m") + frame(UPDATE % b"vllm/n") + frame(b"x" * 999, BINARY)
    raw = handshake(path) + (sent if way == "with the handshake" else b"")
    client, server = await opened(await gateway(vllm=upstream), upstream, connect, raw)
    if way == "in pieces":
        for at in range(len(sent)):
            await client.send(sent[at : at + 1])
    elif way == "whole":
        await client.send(sent)
    assert await server.exactly(len(expected)) == expected
    await server.send(frame(UPDATE % b"vllm/m", key=None))
    echoed = frame(UPDATE % b"vllm/m", key=None)
    assert await client.exactly(len(echoed)) == echoed


@pytest.mark.parametrize(
    "first",
    [
        frame(UPDATE % b"vllm/m", BINARY),
        frame(UPDATE % b"vllm/m", rsv=4),
        frame(UPDATE[:10], fin=False) + frame(UPDATE[10:], 0),
        frame(UPDATE % b"vllm-b/m"),
    ],
    ids=["binary", "compressed", "in fragments", "another instance"],
)
async def test_a_first_event_that_cannot_be_read_passes_untouched(gateway, upstream, connect, first):
    sent = first + frame(UPDATE % b"vllm/m")
    client, server = await opened(await gateway(vllm=upstream), upstream, connect, handshake("/v1/realtime"))
    await client.send(sent)
    assert await server.exactly(len(sent)) == sent


async def test_below_p_not_even_the_first_event_is_touched(gateway, upstream, connect):
    sent = frame(UPDATE % b"vllm/m")
    raw = handshake("/p/vllm/v1/realtime?model=vllm/m")
    client, server = await opened(await gateway(vllm=upstream), upstream, connect, raw)
    await client.send(sent)
    assert await server.exactly(len(sent)) == sent
    assert upstream.requests[0].target == "/v1/realtime?model=vllm/m"


COMPRESSION = [("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"), ("X-Other", "kept")]


@pytest.mark.parametrize(
    ("path", "offered"),
    [
        ("/v1/realtime?model=vllm/m", False),
        ("/v1/realtime?model=vllm%2Fm", False),
        ("/v1/realtime", False),
        ("/v1/realtime?model=m", True),
        ("/p/vllm/v1/realtime?model=vllm/m", True),
        ("/p/vllm/v1/realtime", True),
    ],
)
async def test_compression_is_offered_where_no_event_has_to_be_shortened(gateway, upstream, connect, path, offered):
    await opened(await gateway(vllm=upstream), upstream, connect, handshake(path, COMPRESSION))
    seen = upstream.requests[0]
    assert seen.get("Sec-WebSocket-Extensions") == (COMPRESSION[0][1] if offered else None)
    assert seen.get("X-Other") == "kept"
    assert seen.get("Sec-WebSocket-Key")


@pytest.mark.parametrize("query", ["?model=m", "?model=vllm/m", ""])
async def test_an_update_behind_long_audio_loses_its_instance_too(gateway, upstream, connect, query):
    audio = frame(b'{"type":"input_audio_buffer.append","audio":"%b"}' % (b"A" * 300_000))
    client, server = await opened(await gateway(vllm=upstream), upstream, connect, handshake(f"/v1/realtime{query}"))
    sending = asyncio.create_task(client.send(audio + frame(UPDATE % b"vllm/m")))
    expected = audio + frame(UPDATE % b"m")
    assert await server.exactly(len(expected)) == expected
    await sending


@pytest.mark.parametrize("path", ["/v1/realtime?model=vllm/m", "/v1/realtime?model=m", "/p/vllm/any"])
@pytest.mark.parametrize("compress", [0, 15])
async def test_two_libraries_agree_on_everything_through_the_gateway(gateway, serve, dial, path, compress):
    handle = await gateway(vllm=await serve(echo))
    async with await dial(handle, path, compress=compress, protocols=("a", "b"), autoping=False) as socket:
        assert (bool(socket.compress), socket.protocol) == (bool(compress) and "vllm/m" not in path, "b")
        for text in ("", "héllo \u2028 \U0001f600", "x" * 300_000):
            await socket.send_str(text)
            assert await socket.receive_str(timeout=5) == text
        binary = bytes(range(256)) * (25 << 12)
        sending = asyncio.create_task(socket.send_bytes(binary))
        assert await socket.receive_bytes(timeout=5) == binary
        await sending
        await socket.ping(b"are you there")
        answer = await socket.receive(timeout=5)
        assert (answer.type, answer.data) == (WSMsgType.PONG, b"are you there")
        await socket.send_str("close")
        closing = await socket.receive(timeout=5)
        assert (closing.type, closing.data, closing.extra) == (WSMsgType.CLOSE, 4321, "as you like")


@pytest.mark.parametrize("query", ["?model=vllm/org/m", "?model=org/m", ""])
@pytest.mark.parametrize("compress", [0, 15])
async def test_a_session_with_the_simulated_vllm_runs_to_its_end(gateway, serve, dial, compress, query):
    """Compressed the event cannot be shortened: who names a bare model in the query and compresses names it there."""
    handle = await gateway(vllm=await serve(build_app(model="org/m", tokens_per_s=0)), GOMODEL_MASTER_KEY="right")
    headers = {"Authorization": "Bearer right"}
    async with await dial(handle, f"/v1/realtime{query}", headers=headers, compress=compress) as socket:
        created = await socket.receive_json(timeout=5)
        assert created["type"] == "session.created"
        await socket.send_json({"type": "session.update", "model": "org/m" if socket.compress else "vllm/org/m"})
        assert bool(socket.compress) == (bool(compress) and query == "?model=org/m")
        await socket.send_json({"type": "input_audio_buffer.append", "audio": "AAAA" * 1000})
        await socket.send_json({"type": "input_audio_buffer.commit"})
        await socket.send_json({"type": "input_audio_buffer.commit", "final": True})
        seen = []
        while not seen or seen[-1]["type"] == "transcription.delta":
            seen.append(await socket.receive_json(timeout=5))
        assert seen[-1]["type"] == "transcription.done"
        assert seen[-1]["text"] == "".join(each["delta"] for each in seen[:-1])
        await socket.close(code=WSCloseCode.GOING_AWAY)
    await turned(lambda: not handle.gateway.telemetry.running.records)


async def test_a_drain_lets_a_session_go_on_to_its_end(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    client, server = await opened(handle, upstream, connect)
    draining = asyncio.create_task(handle.gateway.drain(5))
    await turned(lambda: handle.gateway.app.draining)
    for _ in range(3):
        await client.send(frame(b"hello"))
        assert await server.exactly(11) == frame(b"hello")
        await server.send(frame(b"there", key=None))
        assert await client.exactly(7) == frame(b"there", key=None)
    server.wire.half_close()
    assert await client.rest() == b""
    assert await draining == 0


async def test_a_session_that_outlasts_the_drain_is_cut_without_a_close_frame(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    client, server = await opened(handle, upstream, connect)
    assert await handle.gateway.drain(0.05) == 1
    await handle.gateway.close()
    assert (await client.rest(), await server.rest()) == (b"", b"")


async def test_a_session_is_one_request_in_flight_and_one_in_the_counters(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    client, server = await opened(handle, upstream, connect, handshake("/v1/realtime?model=vllm/m"))
    instance = handle.replica()
    assert instance.in_flight == 1
    (record,) = handle.gateway.telemetry.running.records
    await client.send(frame(b"hello"))
    await server.exactly(11)
    await server.send(frame(b"there", key=None))
    await client.exactly(7)
    assert (record.status, record.bytes_in, record.bytes_out, record.model) == (101, 11, 7, "m")
    client.wire.close()
    await server.closed
    await turned(lambda: not handle.gateway.telemetry.running.records)
    assert instance.in_flight == 0
    assert instance.breaker.closed
