"""Which fields of a request reach the instance: all that are end-to-end, byte for byte and in order, and no other.

Every comparison is with the exact head on the wire, so that whatever gomodel invents or rewrites shows (RFC 9110 7.6,
contract section 7).
"""

import re

import pytest

from ..harness.scripted import RawClient, ScriptedUpstream, chunked, head, request, response

OK = response(b"ok")
KEY = "sk-instance-key"
HOP_BY_HOP = [
    ("Keep-Alive", "timeout=5"),
    ("Proxy-Connection", "canary"),
    ("Proxy-Authenticate", "canary"),
    ("Proxy-Authorization", "canary"),
    ("TE", "trailers"),
    ("Trailer", "X-canary"),
    ("Upgrade", "canary"),
    ("HTTP2-Settings", "canary"),
]
CREDENTIALS = ["Authorization", "X-Api-Key", "api-key", "Cookie", "Proxy-Authorization"]


async def exchange(
    client: RawClient, upstream: ScriptedUpstream, fields: list[tuple[str, str]], body: bytes | None = None
) -> bytes:
    """The raw head that the instance got for a request with these fields."""
    upstream.on_request(OK)
    await client.send(request("GET" if body is None else "POST", "/p/vllm/tokenize", fields, body))
    answer = await client.read_response()
    assert (answer.status, answer.body) == (200, b"ok"), answer.raw
    return upstream.requests[-1].head


def expected(upstream: ScriptedUpstream, *lines: str, request_id: str, start: str = "GET /tokenize") -> bytes:
    all_lines = [f"{start} HTTP/1.1", f"Host: 127.0.0.1:{upstream.port}", *lines, f"X-Request-Id: {request_id}"]
    return ("\r\n".join(all_lines) + "\r\n\r\n").encode("latin-1")


async def test_nothing_is_invented(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream))
    got = await exchange(client, upstream, [("X-Request-Id", "r")])
    assert got == expected(upstream, request_id="r")
    got = await exchange(client, upstream, [("X-Request-Id", "r")], b"")
    assert got == expected(upstream, "Content-Length: 0", request_id="r", start="POST /tokenize")


async def test_what_is_end_to_end_keeps_order_case_duplicates_and_every_byte(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream))
    fields = [
        ("user-AGENT", "x"),
        ("X-b", "3"),
        ("ACCEPT", "text/event-stream, */*;q=0.1"),
        ("x-A", 'a,b ;c="d, e"\t\\'),
        ("X-B", "1"),
        ("Accept-Encoding", "gzip;q=0, br"),
        ("Content-Encoding", "gzip"),
        ("Range", "bytes=0-1"),
        ("If-None-Match", 'W/"x"'),
        ("Via", "1.1 front"),
        ("Forwarded", "for=192.0.2.1;proto=https"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-For", "192.0.2.2"),
        ("X-Real-IP", "192.0.2.1"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("X-Empty", ""),
        ("X-b", "2"),
        ("X-Latin", "a\xff\x80\xe9b"),
        ("!#$%&'*+-.^_`|~09aZ", "token"),
    ]
    got = await exchange(client, upstream, [*fields, ("X-Request-Id", "r")])
    assert got == expected(upstream, *(f"{name}: {value}" for name, value in fields), request_id="r")


async def test_white_space_around_a_value_is_no_part_of_it(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream))
    got = await exchange(client, upstream, [("X-A", " \t a  b\t "), ("X-Request-Id", "r")])
    assert got == expected(upstream, "X-A: a  b", request_id="r")


@pytest.mark.parametrize("field", HOP_BY_HOP, ids=lambda field: field[0])
@pytest.mark.parametrize("empty", [False, True])
async def test_hop_by_hop_fields_end_at_the_gateway_although_nobody_names_them(
    gateway, upstream, connect, field, empty
):
    client = await connect(await gateway(vllm=upstream))
    name, value = field
    fields = [(name, "" if empty else value), (name.lower(), "" if empty else value), ("X-Request-Id", "r")]
    assert await exchange(client, upstream, fields) == expected(upstream, request_id="r")


async def test_what_connection_names_ends_at_the_gateway(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream))
    fields = [
        ("Connection", "x-a,X-B , ,keep-alive"),
        ("X-A", "1"),
        ("x-b", "2"),
        ("X-C", "3"),
        ("CONNECTION", "x-D"),
        ("X-d", "4"),
        ("Traceparent", "5"),
        ("connection", "traceparent, X-Request-Id, Authorization, Cookie"),
        ("X-Request-Id", "r"),
    ]
    assert await exchange(client, upstream, fields) == expected(upstream, "X-C: 3", request_id="r")


