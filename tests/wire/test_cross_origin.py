"""Pages of other origins: let in by CORS_ALLOW_ORIGINS, kept out of a gateway that has no key."""

import pytest

from gomodel.http1.origins import Origins, is_loopback, is_private_name, same_site

from ..harness.scripted import SSE_HEAD, Stall, chunked, head, request, response, sse_event
from ..harness.tunnels import ACCEPTED, OFFER, handshake
from ..harness.verdicts import CHAT, OK, ask, own_error, post

KEY = "sk-master"
APP, OTHER = "https://app.example", "https://other.example"
WITH_KEY = [("Authorization", f"Bearer {KEY}")]
# What a browser asks before a page may send JSON and a key.
PREFLIGHT = [
    ("Access-Control-Request-Method", "POST"),
    ("Access-Control-Request-Headers", "authorization,content-type,x-stainless-os"),
]


def preflight(target: str = CHAT, origin: str = APP, *more: tuple[str, str]) -> bytes:
    return request("OPTIONS", target, [("Origin", origin), *PREFLIGHT, *more])


def control(answer) -> dict[str, list[str]]:
    """Its Access-Control fields."""
    found: dict[str, list[str]] = {}
    for name, value in answer.headers:
        if name.lower().startswith("access-control-"):
            found.setdefault(name.lower().removeprefix("access-control-"), []).append(value)
    return found


@pytest.fixture
async def shared(gateway, upstream, connect):
    """A client of a gateway with a key, whose API pages of APP may use."""
    upstream.repeat(OK)
    return await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY, CORS_ALLOW_ORIGINS=f"{APP},null"))


@pytest.mark.parametrize("target", [CHAT, "/v1/models", "/p/vllm/v1/chat/completions", "/v1/messages", "/nothing", "/"])
async def test_a_preflight_is_answered_without_a_key_and_never_passed_on(shared, upstream, target):
    answer = await ask(shared, preflight(target), "OPTIONS")
    assert (answer.status, answer.body, answer.end) == (204, b"", "keepalive")
    assert control(answer) == {
        "allow-origin": [APP],
        "allow-methods": ["DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"],
        "allow-headers": ["authorization,content-type,x-stainless-os"],
        "max-age": ["7200"],
        "expose-headers": ["*"],
    }
    assert "Origin" in answer.get("Vary").split(", ")
    assert upstream.connections == []


async def test_a_preflight_for_the_visitors_own_network_is_answered_as_such(shared):
    answer = await ask(shared, preflight(CHAT, APP, ("Access-Control-Request-Private-Network", "true")), "OPTIONS")
    assert control(answer)["allow-private-network"] == ["true"]


@pytest.mark.parametrize("origin", [OTHER, APP + ":8443", APP + ".evil.example", "http://app.example", "*"])
async def test_a_preflight_of_another_origin_is_refused_and_says_which_variable_to_set(shared, origin):
    answer = await ask(shared, preflight(CHAT, origin), "OPTIONS")
    message = own_error(answer, 403, "origin_not_allowed", "permission_error")
    assert "CORS_ALLOW_ORIGINS" in message
    assert (control(answer), answer.get("Vary")) == ({}, "Origin")


async def test_an_options_request_that_is_no_preflight_is_like_any_other(shared, upstream):
    assert (await ask(shared, request("OPTIONS", CHAT, [("Origin", APP)]))).status == 401
    assert (await ask(shared, request("OPTIONS", CHAT, PREFLIGHT))).status == 401
    answer = await ask(shared, request("OPTIONS", "/p/vllm/x", [("Origin", APP), *WITH_KEY]))
    assert (answer.status, upstream.requests[0].method) == (200, "OPTIONS")


