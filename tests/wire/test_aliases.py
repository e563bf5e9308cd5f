"""Aliases: the value of `model` is replaced, in every kind of request, and nothing else of it."""

import json
from hashlib import sha256

import pytest

from gomodel.selector.conversation import LIMIT_BYTES

from ..harness.forms import form
from ..harness.forms import post as post_form
from ..harness.scripted import request
from ..harness.tunnels import frame, handshake, opened
from ..harness.verdicts import CHAT, OK, ask

NAMES = 'gpt-4o=vllm/org/m"1", claude-*=vllm-b/b, known=b, *-mini=vllm/m'
JSON = [("Content-Type", "application/json")]
TARGET = 'org/m"1"'


@pytest.fixture
async def pair(gateway, make_upstream):
    one, other = await make_upstream(models=("m",)), await make_upstream(models=("b", "real-mini"))
    for each in (one, other):
        each.repeat(OK)
    return await gateway(vllm=one, vllm_b=other, MODEL_ALIASES=NAMES), one, other


def body_with(model, before='{"a": 1, "model" : "', after='" ,"messages":[{"content":"gpt-4o"}]}'):
    return (before + model + after).encode()


SENT = {
    "gpt-4o": ("vllm", r"org/m\"1\""),
    r"gpt\u002d4o": ("vllm", r"org/m\"1\""),
    "claude-3-5-sonnet": ("vllm-b", "b"),
    "claude-x/y": ("vllm-b", "b"),
    "known": ("vllm-b", "b"),
    "o4-mini": ("vllm", "m"),
    # No alias: an instance's name binds, and a model's own name goes before a pattern.
    "vllm/gpt-4o": ("vllm", "gpt-4o"),
    "vllm-b/claude-3": ("vllm-b", "claude-3"),
    "real-mini": ("vllm-b", "real-mini"),
}


@pytest.mark.parametrize(("model", "sent"), SENT.items(), ids=SENT)
@pytest.mark.parametrize("way", ["whole", "chunked", "long", "pieces"])
async def test_the_model_is_replaced_and_nothing_else(pair, connect, model, sent, way):
    handle, one, other = pair
    client = await connect(handle)
    await ask(client, request("GET", "/v1/models"))
    before = '{"x":"' + "x" * 2 * LIMIT_BYTES + '","model":"' if way == "long" else '{"a": 1, "model" : "'
    body = body_with(model, before)
    if way == "chunked":
        raw = request("POST", CHAT, JSON, [body[:15], body[15:25], body[25:]])
    else:
        raw = request("POST", CHAT, JSON, body)
    await client.send_pieces([raw[: -len(body)], body[:9], body[9:]] if way == "pieces" else [raw])
    answer = await client.read_response()
    instance, name = sent
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, instance)
    [seen] = one.requests + other.requests
    assert seen.body == body_with(name, before)


@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("size", [100, LIMIT_BYTES * 2])
async def test_a_form_names_an_alias(pair, connect, where, size):
    handle, one, _ = pair
    wav = b"x" * size
    for _ in range(2):
        assert (await ask(await connect(handle), post_form(form("gpt-4o", where, wav=wav)))).status == 200
    assert [each.body for each in one.requests] == [form(TARGET, where, wav=wav)] * 2


async def test_a_model_in_place_of_an_alias_is_sent_again_where_a_connection_fails(gateway, make_upstream, connect):
    """The file waits on disk, from which it is read twice."""
    one, other = await make_upstream(models=("m",)), await make_upstream(models=("m",))
    other.repeat(OK)
    one.stop_listening()
    handle = await gateway(vllm=one, vllm_b=other, VLLM_MODELS="m", MODEL_ALIASES="w=m", ROUTING="least")
    wav = b"x" * 2 * LIMIT_BYTES
    client = await connect(handle)
    await ask(client, request("GET", "/v1/models"))
    for _ in range(4):
        answer = await ask(client, post_form(form("w", "last", wav=wav)))
        assert (answer.status, other.requests[-1].body) == (200, form("m", "last", wav=wav))