@pytest.mark.parametrize("named", ["Content-Length", "Transfer-Encoding", "HOST", "close, host"])
async def test_connection_must_not_name_what_frames_or_routes_the_message(gateway, upstream, connect, named):
    client = await connect(await gateway(vllm=upstream))
    await client.send(request("POST", "/p/vllm/tokenize", [("Connection", named)], body=b"ab"))
    answer = await client.read_response()
    assert (answer.status, answer.end, upstream.connections) == (400, "fin", [])


@pytest.mark.parametrize(
    "offer",
    [("Upgrade", "h2c"), ("Upgrade", "websocket"), ("Upgrade", "TLS/1.0, HTTP/2.0")],
    ids=lambda offer: offer[1],
)
async def test_an_upgrade_nobody_takes_up_is_served_as_http(gateway, upstream, connect, offer):
    client = await connect(await gateway(vllm=upstream))
    fields = [("Connection", "Upgrade, HTTP2-Settings"), offer, ("HTTP2-Settings", "AAMAAABk"), ("X-Request-Id", "r")]
    got = await exchange(client, upstream, fields, b"ab")
    assert got == expected(upstream, "Content-Length: 2", request_id="r", start="POST /tokenize")
    assert upstream.requests[0].body == b"ab"
    assert await exchange(client, upstream, [("X-Request-Id", "s")]) == expected(upstream, request_id="s")
    assert len(upstream.connections) == 1


async def test_what_follows_an_unknown_upgrade_is_never_half_a_request(gateway, upstream, connect):
    """aiohttp's parser would drop what it has read behind it, here a head, and take its body for a request."""
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream))
    smuggled = request("GET", "/p/vllm/smuggled")
    offer = [("Connection", "Upgrade"), ("Upgrade", "h2c")]
    behind = request("POST", "/p/vllm/tokenize", [("Content-Length", str(len(smuggled)))])
    for body in (b"ab", b""):
        await client.send(request("POST", "/p/vllm/tokenize", offer, body=body) + behind)
        assert (await client.read_response()).status == 200
        await client.send(smuggled)
        assert (await client.read_response()).status == 200
    seen = [(each.target, each.body) for each in upstream.requests]
    assert seen == [("/tokenize", b"ab"), ("/tokenize", smuggled), ("/tokenize", b""), ("/tokenize", smuggled)]


@pytest.mark.parametrize("name", CREDENTIALS)
async def test_no_credential_of_a_client_reaches_an_instance_or_the_log(gateway, upstream, connect, name):
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY="sk-master", VLLM_API_KEY=KEY, LOG_LEVEL="debug")
    client = await connect(handle)
    known = ("x-api-key", "sk-master") if name == "Authorization" else ("Authorization", "Bearer sk-master")
    fields = [known, (name, "Bearer canary"), ("X-Request-Id", "r")]
    if name == "X-Api-Key":
        fields = [("X-Api-Key", "sk-master"), ("X-Request-Id", "r")]
    got = await exchange(client, upstream, fields)
    assert got == expected(upstream, f"Authorization: Bearer {KEY}", request_id="r")
    for secret in ("canary", "sk-master", KEY):
        assert secret not in handle.logs.text
        assert secret not in f"{handle.config!r} {handle.gateway.providers!r}"


async def test_each_instance_gets_its_own_key_and_one_without_gets_none(gateway, make_upstream, connect):
    first, second = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=first, vllm_b=second, VLLM_B_API_KEY=KEY)
    client = await connect(handle)
    for instance, upstream, own in (("vllm", first, []), ("vllm-b", second, [f"Authorization: Bearer {KEY}"])):
        upstream.on_request(OK)
        await client.send(
            request("GET", f"/p/{instance}/version", [("Authorization", "Bearer x"), ("X-Request-Id", "r")])
        )
        assert (await client.read_response()).status == 200
        assert upstream.requests[0].head == expected(upstream, *own, request_id="r", start="GET /version")


