"""/p/{provider}/...: any method, path, query and body reaches the instance byte for byte, unless it administers it."""

import asyncio
import hashlib

import pytest

from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    ReadBody,
    ReadHead,
    Stall,
    WaitFor,
    chunked,
    head,
    request,
    response,
)
from ..harness.verdicts import OK, ask, own_error, turned

BINARY = bytes(range(256)) * 8


@pytest.fixture
async def pair(gateway, make_upstream):
    """A gateway with the instances `vllm` and `vllm-test`, and those."""
    one, other = await make_upstream(), await make_upstream()
    one.repeat(OK)
    other.repeat(OK)
    return await gateway(vllm=one, vllm_test=other), one, other


@pytest.mark.parametrize(("provider", "number"), [("vllm", 0), ("vllm-test", 1)])
async def test_a_name_leads_to_its_instance(pair, connect, provider, number):
    handle, *upstreams = pair
    answer = await ask(await connect(handle), request("GET", f"/p/{provider}/version"))
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, provider)
    assert [len(each.requests) for each in upstreams] == [1 - number, number]


async def test_the_type_leads_to_the_first_instance_where_none_has_its_name(gateway, make_upstream, connect):
    one, other = await make_upstream(), await make_upstream()
    one.on_request(OK)
    handle = await gateway(vllm_a=one, vllm_b=other)
    answer = await ask(await connect(handle), request("GET", "/p/vllm/version"))
    assert (answer.get("X-GoModel-Provider"), len(one.requests)) == ("vllm-a", 1)


@pytest.mark.parametrize("provider", ["VLLM", "vllm-none", "openai", "vllm%2Dtest", "vllm%20test"])
async def test_a_provider_that_is_none_is_a_404(pair, connect, provider):
    handle, one, other = pair
    message = own_error(
        await ask(await connect(handle), request("GET", f"/p/{provider}/version")),
        404,
        "not_found",
        "invalid_request_error",
    )
    assert message.startswith("No instance is named '")
    assert message.endswith("'; there are: vllm, vllm-test.")
    assert one.connections + other.connections == []


@pytest.mark.parametrize("path", ["/p", "/p/", "/p/vllm", "/p/vllm/", "/p//version"])
async def test_a_path_without_a_provider_or_a_rest_is_a_404(pair, connect, path):
    handle, one, _ = pair
    answer = await ask(await connect(handle), request("GET", path))
    assert (answer.status, one.connections) == (404, [])


# What follows /p/vllm/ -> what reaches the instance.
PATHS = {
    "chat/completions": "/v1/chat/completions",
    "v1/chat/completions": "/v1/chat/completions",
    "v1/models": "/v1/models",
    "models": "/v1/models",
    "v1/files/abc/content": "/v1/files/abc/content",
    "batches": "/v1/batches",
    "tokenize": "/tokenize",
    "v1/tokenize": "/tokenize",
    "v1/version": "/version",
    "v1/tokenizer_info": "/tokenizer_info",
    "health": "/health",
    "metrics": "/metrics",
    "v2/rerank": "/v2/rerank",
    "inference/v1/generate": "/inference/v1/generate",
    "openapi.json": "/openapi.json",
    "v1/new-family/x": "/v1/new-family/x",
    "a//b/": "/a//b/",
    "v1/models/": "/v1/models/",
    "a%2Fb%2fc%20d%C3%A9": "/a%2Fb%2fc%20d%C3%A9",
    "a;b=c/d,e": "/a;b=c/d,e",
    "a/...//.b": "/a/...//.b",
    "~!$&'()*+,;=:@-._": "/~!$&'()*+,;=:@-._",
    "x?": "/x?",
    "x?a=%2F..&b=+&&c=?/%e9": "/x?a=%2F..&b=+&&c=?/%e9",
    'x?a=\\^`{|}"<>': '/x?a=\\^`{|}"<>',
    "files?path=../../etc": "/v1/files?path=../../etc",
}


@pytest.mark.parametrize("rest", PATHS)
async def test_path_and_query_arrive_byte_for_byte(pair, connect, rest):
    handle, one, _ = pair
    answer = await ask(await connect(handle), request("GET", f"/p/vllm/{rest}"))
    assert answer.status == 200
    seen = (one.requests + one.probes)[0]
    assert seen.raw.split(b" ")[1] == PATHS[rest].encode()


DOTS = ["../x", "a/../b", "a/..", ".", "a/./b", "%2e%2e/x", "a/%2E./b", "a/..%2fb", "a/..;x/b"]


@pytest.mark.parametrize("rest", [*DOTS, "a\\b", "a%5cb", "a%00", "a%0ab", "a%7f", "a#b", "a%", "a%zz", "x?a#b"])
async def test_a_path_that_servers_read_differently_is_a_400(pair, connect, rest):
    handle, one, _ = pair
    answer = await ask(await connect(handle), request("GET", f"/p/vllm/{rest}"))
    assert answer.status == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert one.connections == []


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "QUERY"])
@pytest.mark.parametrize(
    "body", [None, b"", BINARY, [BINARY[:7], BINARY[7:]]], ids=["none", "empty", "length", "chunked"]
)
async def test_every_method_passes_with_its_body_and_its_framing(pair, connect, method, body):
    handle, one, _ = pair
    answer = await ask(await connect(handle), request(method, "/p/vllm/some/where", [("Content-Type", "x/y")], body))
    assert answer.status == 200
    (seen,) = one.requests
    assert (seen.method, seen.target, seen.get("Content-Type")) == (method, "/some/where", "x/y")
    assert seen.body == (b"" if body is None else BINARY if body else b"")
    assert seen.get("Content-Length") == (str(len(body)) if isinstance(body, bytes) else None)
    assert seen.get("Transfer-Encoding") == ("chunked" if isinstance(body, list) else None)


