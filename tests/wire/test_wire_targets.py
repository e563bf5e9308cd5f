"""Where a request target leads, seen from the instance: below the instance's base or nowhere (contract sections 5, 6).

What is accepted goes on byte for byte; what two servers could read as different paths is refused. Nothing is
redirected, and no spelling of an administrative route slips by.
"""

import json

import pytest

from gomodel.routes.vllm_routes import ADMIN_ROUTES

from ..harness.scripted import head, request, response
from ..harness.verdicts import OK

BODY = json.dumps({"model": "m"}).encode()

# Sent -> what the instance gets, with the prefix /api of its base URL /api/v1.
FORWARDED = [
    ("GET", "http://evil.test/p/vllm/version", "/api/version"),
    ("GET", "HTTP://evil.test:99/p/vllm/version?x=http://y/", "/api/version?x=http://y/"),
    ("GET", "https://evil.test/p/vllm/v1/models", "/api/v1/models"),
    ("GET", "/p/vllm//evil.test/a", "/api//evil.test/a"),
    ("GET", "/p/vllm/http://evil.test/a", "/api/http://evil.test/a"),
    ("GET", "/p/vllm/a%2Fb%2fc", "/api/a%2Fb%2fc"),
    ("GET", "/p/vllm/v1/files/a%2Fb", "/api/v1/files/a%2Fb"),
    ("GET", "/p/vllm/%41%7e~", "/api/%41%7e~"),
    ("GET", "/p/vllm/a;b=1,c/@:!$&'()*+=-._", "/api/a;b=1,c/@:!$&'()*+=-._"),
    ("GET", "/p/vllm/x?x=1;y=2&z=a+b%20c&%2B=%26&x=2&&=", "/api/x?x=1;y=2&z=a+b%20c&%2B=%26&x=2&&="),
    ("GET", "/p/vllm/x?", "/api/x?"),
    ("GET", "/p/vllm/x?%zz&%&../..?\\%00", "/api/x?%zz&%&../..?\\%00"),
    ("GET", "/p/vllm/x/...", "/api/x/..."),
    ("GET", "/p/vllm-b/x", "/b/x"),
    ("GET", "/p/vllm/v1/models", "/api/v1/models"),
    ("GET", "/p/vllm/models", "/api/v1/models"),
    ("GET", "/p/vllm/v1/tokenize", "/api/tokenize"),
    ("POST", "/p/vllm/v2/rerank", "/api/v2/rerank"),
    ("POST", "/p/vllm/chat/completions/", "/api/v1/chat/completions/"),
    ("POST", "/v1/chat/completions?a=%2F&a=b", "/api/v1/chat/completions?a=%2F&a=b"),
    ("POST", "http://evil.test/v1/chat/completions", "/api/v1/chat/completions"),
    ("POST", "/v1/brand/new", "/api/v1/brand/new"),
    ("POST", "/v2/rerank", "/api/v2/rerank"),
    ("POST", "/tokenize?x", "/api/tokenize?x"),
    ("OPTIONS", "/p/vllm/x", "/api/x"),
    ("PATCH", "/p/vllm/x", "/api/x"),
    ("DELETE", "/p/vllm/v1/responses/resp_1", "/api/v1/responses/resp_1"),
]

BAD = [
    *("/p/vllm/../../v1/models", "/p/vllm/..", "/p/vllm/./x", "/p/vllm/%2e%2e/x", "/p/vllm/.%2E/x", "/p/vllm/..;/x"),
    *("/p/vllm/a%2f..%2fb", "/p/vllm/%2e", "/p/../health", "/v1/../metrics", "/.."),
    *("/p/vllm/a\\b", "/p/vllm/a%5cb", "/p/vllm/a%5Cb", "/p/vllm/..\\x"),
    *("/p/vllm/a%00", "/p/vllm/a%0d%0aX:1", "/p/vllm/a%1f", "/p/vllm/a%7F"),
    *("/p/vllm/a%zz", "/p/vllm/a%4", "/p/vllm/a%"),
    *("/a#frag", "/p/vllm/x#", "/p/vllm/x?a#b", "/p/vllm/\x80", "/p/vllm/x?\xff", "/p/vllm/\xc3\xa9"),
    *("*", "x:80", "a/b", "http:///x", "ftp://x/y", "http://u:p@x/p/vllm/version", "http://", "?x"),
]
ABSENT = [
    *("//evil.test/a", "//v1/models", "/v1//models", "/v1/chat/completions/", "/v1", "/v1/", "/V1/models", "/nothing"),
    *("/p", "/p/", "/p/vllm", "/p/vllm/", "/p/VLLM/x", "/p/nobody/x", "/p/vllm%2Fx", "/p//x", "/p/vllm-b", "/health/"),
]


