"""A WebSocket through the gateway: the handshake, frames bit for bit both ways, and one end's loss is the other's."""

import asyncio
import hashlib

import pytest

from ..harness.scripted import Stall, head, json_response, request, response
from ..harness.tunnels import ACCEPTED, BINARY, OFFER, PING, PONG, SWITCH, frame, handshake, opened
from ..harness.verdicts import OK, ask, own_error

SPELLINGS = [("connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket"), ("UPGRADE", "websocket")]
FRAMINGS = [("Content-Length", "5"), ("content-length", "0"), ("Transfer-Encoding", "chunked")]
# Each way its own shapes: what a tunnel must not look into, least of all judge.
FRAMES = [
    frame(b""),
    frame("héllo \u2028 \U0001f600".encode()),
    frame(bytes(range(256)), BINARY),
    frame(b"x" * 70_000, BINARY),
    frame(b"a", fin=False) + frame(b"are you there", PING) + frame(b"b", 0),
    frame(b"\xaa\x56\x2a\x00", rsv=4),
    frame(b"", PONG),
    frame(b"x", 3),
    frame(b"\xff\xfe not utf-8"),
    frame(b"x", rsv=7),
    b"\x00\xff\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
]


async def test_frames_pass_bit_for_bit_both_ways(gateway, upstream, connect):
    client, server = await opened(await gateway(vllm=upstream), upstream, connect)
    for sent in FRAMES:
        await client.send(sent)
        assert await server.exactly(len(sent)) == sent
        await server.send(sent)
        assert await client.exactly(len(sent)) == sent


async def test_a_frame_passes_as_it_comes_and_is_not_collected(gateway, upstream, connect):
    client, server = await opened(await gateway(vllm=upstream), upstream, connect)
    sent = frame(b"x" * 1000, BINARY)
    for at in range(0, 40):
        await client.send(sent[at : at + 1])
        assert await server.exactly(1) == sent[at : at + 1]
        await server.send(sent[at : at + 1])
        assert await client.exactly(1) == sent[at : at + 1]


@pytest.mark.parametrize("way", ["to the instance", "to the client"])
async def test_a_frame_of_25_megabytes_passes(gateway, upstream, connect, way):
    ends = await opened(await gateway(vllm=upstream), upstream, connect)
    sender, receiver = ends if way == "to the instance" else ends[::-1]
    sent = frame(bytes(range(256)) * (25 << 12), BINARY)
    sending = asyncio.create_task(sender.send(sent))
    received = await receiver.exactly(len(sent))
    assert hashlib.sha256(received).digest() == hashlib.sha256(sent).digest()
    await sending


async def test_frames_in_the_segment_of_either_handshake_come_first(gateway, upstream, connect):
    early, hello = frame(b"early"), frame(b"hello", key=None)
    handle = await gateway(vllm=upstream)
    client, server = await opened(handle, upstream, connect, handshake() + early, SWITCH + hello)
    await client.send(frame(b"late"))
    await server.send(frame(b"there", key=None))
    assert await server.exactly(len(early)) == early
    assert await client.exactly(len(hello)) == hello
    assert await server.exactly(len(frame(b"late"))) == frame(b"late")
    assert await client.exactly(7) == frame(b"there", key=None)


async def test_the_handshake_passes_with_what_it_negotiates_and_the_instances_key(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, VLLM_API_KEY="instance-key", GOMODEL_MASTER_KEY="master-key")
    offered = [
        ("Sec-WebSocket-Protocol", "realtime, other"),
        ("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"),
        ("Origin", "https://example.test"),
        ("Authorization", "Bearer master-key"),
        ("Cookie", "secret=1"),
        ("X-Request-Id", "mine"),
    ]
    chosen = [("Sec-WebSocket-Protocol", "realtime"), ("sec-websocket-extensions", "permessage-deflate")]
    switch = head(101, [*ACCEPTED, *chosen], "Switching Protocols")
    await opened(handle, upstream, connect, handshake("/p/vllm/a/ws?b=%2F", offered), switch)
    (asked,) = upstream.requests
    assert (asked.method, asked.target, asked.get("Authorization")) == ("GET", "/a/ws?b=%2F", "Bearer instance-key")
    assert (asked.get("Connection"), asked.get("Upgrade")) == ("Upgrade", "websocket")
    assert [pair for pair in asked.headers if pair in OFFER[2:] + offered] == OFFER[2:] + offered[:3] + offered[5:]
    assert asked.get("Cookie") is None