async def test_head_passes_and_its_answer_has_no_body(pair, connect):
    handle, one, _ = pair
    one.on_request(head(200, [("Content-Length", "12345"), ("X-A", "b")]))
    client = await connect(handle)
    answer = await ask(client, request("HEAD", "/p/vllm/version"), "HEAD")
    assert (answer.status, answer.get("Content-Length"), answer.get("X-A"), answer.body) == (200, "12345", "b", b"")
    assert (answer.complete, one.requests[0].method) == (True, "HEAD")
    assert (await ask(client, request("GET", "/p/vllm/version"))).status == 200
    assert len(one.connections) == 1


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
async def test_trace_and_connect_are_not_passed(pair, connect, method):
    handle, one, _ = pair
    answer = await ask(await connect(handle), request(method, "/p/vllm/version"), "GET")
    assert (answer.status, one.connections) == (405 if method == "TRACE" else answer.status, [])
    assert answer.status in (400, 405)
    if method == "TRACE":
        assert answer.get("Allow") == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


async def test_an_unusual_method_opens_no_closed_route_and_none_outside_passthrough(pair, connect):
    handle, one, _ = pair
    client = await connect(handle)
    assert (await ask(client, request("PROPFIND", "/p/vllm/sleep"))).status == 403
    answer = await ask(client, request("PROPFIND", "/v1/models"))
    assert (answer.status, answer.get("Allow"), one.connections) == (405, "GET, HEAD", [])


@pytest.mark.parametrize("status", [204, 304])
async def test_an_answer_without_a_body_passes(pair, connect, status):
    handle, one, _ = pair
    one.on_request(head(status, [("X-A", "b")], "Quiet"))
    client = await connect(handle)
    answer = await ask(client, request("DELETE", "/p/vllm/files/x"), "DELETE")
    assert (answer.status, answer.reason, answer.get("X-A"), answer.complete) == (status, "Quiet", "b", True)
    assert (answer.get("Content-Length"), answer.get("Transfer-Encoding")) == (None, None)
    assert (await ask(client, request("GET", "/p/vllm/version"))).status == 200


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_twenty_megabytes_pass_both_ways_in_pieces(pair, connect, framing):
    handle, one, _ = pair
    body = BINARY * 10_000
    if framing == "length":
        one.on_request(response(body, 200, [("Content-Type", "application/octet-stream")]))
    else:
        one.on_request(head(200, [("Transfer-Encoding", "chunked")]) + chunked(body[:9], body[9:]) + LAST_CHUNK)
    client = await connect(handle)
    pieces = [body[at : at + 1_000_000] for at in range(0, len(body), 1_000_000)]
    answer = await ask(client, request("POST", "/p/vllm/blob", body=body if framing == "length" else pieces))
    (seen,) = one.requests
    assert hashlib.sha256(seen.body).digest() == hashlib.sha256(body).digest() == hashlib.sha256(answer.body).digest()
    expected = (str(len(body)), None) if framing == "length" else (None, "chunked")
    assert (seen.get("Content-Length"), seen.get("Transfer-Encoding")) == expected
    assert (answer.get("Content-Length"), answer.get("Transfer-Encoding")) == expected


async def test_a_body_is_not_limited_nor_looked_into(gateway, upstream, connect):
    upstream.on_request(OK)
    handle = await gateway(vllm=upstream, BODY_SIZE_LIMIT="1K")
    body = b'{"model":"vllm-b/x","model":"y",' + b"\xff" * 5000
    answer = await ask(await connect(handle), request("POST", "/p/vllm/v1/chat/completions", body=body))
    assert (answer.status, upstream.requests[0].body) == (200, body)


async def test_both_directions_stream_at_once(pair, connect):
    handle, one, _ = pair
    go_on = asyncio.Event()
    one.on_request(
        ReadHead(), ReadBody(5), SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(go_on), ReadBody(10), LAST_CHUNK
    )
    client = await connect(handle)
    await client.send(request("POST", "/p/vllm/echo", [("Content-Length", "10")]) + b"12345")
    await client.read_head()
    assert await client.read_chunk() == b"data: 1\n\n"
    go_on.set()
    await client.send(b"67890")
    answer = await client.read_rest()
    assert (answer.complete, one.requests[0].body) == (True, b"1234567890")


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_client_that_leaves_frees_the_instance_whatever_the_method(gateway, upstream, connect, how):
    handle, one = await gateway(vllm=upstream, HTTP_RESPONSE_HEADER_TIMEOUT="60s"), upstream
    for raw in (request("GET", "/p/vllm/x"), request("DELETE", "/p/vllm/x"), request("PUT", "/p/vllm/x", body=b"a")):
        one.on_request(Stall())
        client = await connect(handle)
        number = len(one.requests) + 1
        await client.send(raw)
        seen = await one.wait_for_request(number)
        client.reset() if how == "reset" else client.fin()
        await seen.connection.closed
    await turned(lambda: not handle.gateway.telemetry.running.records)


async def test_a_redirect_and_an_error_of_the_instance_pass_unfollowed(pair, connect):
    handle, one, _ = pair
    client = await connect(handle)
    for status in (301, 307, 400, 404, 405, 500, 503):
        one.on_request(
            response(b"as it is", status, [("Location", "http://elsewhere.test/v1/models"), ("Allow", "GET")])
        )
        answer = await ask(client, request("POST", "/p/vllm/v1/models/", body=b"x"))
        assert (answer.status, answer.body, answer.get("Allow")) == (status, b"as it is", "GET")
        assert answer.get("Location") == "http://elsewhere.test/v1/models"
    assert len(one.requests) == 7
