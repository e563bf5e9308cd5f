"""Every inference route of vLLM, and those it does not have yet, reaches the same path of the instance named."""

import json

import pytest
from aiohttp import ClientSession, DummyCookieJar
from aiohttp.test_utils import TestServer

from gomodel.simulator import build_app

from ..harness.scripted import SSE_HEAD, chunked, json_response, request, response, sse_event
from ..harness.verdicts import OK, ask, own_error

JSON = [("Content-Type", "application/json")]

# Path and query -> path and query upstream; one with /v1 goes below the base URL.
ROUTES = [
    "/v1/chat/completions",
    "/v1/chat/completions/batch",
    "/v1/chat/completions/render",
    "/v1/chat/completions/derender",
    "/v1/completions",
    "/v1/completions/render",
    "/v1/completions/derender",
    "/v1/responses",
    "/v1/responses/render",
    "/v1/responses/compact",
    "/v1/responses/input_tokens",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/messages/render",
    "/v1/embeddings",
    "/v1/score",
    "/v1/rerank",
    "/v1/systemone",
    "/v1/decisions",
    "/v1/audio/transcriptions",
    "/v1/audio/translations",
    "/v2/embed",
    "/v2/rerank",
    "/tokenize",
    "/detokenize",
    "/pooling",
    "/classify",
    "/score",
    "/rerank",
    "/generative_scoring",
    "/invocations",
    "/inference/v1/generate",
    "/cohere/v2/chat",
    "/cohere/v2/chat/render",
    # None of vLLM's today.
    "/v1/audio/speech",
    "/v1/tomorrow",
    "/v1/tomorrow/and/the/day%2Fafter;x=1",
    "/v2/tomorrow",
    "/inference/v2/tomorrow",
    "/v1/chat/completions?api-version=1&a=%2F..&b",
    "/tokenize?x=%20",
]
# Those of them that gomodel has no name for.
UNKNOWN = [each for each in ROUTES if "tomorrow" in each or each.startswith("/v1/responses/") or "speech" in each]
UNKNOWN.remove("/v1/responses/render")


@pytest.fixture
async def pair(gateway, make_upstream):
    """A gateway with the instances `vllm` and `vllm-b`, and those."""
    one, other = await make_upstream(), await make_upstream()
    one.repeat(OK)
    other.repeat(OK)
    return await gateway(vllm=one, vllm_b=other), one, other


@pytest.mark.parametrize("route", ROUTES)
async def test_a_route_reaches_the_same_path_of_the_instance_named(pair, connect, route):
    handle, one, other = pair
    client = await connect(handle)
    for instance, upstream in (("vllm", one), ("vllm-b", other)):
        body = json.dumps({"input": ["a"], "model": f"{instance}/org/m", "stream": False})
        answer = await ask(client, request("POST", route, JSON, body.encode()))
        assert (answer.status, answer.get("X-GoModel-Provider")) == (200, instance)
        (seen,) = upstream.requests
        assert (seen.method, seen.target) == ("POST", route)
        assert seen.body == body.replace(f"{instance}/", "").encode()
        assert seen.get("Content-Type") == "application/json"


@pytest.mark.parametrize("route", [each for each in ROUTES if each not in UNKNOWN])
async def test_an_inference_route_wants_a_post(pair, connect, route):
    handle, one, other = pair
    for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD"):
        answer = await ask(await connect(handle), request(method, route), method)
        assert (answer.status, answer.get("Allow")) == (405, "POST")
    assert one.connections + other.connections == []


@pytest.mark.parametrize(
    "path",
    ["/v1", "/v1/", "/v1/chat/completions/", "/v1//chat/completions", "/v3/embed", "/V1/chat/completions", "/generate",
     "/v1chat", "/v1/v1/completions", "/load/", "/openapi.json", "/ping/x", "/nothing", "/chat/completions",
     "/tokenize/x"],
)  # fmt: skip
async def test_what_is_no_route_is_a_404_and_goes_nowhere(pair, connect, path):
    handle, one, other = pair
    answer = await ask(await connect(handle), request("POST", path, JSON, b'{"model":"vllm/m"}'))
    own_error(answer, 404, "not_found", "invalid_request_error")
    assert one.connections + other.connections == []


@pytest.mark.parametrize("path", ["/v1/%2e%2e/tokenize", "/v1/chat/../completions", "/v1/a\\b", "/v1/a%00", "/v1/a#b"])
async def test_a_path_that_servers_read_differently_is_a_400(pair, connect, path):
    handle, one, other = pair
    answer = await ask(await connect(handle), request("POST", path, JSON, b'{"model":"vllm/m"}'))
    own_error(answer, 400, "invalid_path", "invalid_request_error")
    assert one.connections + other.connections == []


@pytest.mark.parametrize(
    ("base", "route", "target"),
    [
        ("/v1", "/v1/chat/completions", "/v1/chat/completions"),
        ("/v1", "/tokenize", "/tokenize"),
        ("/v1", "/v2/rerank", "/v2/rerank"),
        ("/a/b/v1", "/v1/chat/completions?x", "/a/b/v1/chat/completions?x"),
        ("/a/b/v1", "/tokenize", "/a/b/tokenize"),
        ("/a/b/v1", "/v2/embed", "/a/b/v2/embed"),
        ("/proxy", "/v1/chat/completions", "/proxy/chat/completions"),
        ("/proxy", "/tokenize", "/proxy/tokenize"),
        ("/v1/", "/v1/completions", "/v1/completions"),
    ],
)
async def test_a_route_lies_below_the_base_url_or_beside_it(gateway, upstream, connect, base, route, target):
    upstream.repeat(OK)
    handle = await gateway({"VLLM_BASE_URL": f"http://127.0.0.1:{upstream.port}{base}"})
    assert (await ask(await connect(handle), request("POST", route, JSON, b'{"model":"vllm/m"}'))).status == 200
    assert upstream.requests[0].target == target


