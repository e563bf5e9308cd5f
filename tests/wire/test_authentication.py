"""Who may in: the holder of the master key, before anything else is looked at (contract section 2)."""

import asyncio
import hmac
import socket

import pytest

from ..harness.scripted import PeerGone, RawClient, ResponseMessage, request, response
from ..harness.verdicts import CHAT, OK, access_lines, post

KEY = "sk-master-0123456789"
ANTHROPIC = "/v1/messages"


async def status(client: RawClient, fields: list[tuple[str, str]], target: str = CHAT, method: str = "POST") -> int:
    await client.send(request(method, target, fields, b"{}" if method == "POST" else None))
    return (await client.read_response(method)).status


@pytest.mark.parametrize(
    "fields",
    [
        [("Authorization", f"Bearer {KEY}")],
        [("authorization", f"bearer {KEY}")],
        [("AUTHORIZATION", f"BEARER {KEY}")],
        [("Authorization", f"Bearer   {KEY} ")],
        [("x-api-key", KEY)],
        [("X-API-KEY", KEY)],
        [("api-key", KEY)],
        [("Api-Key", KEY), ("x-api-key", "dummy")],
        [("Sec-WebSocket-Protocol", f"realtime, openai-insecure-api-key.{KEY}")],
        [("Authorization", "Bearer dummy"), ("x-api-key", KEY)],
        [("Authorization", "Basic eDp5"), ("x-api-key", KEY)],
        [("Authorization", f"Bearer {KEY}"), ("x-api-key", "dummy")],
    ],
)
async def test_the_key_lets_in_as_a_bearer_token_or_as_an_api_key(gateway, upstream, connect, fields):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY))
    assert await status(client, fields) == 200


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("Authorization", "")],
        [("Authorization", "Bearer")],
        [("Authorization", "Bearer ")],
        [("Authorization", KEY)],
        [("Authorization", f"Basic {KEY}")],
        [("Authorization", f"Bearer {KEY},")],
        [("Authorization", f'Bearer "{KEY}"')],
        [("Authorization", f"Bearer {KEY} {KEY}")],
        [("Authorization", f"Bearer,{KEY}")],
        [("Authorization", f"Bearer\t{KEY}")],
        [("Authorization", f"Bearer {KEY[:-1]}")],
        [("Authorization", f"Bearer {KEY}x")],
        [("Authorization", f"Bearer {KEY.upper()}")],
        [("Authorization", "Bearer \xff\xfe")],
        [("Authorization", f"Bearer {'k' * 8000}")],
        [("Authorization", f"Bearer {KEY}"), ("Authorization", f"Bearer {KEY}")],
        [("Authorization", f"Bearer {KEY}"), ("Authorization", "Bearer x")],
        [("Authorization", "Bearer x"), ("Authorization", "Bearer y"), ("x-api-key", KEY)],
        [("x-api-key", "")],
        [("x-api-key", f"{KEY}, {KEY}")],
        [("x-api-key", f"Bearer {KEY}")],
        [("x-api-key", KEY), ("x-api-key", KEY)],
        [("api-key", KEY), ("Api-Key", KEY)],
        [("api-key", f"Bearer {KEY}")],
        [("Sec-WebSocket-Protocol", KEY)],
        [("Sec-WebSocket-Protocol", f"openai-insecure-api-key{KEY}")],
        [("Sec-WebSocket-Protocol", f"openai-insecure-api-key.{KEY}, openai-insecure-api-key.{KEY}")],
        [("Cookie", f"key={KEY}")],
        [("Proxy-Authorization", f"Bearer {KEY}")],
    ],
)
async def test_a_missing_a_wrong_and_a_doubled_key_read_the_same(gateway, upstream, connect, fields):
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY)
    client = await connect(handle)
    assert await status(client, fields) == 401
    answer = client.responses[-1]
    assert answer.get("WWW-Authenticate") == "Bearer"
    assert answer.json() == {
        "error": {
            "message": "Missing or invalid API key. Send 'Authorization: Bearer <key>' or 'x-api-key: <key>'.",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }
    assert upstream.connections == []
    # The connection goes on, and what it was refused before does not stick to it.
    upstream.repeat(OK)
    assert await status(client, [("x-api-key", KEY)]) == 200
    assert KEY not in handle.logs.text + repr(handle.config)


async def test_anthropics_routes_say_it_in_anthropics_shape(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY))
    assert await status(client, [], ANTHROPIC) == 401
    error = client.responses[-1].json()
    assert (error["type"], error["error"]["type"]) == ("error", "authentication_error")
    assert sorted(error["error"]) == ["message", "type"]