async def test_the_answer_to_the_handshake_passes_with_gomodels_two_fields(gateway, upstream, connect):
    upstream.on_request(head(101, [*ACCEPTED, ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]), Stall())
    client = await connect(await gateway(vllm=upstream))
    await client.send(handshake(headers=[("X-Request-Id", "mine")]))
    answer = await client.read_head()
    assert (answer.status, answer.get_all("Set-Cookie")) == (101, ["a=1", "b=2"])
    assert (answer.get("Connection"), answer.get("Upgrade")) == ("Upgrade", "websocket")
    assert answer.get("Sec-WebSocket-Accept") == dict(ACCEPTED)["Sec-WebSocket-Accept"]
    assert (answer.get("X-Request-Id"), answer.get("X-GoModel-Provider")) == ("mine", "vllm")
    assert (answer.get("Transfer-Encoding"), answer.get("Content-Length"), answer.problems) == (None, None, [])


@pytest.mark.parametrize("path", ["/p/vllm/ws", "/v1/realtime?model=vllm/m", "/p/nobody/ws", "/v1/realtime"])
@pytest.mark.parametrize("key", [[], [("Authorization", "Bearer wrong")], [("x-api-key", "wrong")]])
async def test_without_the_key_there_is_no_handshake(gateway, upstream, connect, path, key):
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY="right")
    client = await connect(handle)
    answer = await ask(client, handshake(path, key))
    own_error(answer, 401, "invalid_api_key", "authentication_error")
    assert (answer.get("WWW-Authenticate"), upstream.connections) == ("Bearer", [])


@pytest.mark.parametrize(
    "refusal",
    [
        response(b"", 403, [("Server", "uvicorn")], "Forbidden"),
        head(404, [("Transfer-Encoding", "chunked")]) + b"2\r\nno\r\n0\r\n\r\n",
        response(b"fine, but no", 200),
        response(b"", 426, [("Upgrade", "websocket")]),
    ],
)
async def test_a_refused_upgrade_passes_as_it_is_and_both_connections_live_on(gateway, upstream, connect, refusal):
    upstream.on_request(refusal)
    upstream.on_request(refusal)
    upstream.on_request(OK)
    expected = await ask(await connect(upstream), handshake())
    client = await connect(await gateway(vllm=upstream))
    answer = await ask(client, handshake())
    assert (answer.status, answer.reason, answer.body) == (expected.status, expected.reason, expected.body)
    assert answer.get("Server") == expected.get("Server")
    assert (await ask(client)).body == b'{"id":"ok"}'
    assert [len(each.requests) for each in upstream.connections] == [1, 2]


async def test_what_follows_a_refused_upgrade_is_the_next_request(gateway, upstream, connect):
    upstream.on_request(json_response({}, 403))
    upstream.on_request(OK)
    client = await connect(await gateway(vllm=upstream))
    await client.send(handshake() + request("GET", "/p/vllm/version"))
    assert (await client.read_response()).status == 403
    assert (await client.read_response()).body == b'{"id":"ok"}'


@pytest.mark.parametrize("body", [b"x" * 40, [b"x" * 30, b"x" * 10]], ids=["length", "chunked"])
@pytest.mark.parametrize("way", ["whole", "in pieces"])
async def test_an_upgrade_with_a_body_is_a_plain_request_with_that_body(gateway, upstream, connect, body, way):
    """Were it tunnelled, the instance would take what comes next on that connection for the body."""
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream))
    raw = request("GET", "/p/vllm/ws", OFFER, body)
    if isinstance(body, bytes):
        raw += request("GET", "/p/vllm/version")
    await (client.send(raw) if way == "whole" else client.send_byte_by_byte(raw))
    assert (await client.read_response()).body == b'{"id":"ok"}'
    first = upstream.requests[0]
    assert (first.method, first.target, first.body, first.get("Upgrade")) == ("GET", "/ws", b"x" * 40, None)
    if isinstance(body, bytes):
        assert (await client.read_response()).body == b'{"id":"ok"}'
        assert upstream.requests[1].target == "/version"
    realtime = await connect(await gateway(vllm=upstream))
    answer = await ask(realtime, request("GET", "/v1/realtime?model=vllm/m", OFFER, body))
    own_error(answer, 426, "upgrade_required", "invalid_request_error")