async def test_a_base_path_stands_before_every_route(gateway, upstream, connect):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, BASE_PATH="/gw/x"))
    for route in ("/v1/chat/completions", "/tokenize"):
        assert (await ask(client, request("POST", f"/gw/x{route}", JSON, b'{"model":"vllm/m"}'))).status == 200
        assert (await ask(client, request("POST", route, JSON, b'{"model":"vllm/m"}'))).status == 404
    assert [each.target for each in upstream.requests] == ["/v1/chat/completions", "/tokenize"]


async def test_the_metadata_header_of_a_thousand_embeddings_passes(gateway, upstream, connect):
    """vLLM's `encoding_format: bytes` describes each input in one field of about 113 bytes apiece."""
    entry = {"index": 0, "embedding_dtype": "float32", "shape": [1024], "start": 0, "end": 4096, "endianness": "little"}
    metadata = json.dumps({"data": [entry] * 1000, "usage": {"prompt_tokens": 1}})
    assert len(metadata) > 110_000
    floats = bytes(range(256)) * 400
    fields = [("Content-Type", "application/octet-stream"), ("metadata", metadata), ("Transfer-Encoding", "chunked")]
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields)
    upstream.on_request(f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode() + chunked(floats[:999], floats[999:]) + b"0\r\n\r\n")
    body = json.dumps({"model": "vllm/m", "input": ["x"] * 1000, "encoding_format": "bytes"}).encode()
    answer = await ask(await connect(await gateway(vllm=upstream)), request("POST", "/v1/embeddings", JSON, body))
    assert (answer.status, answer.get("metadata"), answer.body, answer.complete) == (200, metadata, floats, True)


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "application/x-www-form-urlencoded", "application/octet-stream", "application/json; x=y"],
)
async def test_a_body_is_taken_for_json_whatever_it_is_called_and_vllm_judges_the_name(
    gateway, upstream, connect, content_type
):
    upstream.on_request(json_response({"error": "no"}, 400))
    fields = [("Content-Type", content_type)] if content_type else []
    raw = request("POST", "/v1/chat/completions", fields, b'{"model":"vllm/m"}')
    answer = await ask(await connect(await gateway(vllm=upstream)), raw)
    assert (answer.status, answer.json()) == (400, {"error": "no"})
    assert (upstream.requests[0].body, upstream.requests[0].get("Content-Type")) == (b'{"model":"m"}', content_type)


async def test_a_client_that_offers_http_2_is_served_by_http_1_1(pair, connect):
    """Java's client does so with every request, bodies included, until somebody takes up the offer."""
    handle, one, _ = pair
    offer = [
        ("Connection", "Upgrade, HTTP2-Settings"),
        ("Upgrade", "h2c"),
        ("HTTP2-Settings", "AAEAAEAAAAIAAAABAAMAAABk"),
    ]
    client = await connect(handle)
    for _ in range(2):
        raw = request("POST", "/v1/chat/completions", [*JSON, *offer], b'{"model":"vllm/m"}')
        assert (await ask(client, raw)).status == 200
    assert [each.body for each in one.requests] == [b'{"model":"m"}'] * 2
    assert {each.get(name) for each in one.requests for name, _ in offer} == {None}


async def test_one_connection_serves_every_kind_of_route_in_turn(pair, connect):
    handle, one, _ = pair
    one.on_request(SSE_HEAD + chunked(sse_event("x")) + b"0\r\n\r\n", path="/v1/completions")
    one.on_request(response(b"{}", 200), path="/tokenize")
    client = await connect(handle)
    chat = b'{"model":"vllm/m"}'
    for raw, status in (
        (request("POST", "/v1/completions", JSON, chat), 200),
        (request("GET", "/v1/models"), 200),
        (request("POST", "/nothing", JSON, chat), 404),
        (request("POST", "/tokenize", JSON, chat), 200),
        (request("GET", "/health"), 200),
        (request("GET", "/p/vllm/version"), 200),
        (request("POST", "/v1/chat/completions", JSON, b"{}"), 400),
        (request("POST", "/v1/chat/completions", JSON, chat), 200),
    ):
        assert (await ask(client, raw)).status == status


async def test_the_simulated_vllm_answers_through_the_gateway_as_it_does_without(gateway, no_leaks):
    """What a client library reads, field for field, on every route the simulation has."""
    chat = [{"role": "user", "content": "Tell me about rivers."}]
    bodies = {
        "/v1/chat/completions": {"messages": chat},
        "/v1/completions": {"prompt": "Rivers", "max_tokens": 5},
        "/v1/responses": {"input": "Rivers"},
        "/v1/messages": {"messages": chat, "max_tokens": 5},
        "/v1/messages/count_tokens": {"messages": chat},
        "/v1/embeddings": {"input": ["a", "b"]},
        "/tokenize": {"prompt": "Rivers"},
    }
    async with (
        TestServer(build_app(model="org/m", tokens_per_s=0), host="127.0.0.1") as server,
        ClientSession(cookie_jar=DummyCookieJar(), headers={"X-Request-Id": "same"}) as session,
    ):
        handle = await gateway(vllm=str(server.make_url("/v1")))

        async def shape(base, path, model):
            async with session.post(f"{base}{path}", json={"model": model, **bodies[path]}) as answer:
                document = await answer.json()
                return answer.status, sorted(document), document.get("model")

        for path in bodies:
            direct = await shape(f"http://127.0.0.1:{server.port}", path, "org/m")
            through = await shape(f"http://127.0.0.1:{handle.port}", path, "vllm/org/m")
            assert direct == through
            assert direct[0] == 200