async def test_the_operators_list_of_fields_is_stripped_whatever_their_case(gateway, upstream, connect):
    names = "X-Vllm-Priority, X-data-parallel-rank ,x-session-id"
    client = await connect(await gateway(vllm=upstream, STRIP_REQUEST_HEADERS=names))
    fields = [("x-vllm-priority", "-1"), ("X-DATA-parallel-rank", "0"), ("X-Session-ID", "a"), ("X-Session", "b")]
    got = await exchange(client, upstream, [*fields, ("x-vllm-priority", "-2"), ("X-Request-Id", "r")])
    assert got == expected(upstream, "X-Session: b", request_id="r")


@pytest.mark.parametrize("name", ["Content-Type", "Traceparent", "Content-Encoding", "Expect", "TE", "Authorization"])
async def test_a_field_that_the_gateway_itself_heeds_can_be_stripped(gateway, upstream, connect, name):
    client = await connect(await gateway(vllm=upstream, STRIP_REQUEST_HEADERS=name, GOMODEL_MASTER_KEY="k"))
    value = {"Expect": "100-continue", "Authorization": "Bearer k"}.get(name, "canary")
    got = await exchange(client, upstream, [("x-api-key", "k"), (name, value), ("X-Request-Id", "r")], b"{}")
    assert got == expected(upstream, "Content-Length: 2", request_id="r", start="POST /tokenize")


async def test_a_form_is_read_by_its_content_type_although_the_field_is_stripped(gateway, make_upstream, connect):
    first, second = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=first, vllm_b=second, STRIP_REQUEST_HEADERS="Content-Type")
    client = await connect(handle)
    second.on_request(OK)
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nvllm-b/m\r\n--x--\r\n'
    fields = [("Content-Type", "multipart/form-data; boundary=x")]
    await client.send(request("POST", "/v1/audio/transcriptions", fields, form))
    assert (await client.read_response("POST")).status == 200
    assert second.requests[0].get_all("Content-Type") == []


@pytest.mark.parametrize("given", ["a", "A-z_0.9", "0" * 128, "-", "..a", "a..", "_."])
async def test_a_clients_request_id_is_kept_on_both_sides_and_in_the_log(gateway, upstream, connect, given):
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    assert await exchange(client, upstream, [("x-request-ID", given)]) == expected(upstream, request_id=given)
    assert client.responses[-1].get_all("X-Request-Id") == [given]
    assert f"'request_id': '{given}'" in handle.logs.text


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "0" * 129,
        "a" * 8000,
        "a b",
        "a%0d%0aX-Evil: 1",
        "a;b",
        "\xff",
        "a/../b",
        '"}\x7e',
        ".",
        "..",
        "." * 128,
    ],
    ids=repr,
)
async def test_any_other_request_id_is_replaced_by_a_new_one(gateway, upstream, connect, given):
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    seen = set()
    for _ in range(2):
        await exchange(client, upstream, [] if given is None else [("X-Request-Id", given)])
        (sent,) = upstream.requests[-1].get_all("X-Request-Id")
        assert client.responses[-1].get_all("X-Request-Id") == [sent]
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", sent)
        assert f"'request_id': '{sent}'" in handle.logs.text
        seen.add(sent)
    assert len(seen) == 2
    assert given not in seen


async def test_a_trailer_of_one_response_is_no_field_of_the_next(gateway, upstream, connect):
    trailer = b"0\r\nX-A: 1\r\nSet-Cookie: canary\r\n\r\n"
    upstream.on_request(head(200, [("Transfer-Encoding", "chunked")]) + chunked(b"a") + trailer)
    upstream.on_request(OK)
    client = await connect(await gateway(vllm=upstream))
    for _ in range(2):
        await client.send(request("GET", "/p/vllm/tokenize"))
        assert b"canary" not in (await client.read_response()).raw
