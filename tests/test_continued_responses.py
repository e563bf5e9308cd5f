"""A response that continues another goes where that one is stored, as far as its selector leaves a choice."""

import json
from itertools import pairwise

import pytest

from .scripted import ReadBody, ReadHead, json_response, request
from .verdicts import OK, ask

ID = "resp_0a1B-c.d_9"
MADE = json_response({"id": ID, "object": "response"})
JSON = [("Content-Type", "application/json")]
NOT_FOUND = json_response({"error": {"message": "not found", "code": 404}}, 404)


def create(model="vllm-b/m", **fields):
    body = json.dumps({"model": model, "input": "hi", **fields}).encode()
    return request("POST", "/v1/responses", JSON, body)


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


@pytest.mark.parametrize(("size", "instance"), [(40_000, "vllm-b"), (400_000, "vllm")])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_the_id_may_come_long_after_the_model_as_far_as_that_is_waited_for(
    pair, connect, size, instance, framing
):
    handle, one, other = pair
    client = await learned(handle, connect, one, other)
    body = b'{"model":"m","input":"%b","previous_response_id":"%b"}' % (b"x" * size, ID.encode())
    cuts = [0, 10, 20, 1000, len(body) - 30, len(body)]
    pieces = [body[a:b] for a, b in pairwise(cuts)]
    raw = request(
        "POST", "/v1/responses", [("Content-Type", "application/json")], pieces if framing == "chunked" else body
    )
    await client.send_pieces([raw[:-size], raw[-size:-30], raw[-30:]])
    answer = await client.read_response()
    assert answer.get("X-GoModel-Provider") == instance
    assert (one if instance == "vllm" else other).requests[-1].body == body


async def test_a_bound_selector_stays_where_it_is_bound(pair, connect):
    handle, one, other = pair
    client = await learned(handle, connect, one, other)
    answer = await ask(client, create("vllm/m", previous_response_id=ID))
    assert (answer.get("X-GoModel-Provider"), len(one.requests)) == ("vllm", 1)


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


async def test_a_decoy_in_a_string_is_no_previous_response(pair, connect):
    handle, one, other = pair
    client = await learned(handle, connect, one, other)
    decoy = f'"previous_response_id": "{ID}"'
    answer = await ask(client, create("m", instructions=decoy))
    assert answer.get("X-GoModel-Provider") == "vllm"
