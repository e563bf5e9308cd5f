"""A response that continues another goes where that one is stored, as far as its selector leaves a choice."""

import json
from itertools import pairwise

import pytest

from ..harness.scripted import ReadBody, ReadHead, json_response, request
from ..harness.verdicts import OK, ask, own_error, turned

ID = "resp_0a1B-c.d_9"
MADE = json_response({"id": ID, "object": "response"})
JSON = [("Content-Type", "application/json")]
NOT_FOUND = json_response({"error": {"message": "not found", "code": 404}}, 404)


def create(model="vllm-b/m", **fields):
    body = json.dumps({"model": model, "input": "hi", **fields}).encode()
    return request("POST", "/v1/responses", JSON, body)


pytestmark = pytest.mark.usefixtures("first_of_equals")


@pytest.fixture
async def pair(gateway, make_upstream):
    """A gateway with the instances `vllm` and `vllm-b`, both listing `m`, and those."""
    one, other = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=one, vllm_b=other, VLLM_API_KEY="key-a", VLLM_B_API_KEY="key-b")
    return handle, one, other


async def learned(handle, connect, one, other):
    """A client, for whom `vllm-b` has made the response and the lists are known."""
    client = await connect(handle)
    await ask(client, request("GET", "/v1/models"))
    other.on_request(MADE)
    await ask(client, create())
    one.repeat(OK)
    other.repeat(OK)
    return client


async def test_a_bare_model_follows_the_response_it_continues(pair, connect):
    handle, one, other = pair
    client = await learned(handle, connect, one, other)
    assert (await ask(client, create("m"))).get("X-GoModel-Provider") == "vllm"
    continued = await ask(client, create("m", previous_response_id=ID))
    assert continued.get("X-GoModel-Provider") == "vllm-b"
    assert json.loads(other.requests[-1].body) == {"model": "m", "input": "hi", "previous_response_id": ID}