async def test_what_the_page_wants_to_send_is_not_repeated_when_it_is_no_list_of_names(shared):
    fields = [("Origin", APP), PREFLIGHT[0], ("Access-Control-Request-Headers", 'a"b')]
    answer = await ask(shared, request("OPTIONS", CHAT, fields), "OPTIONS")
    assert (answer.status, "allow-headers" in control(answer)) == (204, False)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (request("GET", "/v1/models", [("Origin", APP)]), 401),
        (request("GET", "/v1/models", [("Origin", APP), *WITH_KEY]), 200),
        (request("GET", "/nothing", [("Origin", APP), *WITH_KEY]), 404),
        (request("GET", CHAT, [("Origin", APP), *WITH_KEY]), 405),
        (request("GET", "/health", [("Origin", APP)]), 200),
        (request("POST", CHAT, [("Origin", APP), *WITH_KEY], b"{"), 400),
        (post(headers=[("Origin", APP), *WITH_KEY]), 200),
        (request("GET", "/p/vllm/x", [("Origin", APP), *WITH_KEY]), 200),
    ],
)
async def test_a_page_may_read_every_answer_errors_of_the_gateway_too(shared, raw, status):
    answer = await ask(shared, raw)
    assert answer.status == status
    assert control(answer) == {"allow-origin": [APP], "expose-headers": ["*"]}
    assert answer.get("Vary") == "Origin"


@pytest.mark.parametrize("origin", [None, OTHER])
async def test_other_origins_may_not_read_and_no_cache_may_confuse_them(shared, origin):
    fields = [("Origin", origin)] if origin else []
    for raw in (post(headers=[*fields, *WITH_KEY]), request("GET", "/v1/models", fields)):
        answer = await ask(shared, raw)
        assert (control(answer), answer.get("Vary")) == ({}, "Origin")


async def test_what_an_instance_says_of_origins_is_replaced(shared, upstream):
    fields = [("access-control-allow-origin", "*"), ("Access-Control-Allow-Credentials", "true"), ("Vary", "Accept")]
    upstream.on_request(response(b"{}", 200, fields))
    answer = await ask(shared, post(headers=[("Origin", APP), *WITH_KEY]))
    assert control(answer) == {"allow-origin": [APP], "expose-headers": ["*"]}
    assert answer.get_all("Vary") == ["Accept", "Origin"]
    upstream.on_request(response(b"{}", 200, fields))
    assert control(await ask(shared, post(headers=[("Origin", OTHER), *WITH_KEY]))) == {}


async def test_without_the_variable_an_instances_own_fields_pass_and_none_is_added(gateway, upstream, connect):
    upstream.on_request(response(b"{}", 200, [("Access-Control-Allow-Origin", "*")]))
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY))
    answer = await ask(client, post(headers=[("Origin", APP), *WITH_KEY]))
    assert (control(answer), answer.get("Vary")) == ({"allow-origin": ["*"]}, None)
    assert (await ask(client, preflight())).status == 401
    assert upstream.requests[0].get("Origin") == APP


async def test_every_origin_may_be_allowed_and_answers_are_then_the_same_for_all(gateway, upstream, connect):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, CORS_ALLOW_ORIGINS="*"))
    for fields in ([], [("Origin", APP)], [("Origin", "null")]):
        answer = await ask(client, post(headers=fields))
        assert (answer.status, control(answer)) == (200, {"allow-origin": ["*"], "expose-headers": ["*"]})
        assert answer.get("Vary") is None
    assert (await ask(client, preflight(), "OPTIONS")).status == 204


async def test_a_stream_may_be_read_by_a_page(shared, upstream):
    upstream.on_request(SSE_HEAD + chunked(sse_event("x")) + b"0\r\n\r\n")
    answer = await ask(shared, post(headers=[("Origin", APP), *WITH_KEY]))
    assert (answer.status, control(answer)["allow-origin"], answer.body) == (200, [APP], sse_event("x"))


# Without a master key from here on.
SELF = "http://gateway.test"