@pytest.mark.parametrize("target", ["/p/vllm/tokenize?x=%zz", "/v1/nothing", "/nothing", "/v1/models", "/p/vllm/sleep"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
async def test_every_route_known_or_not_wants_the_key_first(gateway, upstream, connect, target, method):
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY))
    assert await status(client, [("Authorization", "Bearer x")], target, method) == 401
    assert upstream.connections == []


@pytest.mark.parametrize(
    "start",
    ["OPTIONS *", "CONNECT x:80", "GET http://x/v1/models", "GET /a#b", "GET /p/vllm/../x", "GET //x"],
)
async def test_odd_targets_want_the_key_first(gateway, upstream, connect, start):
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY))
    await client.send(f"{start} HTTP/1.1\r\nHost: x\r\n\r\n".encode("latin-1"))
    assert (await client.read_response()).status == 401


@pytest.mark.parametrize(("public", "open_paths"), [("false", 2), ("true", 3)])
async def test_health_is_open_and_metrics_when_public(gateway, upstream, connect, public, open_paths):
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY, METRICS_PUBLIC=public))
    paths = ["/health", "/health/ready", "/metrics", "/health/", "/health/x", "/Health", "/metrics/x"]
    seen = [await status(client, [], path, "GET") for path in paths]
    assert seen[0] == 200
    assert seen.index(401) == open_paths
    assert seen[open_paths:] == [401] * (len(paths) - open_paths)
    assert await status(client, [], "/health", "HEAD") == 200


async def test_without_a_master_key_everything_is_open(gateway, upstream, connect):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream))
    for fields in ([], [("Authorization", "Bearer x"), ("Authorization", "Bearer y")]):
        assert await status(client, fields) == 200


async def test_keys_are_compared_as_bytes_in_constant_time(gateway, upstream, connect, monkeypatch):
    compared = []
    genuine = hmac.compare_digest

    def compare(given: bytes, expected: bytes) -> bool:
        compared.append((given, expected))
        return genuine(given, expected)

    monkeypatch.setattr("gomodel.checks.hmac.compare_digest", compare)
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY))
    raw = KEY.encode()
    for given, answer in ((b"sk", 401), (raw, 200), (raw[:-1], 401), (b"\xff\xe2", 401)):
        for name in (b"Authorization: Bearer ", b"x-api-key: "):
            await client.send(post().replace(b"\r\n\r\n", b"\r\n%b%b\r\n\r\n" % (name, given), 1))
            assert (await client.read_response()).status == answer
            assert compared.pop() == (given, raw)
    assert compared == []


async def test_no_body_byte_is_asked_for_before_the_key_is_known(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY))
    await client.send(request("POST", CHAT, [("Expect", "100-continue"), ("Content-Length", "100")]))
    answer = await client.read_response()
    assert (answer.status, answer.informational, answer.get("connection"), answer.end) == (401, [], "close", "fin")


@pytest.mark.parametrize("framing", [("Content-Length", str(100 << 20)), ("Transfer-Encoding", "chunked")])
async def test_a_large_upload_with_a_wrong_key_is_refused_at_once_and_hardly_read(gateway, upstream, connect, framing):
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY)
    client = await connect(handle)
    client.wire._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)

    async def upload() -> None:
        piece = b"x" * (1 << 20)
        if framing[1] == "chunked":
            piece = b"%x\r\n%b\r\n" % (len(piece), piece)
        try:
            for _ in range(100):
                await client.wire.send(piece)
        except PeerGone:
            return
        raise AssertionError("all of it was taken")

    await client.send(request("POST", CHAT, [("x-api-key", "wrong"), framing]))
    answer: ResponseMessage = await client.read_head()
    uploading = asyncio.create_task(upload())
    await client.read_rest()
    assert (answer.status, answer.complete, answer.get("connection")) == (401, True, "close")
    await uploading
    assert client.wire.sent_bytes < 8 << 20  # what is read on for the answer's sake, and the kernel's buffers
    (line,) = access_lines(handle)
    assert (line["status"], line["bytes_in"]) == (401, 0)
    assert upstream.connections == []


async def test_the_connection_of_a_small_upload_with_a_wrong_key_lives_on(gateway, upstream, connect):
    upstream.repeat(response(b"ok"))
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY))
    await client.send(post())
    assert (await client.read_response()).end == "keepalive"
    await client.send(post(headers=[("x-api-key", KEY)]))
    assert (await client.read_response()).body == b"ok"
