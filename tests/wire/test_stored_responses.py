"""What refers to a stored response goes to the instance that made it: learned in passing, asked around when unknown."""

import json

import pytest
from aiohttp import ClientTimeout

from gomodel.balancing import stored_responses as module
from gomodel.balancing.stored_responses import StoredResponses
from gomodel.upstream import own_requests
from gomodel.upstream.replica import ASLEEP, OUT, WEDGED

from ..harness.scripted import (
    SAFETY_S,
    SSE_HEAD,
    Fin,
    SendByteByByte,
    SendPieces,
    Stall,
    chunked,
    head,
    json_response,
    request,
    response,
)
from ..harness.verdicts import OK, ask, own_error

ID = "resp_0a1B-c.d_9"
MADE = json_response({"id": ID, "object": "response", "output": [{"id": "msg_1"}], "model": "m"})
CREATED = f'event: response.created\ndata: {{"response":{{"id":"{ID}","object":"response"}},"sequence_number":0}}\n\n'
EVENTS = SSE_HEAD + chunked(CREATED.encode(), b'data: {"item":{"id":"msg_2"}}\n\n') + b"0\r\n\r\n"
BY_THE_BYTE = [chunked(bytes([byte])) for byte in CREATED.encode()]
JSON = [("Content-Type", "application/json")]
NOT_FOUND = json_response({"error": {"message": "not found", "code": 404}}, 404)


def create(model="vllm-b/m", **fields):
    body = json.dumps({"model": model, "input": "hi", **fields}).encode()
    return request("POST", "/v1/responses", JSON, body)


def get(suffix="", method="GET", response_id=ID):
    return request(method, f"/v1/responses/{response_id}{suffix}", body=b"" if method == "POST" else None)


def asked(upstream):
    return [(each.method, each.target) for each in upstream.requests]


@pytest.fixture
async def pair(gateway, make_upstream):
    """A gateway with the instances `vllm` and `vllm-b`, both listing `m`, and those."""
    one, other = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=one, vllm_b=other, VLLM_API_KEY="key-a", VLLM_B_API_KEY="key-b")
    return handle, one, other


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((MADE,), id="json"),
        pytest.param((SendByteByByte(MADE),), id="json byte by byte"),
        pytest.param((EVENTS,), id="events"),
        pytest.param((SendByteByByte(EVENTS),), id="events byte by byte"),
        pytest.param(
            (SendPieces((SSE_HEAD, *(chunked(bytes([b])) for b in CREATED.encode()), b"0\r\n\r\n")),), id="chunks"
        ),
        pytest.param((head(200) + MADE.partition(b"\r\n\r\n")[2], Fin()), id="until the close"),
        pytest.param((response(b'{\n  "created_at": 1,\n  "id" :\t"%b"}' % ID.encode()),), id="spaces"),
        pytest.param((response(b'{"object":"%b","id":"%b"}' % (b"x" * 3900, ID.encode())),), id="not first"),
    ],
)
async def test_the_maker_of_a_response_is_learned_from_its_answer(pair, connect, steps):
    handle, one, other = pair
    other.on_request(*steps)
    client = await connect(handle)
    made = await ask(client, create())
    assert made.complete
    assert ID.encode() in made.body
    for suffix, method in [("", "GET"), ("?stream=true&starting_after=3", "GET"), ("/cancel", "POST"), ("", "DELETE")]:
        other.on_request(OK)
        answer = await ask(client, get(suffix, method))
        assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
        assert asked(other)[-1] == (method, f"/v1/responses/{ID}{suffix}")
    assert (len(other.requests), one.requests) == (5, [])


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(json_response({"id": ID}, 201), id="status"),
        pytest.param(json_response({"id": ID}, 400), id="error"),
        pytest.param(json_response({"id": ID}, 200, [("Content-Encoding", "gzip")]), id="encoded"),
        pytest.param(json_response({"text": f'"id": "{ID}"'}), id="in a string"),
        pytest.param(json_response({"id": "chatcmpl-1", "previous_response_id": ID}), id="another member"),
        pytest.param(json_response({"padding": "x" * 5000, "id": ID}), id="far behind"),
    ],
)
async def test_what_is_no_response_of_this_id_teaches_nothing(pair, connect, made):
    handle, one, other = pair
    other.on_request(made)
    client = await connect(handle)
    await ask(client, create())
    one.on_request(NOT_FOUND)
    other.on_request(NOT_FOUND)
    assert (await ask(client, get())).status == 404
    assert asked(one) == [("GET", f"/v1/responses/{ID}")]