@pytest.mark.parametrize("origin", [APP, "null", "http://127.0.0.1:8081", "http://gateway.test:1", "file://", ""])
@pytest.mark.parametrize("target", [CHAT, "/admin/requests", "/v1/models", "/p/vllm/x", "/nothing"])
async def test_without_a_key_a_page_of_another_site_is_refused(gateway, upstream, connect, origin, target):
    client = await connect(await gateway(vllm=upstream))
    raw = request("POST", target, [("Origin", origin), ("Content-Type", "text/plain")], b'{"model":"vllm/m"}')
    message = own_error(await ask(client, raw), 403, "origin_not_allowed", "permission_error")
    assert "CORS_ALLOW_ORIGINS" in message
    assert "GOMODEL_MASTER_KEY" in message
    assert upstream.connections == []


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("gateway.test", SELF),
        ("gateway.test:80", SELF),
        ("Gateway.Test", "https://gateway.test"),
        ("localhost:8080", "http://localhost:8080"),
        ("[::1]:8080", "http://[::1]:8080"),
    ],
)
async def test_without_a_key_the_gateways_own_page_is_served(gateway, upstream, connect, host, origin):
    client = await connect(await gateway(vllm=upstream))
    answer = await ask(client, request("DELETE", "/admin/requests/none", [("Origin", origin)], host=host))
    assert answer.status == 404


async def test_without_a_key_a_websocket_of_another_site_is_refused(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    for path in ("/v1/realtime?model=vllm/m", "/p/vllm/ws"):
        client = await connect(handle)
        answer = await ask(client, handshake(path, [("Origin", APP)]))
        own_error(answer, 403, "origin_not_allowed", "permission_error")
    assert upstream.connections == []
    upstream.on_request(head(101, ACCEPTED), Stall())
    client = await connect(handle)
    await client.send(handshake("/p/vllm/ws", [("Origin", SELF)]))
    assert (await client.read_head()).status == 101


REBOUND = ["rebound.example", "rebound.example:8080", "127.0.0.1.rebound.example", "localhost.example", "10.example."]
LOCAL = [
    "localhost",
    "LOCALHOST:8080",
    "app.localhost",
    "127.0.0.1:8080",
    "[::1]:8080",
    "10.0.0.7",
    "host.docker.internal",
    "box",
    "box.local:1",
]


@pytest.mark.parametrize("host", REBOUND)
async def test_without_a_key_a_name_that_was_made_to_lead_here_is_refused_on_loopback(gateway, upstream, connect, host):
    client = await connect(await gateway(vllm=upstream))
    for fields in ([], [("Origin", f"http://{host}")]):
        answer = await ask(client, request("GET", "/v1/models", fields, host=host))
        assert "CORS_ALLOW_ORIGINS" in own_error(answer, 403, "origin_not_allowed", "permission_error")
    assert (await ask(client, request("GET", "/health", host=host))).status == 200
    assert upstream.connections == []


@pytest.mark.parametrize("host", [*LOCAL, None, ""])
async def test_names_that_nobody_can_make_lead_here_are_served(gateway, upstream, connect, host):
    client = await connect(await gateway(vllm=upstream))
    raw = request("GET", "/v1/models", host=host)
    answer = await ask(client, raw if host is not None else raw.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert answer.status == 200


@pytest.mark.parametrize(
    "settings",
    [
        {"HOST": "0.0.0.0"},
        {"GOMODEL_MASTER_KEY": KEY},
        {"CORS_ALLOW_ORIGINS": f"{APP},http://rebound.example"},
        {"CORS_ALLOW_ORIGINS": "*"},
    ],
)
async def test_any_name_is_served_to_other_machines_with_a_key_or_where_it_is_an_allowed_origin(
    gateway, upstream, connect, settings
):
    client = await connect(await gateway(vllm=upstream, **settings))
    answer = await ask(client, request("GET", "/v1/models", WITH_KEY, host="rebound.example"))
    assert answer.status == 200


async def test_over_a_unix_socket_any_name_is_served(gateway, upstream, connect, tmp_path):
    path = str(tmp_path / "gateway")
    await gateway(vllm=upstream, GOMODEL_UNIX_SOCKET=path)
    client = await connect(path=path)
    assert (await ask(client, request("GET", "/v1/models", host="rebound.example"))).status == 200


async def test_an_allowed_page_may_use_a_gateway_without_a_key(gateway, upstream, connect):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, CORS_ALLOW_ORIGINS=APP))
    assert (await ask(client, post(headers=[("Origin", APP)]))).status == 200
    answer = await ask(client, post(headers=[("Origin", OTHER)]))
    assert (answer.status, control(answer)) == (403, {})