async def test_aliases_are_listed_under_their_names_with_what_is_said_of_their_models(pair, connect):
    handle, _, _ = pair
    client = await connect(handle)
    listed = {each["id"]: each for each in (await ask(client, request("GET", "/v1/models"))).json()["data"]}
    assert set(listed) == {"vllm/m", "vllm-b/b", "vllm-b/real-mini", "gpt-4o", "known"}
    assert listed["known"] == {**listed["vllm-b/b"], "id": "known"}
    assert listed["gpt-4o"]["object"] == "model"
    one = await ask(client, request("GET", "/v1/models/known"))
    assert (one.status, one.json()) == (200, listed["known"])


async def test_a_caller_sees_the_aliases_of_what_its_key_is_good_for(gateway, make_upstream, connect, tmp_path):
    keys = tmp_path / "keys.toml"
    keys.write_text(f"[keys.alice]\nsha256 = '{sha256(b'alice').hexdigest()}'\nmodels = ['vllm/*']\n")
    one, other = await make_upstream(models=("m",)), await make_upstream(models=("b",))
    for each in (one, other):
        each.repeat(OK)
    settings = {"GOMODEL_MASTER_KEY": "k", "GOMODEL_KEYS_FILE": str(keys), "MODEL_ALIASES": "w=vllm/m,x=vllm-b/b"}
    client = await connect(await gateway(vllm=one, vllm_b=other, **settings))
    key = ("x-api-key", "alice")
    listed = (await ask(client, request("GET", "/v1/models", [key]))).json()["data"]
    assert [each["id"] for each in listed] == ["vllm/m", "w"]
    assert [(await ask(client, request("GET", f"/v1/models/{name}", [key]))).status for name in "wx"] == [200, 404]
    asked = [await ask(client, request("POST", CHAT, [*JSON, key], body_with(name))) for name in "wx"]
    assert [each.status for each in asked] == [200, 403]


async def test_an_alias_of_a_model_that_nobody_has_is_unknown(gateway, upstream, make_upstream, connect):
    handle = await gateway(vllm=upstream, vllm_b=await make_upstream(), MODEL_ALIASES="a=nobody/has")
    answer = await ask(await connect(handle), request("POST", CHAT, JSON, b'{"model":"a"}'))
    assert (answer.status, answer.json()["error"]["code"]) == (404, "model_not_found")


async def test_a_single_instance_gets_what_no_alias_matches_as_it_is(gateway, upstream, connect):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream, MODEL_ALIASES="a=m,b*=vllm/m")
    client = await connect(handle)
    for sent, seen in (("a", "m"), ("bc", "m"), ("c", "c"), ("vllm/bc", "bc")):
        await ask(client, request("POST", CHAT, JSON, json.dumps({"model": sent}).encode()))
        assert upstream.requests[-1].json() == {"model": seen}


async def test_what_passes_through_is_left_alone(pair, connect):
    handle, one, _ = pair
    client = await connect(handle)
    await ask(client, request("POST", "/p/vllm/v1/chat/completions", JSON, b'{"model":"gpt-4o"}'))
    assert one.requests[0].body == b'{"model":"gpt-4o"}'


UPDATE = b'{"type":"session.update","model":"%b"}'


@pytest.mark.parametrize(
    ("query", "target", "said", "meant"),
    [
        ("?a=1&model=gpt-4o&b=%2F", "?a=1&model=org/m%221%22&b=%2F", b"gpt-4o", rb"org/m\"1\""),
        ("?model=gpt%2D4o", "?model=org/m%221%22", b"vllm/m", b"m"),
        ("?model=o4-mini", "?model=m", b"x-mini", b"m"),
        ("?model=vllm/m", "?model=m", b"gpt-4o", rb"org/m\"1\""),
        ("?model=m", "?model=m", b"m", b"m"),
    ],
)
async def test_a_realtime_session_names_an_alias(pair, connect, query, target, said, meant):
    handle, one, _ = pair
    await ask(await connect(handle), request("GET", "/v1/models"))
    client, server = await opened(handle, one, connect, handshake("/v1/realtime" + query))
    assert one.requests[-1].target == "/v1/realtime" + target
    await client.send(frame(UPDATE % said))
    expected = frame(UPDATE % meant)
    assert await server.exactly(len(expected)) == expected