async def test_an_unknown_response_is_asked_for_everywhere_and_then_remembered(pair, connect):
    handle, one, other = pair
    one.on_request(NOT_FOUND)
    other.on_request(MADE)
    other.repeat(OK)
    client = await connect(handle)
    secret = [("Authorization", "Bearer client-secret"), ("X-Canary", "client-secret")]
    answer = await ask(client, request("POST", f"/v1/responses/{ID}/cancel", secret, b""))
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
    # The question is a GET that changes nothing, with the key of whom it goes to and nothing of the client's.
    assert asked(one) == [("GET", f"/v1/responses/{ID}")]
    assert asked(other) == [("GET", f"/v1/responses/{ID}"), ("POST", f"/v1/responses/{ID}/cancel")]
    questions = one.requests + other.requests[:1]
    assert [each.get("Authorization") for each in questions] == ["Bearer key-a", "Bearer key-b"]
    assert b"client-secret" not in b"".join(each.raw for each in questions)
    assert (await ask(client, get())).status == 200
    assert (len(one.requests), len(other.requests)) == (1, 3)


async def test_nobody_has_it(pair, connect):
    handle, one, other = pair
    client = await connect(handle)
    for refusal in (
        NOT_FOUND,
        json_response({}, 400),
        json_response({"detail": "Method Not Allowed"}, 405),
        response(b"", 501),
    ):
        one.on_request(refusal)
        other.on_request(NOT_FOUND)
        answer = await ask(client, get())
        assert ID in own_error(answer, 404, "response_not_found", "invalid_request_error")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param((json_response({}, 500),), id="500"),
        pytest.param((json_response({}, 503),), id="503"),
        pytest.param((json_response({"error": "Unauthorized"}, 401),), id="401"),
        pytest.param((json_response({}, 403),), id="403"),
        pytest.param((json_response({}, 408),), id="408"),
        pytest.param((json_response({}, 429),), id="429"),
        pytest.param((response(b"", 307, [("Location", "/v1/responses/x/")]),), id="307"),
        pytest.param((response(b"", 204),), id="204"),
        pytest.param((Fin(),), id="closed"),
        pytest.param((b"garbage\r\n\r\n", Fin()), id="garbage"),
        pytest.param((Stall(),), id="silence"),
    ],
)
async def test_an_instance_that_might_hold_it_and_cannot_be_asked_makes_it_a_503(pair, connect, monkeypatch, fault):
    # The first is asked first; only the patience with the other one may come to an end.
    patience = iter((SAFETY_S, 0.1 if fault == (Stall(),) else SAFETY_S))
    monkeypatch.setattr(own_requests, "ClientTimeout", lambda total: ClientTimeout(total=next(patience)))
    handle, one, other = pair
    one.on_request(NOT_FOUND)
    other.repeat(*fault)
    answer = await ask(await connect(handle), get())
    message = own_error(answer, 503, "response_owner_unknown", "overloaded_error")
    assert "'vllm-b'" in message
    assert "'vllm'" not in message
    assert answer.get("Retry-After") == "5"


async def test_an_instance_that_is_down_makes_it_a_503_and_the_owner_is_found_all_the_same(pair, connect):
    handle, one, other = pair
    one.stop_listening()
    other.on_request(NOT_FOUND)
    client = await connect(handle)
    own_error(await ask(client, get()), 503, "response_owner_unknown", "overloaded_error")
    other.on_request(MADE)
    other.on_request(OK)
    assert (await ask(client, get())).get("X-GoModel-Provider") == "vllm-b"