@pytest.mark.parametrize("host", [each.encode() for each in LOCAL])
def test_a_private_name_is_an_address_or_in_no_public_zone(host):
    assert is_private_name(host)


@pytest.mark.parametrize("host", [each.encode() for each in REBOUND])
def test_a_public_name_is_none(host):
    assert not is_private_name(host)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.0.1.1", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("box", False),
    ],
)
def test_only_loopback_is_reached_from_this_machine_alone(host, expected):
    assert is_loopback(host) is expected


def test_an_origin_is_compared_without_case_and_default_port():
    assert same_site(b"HTTPS://A.test", b"a.TEST:443")
    assert not same_site(b"https://a.test:8443", b"a.test")
    assert not same_site(b"null", b"a.test")
    assert Origins(["https://a.test"]).allow(b"HTTPS://A.TEST")


async def test_a_websocket_with_the_key_of_a_page_opens_whatever_its_origin(gateway, upstream, connect):
    """OpenAI's name for it; the key goes no further, and a protocol is chosen, which browsers insist on."""
    upstream.lenient = True
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY, VLLM_API_KEY="theirs")
    offer = [("Origin", APP), ("Sec-WebSocket-Protocol", f"realtime, openai-insecure-api-key.{KEY}, openai-beta.v1")]
    for number, (path, chosen, expected) in enumerate(
        [
            ("/v1/realtime?model=vllm/m", [], ["realtime"]),
            ("/p/vllm/v1/realtime", [("sec-websocket-protocol", "openai-beta.v1")], ["openai-beta.v1"]),
        ]
    ):
        upstream.on_request(head(101, [*ACCEPTED, *chosen]), Stall())
        client = await connect(handle)
        await client.send(handshake(path, offer))
        answer = await client.read_head()
        assert (answer.status, answer.get_all("Sec-WebSocket-Protocol")) == (101, expected)
        asked = upstream.requests[number]
        assert (asked.get("Sec-WebSocket-Protocol"), asked.get("Authorization")) == (
            "realtime, openai-beta.v1",
            "Bearer theirs",
        )
        assert KEY.encode() not in asked.raw + answer.raw
        client.reset()
    assert KEY not in handle.logs.text


async def test_a_websocket_that_offers_the_key_alone_is_given_no_protocol(gateway, upstream, connect):
    """Naming it would say the key once more; browsers then fail, so their pages offer `realtime` as well."""
    upstream.lenient = True
    upstream.on_request(head(101, ACCEPTED), Stall())
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=KEY))
    await client.send(handshake("/p/vllm/ws", [("Sec-WebSocket-Protocol", f"openai-insecure-api-key.{KEY}")]))
    answer = await client.read_head()
    assert (answer.status, answer.get("Sec-WebSocket-Protocol")) == (101, None)
    assert upstream.requests[0].get("Sec-WebSocket-Protocol") is None


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
async def test_a_websocket_on_a_plain_route_is_a_426_which_agents_read_as_use_http(gateway, upstream, connect, path):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    answer = await ask(await connect(handle), request("GET", path, OFFER))
    own_error(answer, 426, "websocket_not_served", "invalid_request_error")
    assert answer.get("Upgrade")
    client = await connect(handle)
    assert (await ask(client, request("GET", path))).status == 405
    assert (await ask(client, post(path))).status == 200