@pytest.fixture
async def served(gateway, make_upstream, connect):
    """A client, and the upstreams behind the instances vllm (below /api/v1) and vllm-b (below /b/v1)."""
    upstreams = [await make_upstream(), await make_upstream()]
    for each in upstreams:
        each.repeat(OK)
    bases = [f"http://127.0.0.1:{each.port}/{path}/v1" for each, path in zip(upstreams, ("api", "b"), strict=True)]

    async def serve(**settings: str):
        handle = await gateway(vllm=bases[0], vllm_b=bases[1], VLLM_MODELS="m", VLLM_B_MODELS="n", **settings)
        return await connect(handle), upstreams

    return serve


async def ask(client, method, target, fields=()):
    body = BODY if method in ("POST", "PATCH") else None
    await client.send(request(method, target, fields, body))
    return await client.read_response(method)


async def test_an_accepted_target_goes_below_the_instances_base_byte_for_byte(served):
    client, upstreams = await served()
    for method, target, sent in FORWARDED:
        answer = await ask(client, method, target)
        upstream = upstreams[sent.startswith("/b/")]
        got = upstream.requests.pop()
        assert (answer.status, got.method, got.target) == (200, method, sent)
        assert got.get_all("Host") == [f"127.0.0.1:{upstream.port}"]
        assert [each.requests for each in upstreams] == [[], []]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_target_that_servers_read_differently_is_a_400(gateway, upstream, connect, method):
    handle = await gateway(vllm=upstream)
    for target in BAD:
        client = await connect(handle)  # some of them are no HTTP at all, which ends the connection
        await client.send(f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode("latin-1"))
        answer = await client.read_response()
        assert (answer.status, answer.json()["error"]["type"]) == (400, "invalid_request_error"), target
    assert upstream.connections == []


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_what_is_nowhere_is_a_404_and_no_redirect(served, method):
    client, upstreams = await served()
    for target in ABSENT:
        answer = await ask(client, method, target)
        assert (answer.status, answer.get("Location"), answer.end) == (404, None, "keepalive"), target
        assert answer.body == b"" if method == "HEAD" else answer.json()["error"]["code"] == "not_found"
    assert [each.connections for each in upstreams] == [[], []]


def spellings(name: str) -> list[str]:
    encoded = f"%{ord(name[0]):02X}{name[1:]}"
    forms = [name, f"v1/{name}", f"{name}/", f"{name}/x", f"{name}?x=1", encoded, f"v1/{encoded}", f"v1%2F{name}"]
    return [*forms, f"/{name}", f"v1//{name}", f"{name};a=b", f"{name};", f"prefix/{name}", f"%2F{name}"]


@pytest.mark.parametrize("name", sorted(ADMIN_ROUTES))
async def test_no_spelling_of_an_administrative_route_passes_and_the_403_names_the_switch(served, name):
    client, upstreams = await served()
    for method in ("GET", "POST"):
        for spelling in spellings(name):
            answer = await ask(client, method, f"/p/vllm/{spelling}")
            assert (answer.status, answer.json()["error"]["code"]) == (403, "admin_route_closed"), spelling
            assert "PASSTHROUGH_ADMIN_ROUTES=true" in answer.json()["error"]["message"]
    for target in (
        f"/v1/{name}",
        f"/{name}",
        f"/v2/{name}",
        f"/inference/{name}",
        f"/v1/%{ord(name[0]):02x}{name[1:]}",
    ):
        assert (await ask(client, "POST", target)).status == 404
    assert [each.connections for each in upstreams] == [[], []]