async def test_an_instance_that_does_not_answer_does_not_hold_up_the_owners_answer(pair, connect, monkeypatch):
    monkeypatch.setattr(module, "_ASK_LIMIT_S", 60)
    handle, one, other = pair
    one.on_request(Stall())
    other.on_request(MADE)
    other.on_request(OK)
    answer = await ask(await connect(handle), get())
    assert answer.get("X-GoModel-Provider") == "vllm-b"
    await one.connections[0].closed


async def test_a_learned_owner_that_is_down_is_not_replaced(pair, connect):
    handle, one, other = pair
    other.on_request(MADE)
    client = await connect(handle)
    await ask(client, create())
    other.stop_listening()
    for connection in other.connections:
        connection.wire.close()
    own_error(await ask(client, get()), 502, "connection_refused")
    assert one.requests == []


async def test_one_instance_is_not_asked(gateway, upstream, connect):
    upstream.on_request(NOT_FOUND)
    answer = await ask(await connect(await gateway(vllm=upstream)), get("/input_items?limit=2"))
    assert (answer.status, answer.body) == (404, NOT_FOUND.partition(b"\r\n\r\n")[2])
    assert asked(upstream) == [("GET", f"/v1/responses/{ID}/input_items?limit=2")]


async def test_a_client_that_leaves_while_instances_are_asked_ends_the_questions(pair, connect, monkeypatch):
    monkeypatch.setattr(module, "_ASK_LIMIT_S", 60)
    handle, one, other = pair
    one.on_request(Stall())
    other.on_request(Stall())
    client = await connect(handle)
    await client.send(get())
    seen = [await each.wait_for_request() for each in (one, other)]
    client.fin()
    for each in seen:
        await each.connection.closed


@pytest.mark.parametrize("response_id", ["..", "a%2F..%2Fb", "a%20b", "x" * 257, "a:b", "%2e%2e"])
async def test_an_id_that_could_lead_elsewhere_is_no_id(pair, connect, response_id):
    handle, one, other = pair
    answer = await ask(await connect(handle), get(response_id=response_id))
    assert answer.status in (400, 404)
    assert one.connections + other.connections == []


@pytest.mark.parametrize("reason", [OUT, ASLEEP, WEDGED])
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("POST", "/cancel"), ("DELETE", "")])
async def test_what_makes_no_work_reaches_an_owner_that_is_kept_out(pair, connect, reason, method, suffix):
    handle, _, other = pair
    other.on_request(MADE)
    other.on_request(OK)
    client = await connect(handle)
    assert (await ask(client, create())).status == 200
    handle.gateway.providers.instances["vllm-b"].replicas[0].bar(reason, True)
    assert (await ask(client, create())).status == 503
    assert (await ask(client, get(suffix, method))).status == 200
    assert asked(other) == [("POST", "/v1/responses"), (method, f"/v1/responses/{ID}{suffix}")]


@pytest.mark.parametrize("method", ["PUT", "PATCH", "HEAD"])
async def test_other_methods_are_not_allowed(pair, connect, method):
    answer = await ask(await connect(pair[0]), get(method=method), method)
    assert (answer.status, answer.get("Allow")) == (405, "DELETE, GET, POST")


async def test_only_so_many_are_remembered_the_latest_and_the_latest_used(pair, monkeypatch):
    handle, _, _ = pair
    monkeypatch.setattr(module, "REMEMBERED", 3)
    stored = StoredResponses(handle.gateway.providers)
    one, other = handle.gateway.providers.replicas
    for number in range(4):
        stored.learn(f"resp_{number}", one)
    stored.learn("resp_1", other)
    stored.learn("resp_9", one)
    assert list(stored._homes.items()) == [("resp_3", one), ("resp_1", other), ("resp_9", one)]


async def test_an_answer_that_is_learned_from_passes_byte_for_byte(pair, connect):
    handle, _, other = pair
    body = b'{ "id":"%b",\n"id" : "resp_other","a":"\\u0041\xff"}\n' % ID.encode()
    other.on_request(response(body, 200, [("Content-Type", "application/json"), ("X-Id", ID)]))
    answer = await ask(await connect(handle), create())
    assert (answer.body, answer.get("X-Id"), answer.get("Content-Length")) == (body, ID, str(len(body)))