@pytest.mark.parametrize("length", ["0", "00"])
async def test_a_handshake_may_say_that_it_has_no_body(gateway, upstream, connect, length):
    raw = handshake(headers=[("Content-Length", length)])
    client, server = await opened(await gateway(vllm=upstream), upstream, connect, raw)
    await client.send(frame(b"hello"))
    assert await server.exactly(11) == frame(b"hello")


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", [], 426),
        ("GET", [("Connection", "Upgrade")], 426),
        ("GET", [("Upgrade", "websocket")], 426),
        ("GET", [("Connection", "Upgrade"), ("Upgrade", "h2c")], 426),
        ("POST", OFFER, 405),
        ("HEAD", [], 405),
    ],
)
async def test_the_realtime_route_wants_a_websocket(gateway, upstream, connect, method, headers, status):
    client = await connect(await gateway(vllm=upstream))
    answer = await ask(client, request(method, "/v1/realtime?model=vllm/m", headers), method)
    assert (answer.status, upstream.connections) == (status, [])
    if status == 426:
        own_error(answer, 426, "upgrade_required", "invalid_request_error")
        assert (answer.get("Upgrade"), answer.get("Connection")) == ("websocket", "Upgrade")
    if answer.get("Connection") != "close":
        assert (await ask(client, request("GET", "/health"))).status == 200


async def test_http_1_0_has_no_upgrades(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    raw = handshake("/v1/realtime?model=vllm/m").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert (await ask(await connect(handle), raw)).status == 426
    assert upstream.connections == []


@pytest.mark.parametrize(
    "pair", [("connection", "keep-alive, Upgrade"), ("Upgrade", "WebSocket"), ("UPGRADE", "WEBSOCKET")]
)
async def test_an_upgrade_may_be_spelt_in_any_case_and_with_other_options(gateway, upstream, connect, pair):
    fields = [each for each in OFFER if each[0].lower() != pair[0].lower()]
    await opened(await gateway(vllm=upstream), upstream, connect, request("GET", "/p/vllm/ws", [*fields, pair]))
    assert [upstream.requests[0].get(name) for name in ("Connection", "Upgrade")] == ["Upgrade", "websocket"]


@pytest.mark.parametrize(
    ("offer", "switch"),
    [
        ([], ACCEPTED),
        (OFFER, [("Connection", "Upgrade")]),
        (OFFER, [("Upgrade", "websocket")]),
        (OFFER, [("Connection", "Upgrade"), ("Upgrade", "h2c")]),
    ],
    ids=["no offer", "no Upgrade", "no Connection", "another protocol"],
)
async def test_a_101_that_nobody_asked_for_is_a_502(gateway, upstream, connect, offer, switch):
    upstream.on_request(head(101, switch) + frame(b"gotcha", key=None), Stall())
    client = await connect(await gateway(vllm=upstream))
    own_error(await ask(client, request("GET", "/p/vllm/ws", offer)), 502, "http_upgrade_failed")
    await upstream.connections[0].closed


async def test_an_offer_that_was_refused_is_none_any_more(gateway, upstream, connect):
    upstream.on_request(response(b"", 403))
    upstream.on_request(SWITCH + frame(b"gotcha", key=None), Stall())
    client = await connect(await gateway(vllm=upstream))
    assert (await ask(client, handshake())).status == 403
    own_error(await ask(client, request("GET", "/p/vllm/ws")), 502, "http_upgrade_failed")
    assert [len(each.requests) for each in upstream.connections] == [2]


@pytest.mark.parametrize(
    "framing", [("Content-Length", "5"), ("content-length", "0"), ("Transfer-Encoding", "chunked")]
)
async def test_framing_in_a_101_means_nothing_and_ends_here(gateway, upstream, connect, framing):
    switch = head(101, [*ACCEPTED, framing]) + frame(b"hello", key=None)
    client, _ = await opened(await gateway(vllm=upstream), upstream, connect, switch=switch)
    assert await client.exactly(7) == frame(b"hello", key=None)