async def test_the_switch_opens_administrative_routes_below_p_only(served):
    client, upstreams = await served(PASSTHROUGH_ADMIN_ROUTES="true")
    for target in ("/p/vllm/sleep?level=1", "/p/vllm/v1/load_lora_adapter"):
        assert (await ask(client, "POST", target)).status == 200
    for target in ("/v1/load_lora_adapter", "/v1/sleep", "/sleep"):
        assert (await ask(client, "POST", target)).status == 404
    assert [each.target for each in upstreams[0].requests] == ["/api/sleep?level=1", "/api/v1/load_lora_adapter"]


@pytest.mark.parametrize("hops", ["0", "5"])
async def test_trace_is_never_forwarded_and_echoes_nothing(served, hops):
    client, upstreams = await served()
    routes = {"/p/vllm/x": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT", "/v1/models": "GET, HEAD"}
    routes |= {"/v1/score": "POST", "/v1/x": "DELETE, GET, HEAD, PATCH, POST, PUT"}
    for target in (*routes, "/nothing", "*"):
        fields = [("Max-Forwards", hops), ("Authorization", "Bearer canary"), ("X-Secret", "canary")]
        answer = await ask(client, "TRACE", target, fields)
        if target == "*":
            assert answer.status == 400
            continue
        assert (answer.status, b"canary" in answer.raw) == (405, False)
        assert answer.get("Allow") == routes.get(target, "GET, POST")
    assert [each.connections for each in upstreams] == [[], []]


async def test_connect_opens_no_tunnel_and_what_follows_it_is_not_served(served):
    client, upstreams = await served()
    await client.send(b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n" + request("GET", "/p/vllm/x"))
    answer = await client.read_response()
    assert (answer.status, answer.json()["error"]["code"]) == (405, "method_not_allowed")
    assert await client.read_all_until_close() == b""
    assert [each.connections for each in upstreams] == [[], []]


async def test_options_of_the_server_as_a_whole_lists_the_methods(served):
    client, upstreams = await served()
    answer = await ask(client, "OPTIONS", "*")
    assert (answer.status, answer.body, answer.end) == (204, b"", "keepalive")
    assert "POST" in answer.get("Allow").split(", ")
    assert [each.connections for each in upstreams] == [[], []]


@pytest.mark.parametrize(
    ("target", "allow"),
    [
        ("/", "GET, HEAD, OPTIONS"),
        ("/v1/chat/completions", "POST, OPTIONS"),
        ("/v1/models/m", "GET, HEAD, OPTIONS"),
        ("/v1/threads", "DELETE, GET, HEAD, PATCH, POST, PUT, OPTIONS"),
    ],
)
async def test_options_of_a_route_lists_its_methods_and_goes_nowhere(served, target, allow):
    client, upstreams = await served()
    answer = await ask(client, "OPTIONS", target)
    assert (answer.status, answer.body, answer.get("Allow"), answer.end) == (204, b"", allow, "keepalive")
    assert (await ask(client, "OPTIONS", "/nothing")).status == 404
    assert [each.connections for each in upstreams] == [[], []]


async def test_a_wrong_method_is_a_405_that_says_which_is_right(served):
    client, upstreams = await served()
    for method, target, allow in (("GET", "/v1/completions", "POST"), ("POST", "/health", "GET, HEAD")):
        answer = await ask(client, method, target)
        assert (answer.status, answer.get("Allow")) == (405, allow)
        assert answer.json()["error"]["code"] == "method_not_allowed"
    assert [each.connections for each in upstreams] == [[], []]


async def test_a_redirect_of_the_instance_is_passed_on_not_followed(served):
    client, upstreams = await served()
    away = head(307, [("Location", "http://elsewhere.test:1/x"), ("Content-Length", "0")])
    upstreams[0].on_request(away)
    answer = await ask(client, "POST", "/p/vllm/x")
    assert (answer.status, answer.get("Location")) == (307, "http://elsewhere.test:1/x")
    upstreams[0].on_request(response(b"", 302, [("Location", "//evil.test/")]))
    assert (await ask(client, "GET", "/p/vllm/x")).get("Location") == "//evil.test/"
    assert len(upstreams[0].requests) == 2