@pytest.mark.parametrize("size", [40_000, 200_000, 400_000, 3_000_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("behind", [b"", b',"stream":true,"x":"%b"' % (b"y" * 300_000)], ids=["last", "not last"])
async def test_the_id_may_come_long_after_the_model(pair, connect, spools, size, framing, behind):
    handle, one, other = pair
    client = await learned(handle, connect, one, other)
    body = b'{"model":"m","input":"%b","previous_response_id":"%b"%b}' % (b"x" * size, ID.encode(), behind)
    cuts = [0, 10, 20, 1000, len(body) - 30, len(body)]
    pieces = [body[a:b] for a, b in pairwise(cuts)]
    raw = request("POST", "/v1/responses", JSON, pieces if framing == "chunked" else body)
    await client.send_pieces([raw[:-size], raw[-size:-30], raw[-30:]])
    answer = await client.read_response()
    assert answer.get("X-GoModel-Provider") == "vllm-b"
    assert other.requests[-1].body == body
    await turned(lambda: spools() == 0)


@pytest.mark.parametrize("size", [0, 40_000, 400_000])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_without_an_id_arrives_as_it_was_sent(pair, connect, spools, size, framing):
    handle, one, other = pair
    client = await learned(handle, connect, one, other)
    body = b'{"model":"m","metadata":{"previous_response_id":"%b"},"input":"%b"}' % (ID.encode(), b"x" * size)
    raw = request("POST", "/v1/responses", JSON, [body[:20], body[20:]] if framing == "chunked" else body)
    await client.send_pieces([raw[:100], raw[100:250], raw[250:]])
    answer = await client.read_response()
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm")
    assert one.requests[-1].body == body
    await turned(lambda: spools() == 0)


@pytest.mark.parametrize("written", [rb"previous\u005fresponse_id", rb"\u0070revious_response_i\u0064"])
async def test_the_name_of_the_member_may_be_escaped(pair, connect, written):
    handle, one, other = pair
    client = await learned(handle, connect, one, other)
    body = b'{"model":"m","%b":"%b"}' % (written, ID.encode())
    answer = await ask(client, request("POST", "/v1/responses", JSON, body))
    assert (answer.get("X-GoModel-Provider"), other.requests[-1].body) == ("vllm-b", body)


async def test_a_client_that_leaves_while_the_id_is_looked_for_leaves_nothing(pair, connect, spools):
    handle, one, other = pair
    client = await learned(handle, connect, one, other)
    raw = create("m", padding="x" * 1_000_000, previous_response_id=ID)
    asked = len(one.requests) + len(other.requests)
    await client.send(raw[:-100])
    await turned(lambda: spools() == 1)
    client.fin()
    await turned(lambda: spools() == 0 and not handle.gateway.telemetry.running.records)
    assert len(one.requests) + len(other.requests) == asked


async def test_a_body_over_the_limit_is_refused_while_the_id_is_looked_for(gateway, make_upstream, connect, spools):
    one, other = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=one, vllm_b=other, BODY_SIZE_LIMIT="1M")
    client = await learned(handle, connect, one, other)
    body = b'{"model":"m","input":"%b"}' % (b"x" * 2_000_000)
    await client.send(
        request("POST", "/v1/responses", JSON, [body[at : at + 9999] for at in range(0, len(body), 9999)])
    )
    own_error(await client.read_response(), 413, "body_too_large", "invalid_request_error")
    await turned(lambda: spools() == 0)


async def test_a_bound_selector_stays_where_it_is_bound(pair, connect):
    handle, one, other = pair
    client = await learned(handle, connect, one, other)
    answer = await ask(client, create("vllm/m", previous_response_id=ID))
    assert (answer.get("X-GoModel-Provider"), len(one.requests)) == ("vllm", 1)


async def test_where_only_an_engine_is_to_be_chosen_nobody_is_asked_who_has_the_response(
    gateway, make_upstream, connect
):
    one, other = await make_upstream(), await make_upstream()
    for each in (one, other):
        each.repeat(OK)
    client = await connect(await gateway(vllm=one, vllm_b=other, VLLM_DP_RANKS="4"))
    answer = await ask(client, create("vllm/m", previous_response_id=ID))
    assert (answer.get("X-GoModel-Provider"), len(one.requests), other.requests) == ("vllm", 1, [])


async def test_where_there_is_no_choice_nothing_is_waited_for_and_nobody_is_asked(pair, connect):
    handle, one, other = pair
    one.on_request(ReadHead(), ReadBody(), OK)
    raw = create("vllm/m", padding="x" * 5000, previous_response_id=ID)
    client = await connect(handle)
    await client.send(raw[:-100])
    seen = await one.wait_for_request()
    assert (seen.method, seen.complete) == ("POST", False)
    await client.send(raw[-100:])
    assert (await client.read_response()).status == 200
    assert (len(one.requests), other.requests) == (1, [])


async def test_an_owner_that_does_not_list_the_model_is_no_candidate(gateway, make_upstream, connect):
    one, two, other = await make_upstream(), await make_upstream(), await make_upstream(models=("b",))
    handle = await gateway(vllm=one, vllm_a=two, vllm_b=other)
    client = await learned(handle, connect, one, other)
    assert (await ask(client, create("m", previous_response_id=ID))).get("X-GoModel-Provider") == "vllm"


@pytest.mark.parametrize("previous", ["resp_unknown", "", None, 7, "a/b", "x" * 300])
async def test_an_unknown_previous_response_leaves_the_choice_as_it_is(pair, connect, previous):
    handle, one, other = pair
    client = await learned(handle, connect, one, other)
    one.on_request(NOT_FOUND, method="GET")
    other.on_request(NOT_FOUND, method="GET")
    answer = await ask(client, create("m", previous_response_id=previous))
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm")


@pytest.mark.parametrize(
    "fields",
    [
        {"instructions": f'"previous_response_id": "{ID}"'},
        {"metadata": {"previous_response_id": ID}},
        {"input": [{"previous_response_id": ID}]},
    ],
    ids=["a string", "an object", "a list"],
)
async def test_a_decoy_is_no_previous_response(pair, connect, fields):
    handle, one, other = pair
    client = await learned(handle, connect, one, other)
    answer = await ask(client, create("m", **fields))
    assert answer.get("X-GoModel-Provider") == "vllm"
