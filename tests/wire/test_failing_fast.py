"""Whoever fails at once has the fewest requests in flight: that must not draw the traffic of a healthy instance."""

import asyncio
import json
import logging

import pytest

from gomodel.config.load import from_environ
from gomodel.downstream.body import IN_MEMORY_BYTES
from gomodel.upstream import probes
from gomodel.upstream.channel import Channel

from ..harness.forms import form
from ..harness.forms import post as form_post
from ..harness.gateway import DEFAULTS
from ..harness.scripted import (
    LAST_CHUNK,
    ReadBody,
    ReadHead,
    WaitFor,
    chunked,
    env_for,
    head,
    json_response,
    request,
    response,
)
from ..harness.verdicts import CHAT, OK, access_lines, ask, counted, own_error, post, turned
from ..harness.verdicts import post as bound_post

UNAUTHORIZED = json_response({"error": "Unauthorized"}, 401, [("server", "uvicorn")])
# What stands before a vLLM may say so at length, and without saying at what length.
LONG_401 = head(401, [("Transfer-Encoding", "chunked")]) + chunked(b"<html>" + b"x" * 9000)
UNLOADED = json_response(
    {
        "error": {
            "message": "The model `m` does not exist. Valid aliases: base.",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    },
    404,
)
FORBIDDEN = response(b'{"message":"Forbidden"}', 403)
BARE = post(model="m")
LIST = request("GET", "/v1/models")
READY = request("GET", "/health/ready")
FAST = [
    pytest.param(UNAUTHORIZED, id="401"),
    pytest.param(LONG_401, id="401 at length"),
    pytest.param(FORBIDDEN, id="403"),
    pytest.param(UNLOADED, id="404 unloaded"),
]


@pytest.fixture
async def pair(gateway, make_upstream, connect):
    """A gateway whose two instances both list `m`, and whose lists are known; a client of it, and the two."""
    one, other = await make_upstream(), await make_upstream()
    other.repeat(OK)
    handle = await gateway(vllm=one, vllm_b=other)
    client = await connect(handle)
    await ask(client, LIST)
    return handle, client, one, other


def instance_of(handle, name="vllm"):
    return handle.replica(name)


def refuse_list(upstream, times=100):
    """Model lists are refused like requests."""
    for _ in range(times):
        upstream.on_request(UNAUTHORIZED, path="/v1/models")


@pytest.mark.parametrize("refusal", FAST)
async def test_no_client_sees_a_refusal_while_another_instance_takes_the_model(pair, refusal):
    _handle, client, one, _ = pair
    one.repeat(refusal)
    for _ in range(30):
        answer = await ask(client, BARE)
        assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
    assert len(one.requests) <= 3


@pytest.mark.parametrize(
    "status", [pytest.param(status, id=str(status)) for status in (500, 501, 502, 503, 504, 404, 429, 599)]
)
@pytest.mark.usefixtures("first_of_equals")
async def test_a_failure_that_is_the_clients_to_read_is_read_by_one_client(pair, status):
    """It may be the request's own fault, and nobody else tries it; but the next one goes elsewhere."""
    _, client, one, _ = pair
    one.repeat(response(b"no", status))
    answers = [(await ask(client, BARE)).status for _ in range(30)]
    assert answers[0] == status
    assert answers.count(200) >= 28
    assert len(one.requests) <= 2


@pytest.mark.usefixtures("first_of_equals")
async def test_a_route_that_does_not_exist_is_no_failure_of_the_instance_that_says_so(pair):
    handle, client, one, _ = pair
    one.repeat(response(b'{"detail":"Not Found"}', 404))
    for _ in range(3):
        assert (await ask(client, post("/v1/no/such/route", model="m"))).status == 404
    assert not instance_of(handle).demotion.until


@pytest.mark.usefixtures("first_of_equals")
async def test_one_that_failed_is_tried_again_after_a_moment_and_a_success_clears_it(pair):
    handle, client, one, _ = pair
    one.on_request(response(b"no", 500))
    await ask(client, BARE)
    demotion = instance_of(handle).demotion
    assert demotion.until
    assert (await ask(client, BARE)).get("X-GoModel-Provider") == "vllm-b"
    one.repeat(OK)
    demotion.until -= 60.0
    assert (await ask(client, BARE)).get("X-GoModel-Provider") == "vllm"
    assert demotion.until == 0


@pytest.mark.usefixtures("first_of_equals")
async def test_when_all_failed_lately_all_are_candidates_as_before(pair):
    _, client, one, other = pair
    one.repeat(response(b"one", 500))
    other.repeat(response(b"other", 500))
    assert {(await ask(client, BARE)).body for _ in range(3)} == {b"one", b"other"}
    one.repeat(OK)
    assert (await ask(client, BARE)).status == 200


@pytest.mark.parametrize("refusal", [UNAUTHORIZED, LONG_401])
@pytest.mark.parametrize("path", [CHAT, "/p/vllm/v1/chat/completions"])
@pytest.mark.parametrize("key", ["", "sk-instance"])
async def test_a_refused_key_is_a_502_that_says_whose_key_it_was(gateway, upstream, connect, refusal, path, key):
    upstream.repeat(refusal)
    handle = await gateway(vllm=upstream, VLLM_API_KEY=key, GOMODEL_MASTER_KEY="sk-caller")
    client = await connect(handle)
    answer = await ask(client, bound_post(path, headers=[("Authorization", "Bearer sk-caller")]))
    message = own_error(answer, 502, "instance_key_refused")
    assert message.startswith(f"Instance 'vllm' {'refuses' if key else 'wants'}")
    assert b"sk-" not in answer.body
    await counted(handle, 1)
    (line,) = access_lines(handle)
    assert (line["ended_by"], line["reason"], line["instance"]) == ("upstream", "instance_key_refused", "vllm")
    assert instance_of(handle).breaker.closed


@pytest.mark.parametrize("refusal", [UNAUTHORIZED, LONG_401])
async def test_what_else_comes_of_a_refused_key_in_the_same_turn_reaches_nobody(
    gateway, upstream, connect, monkeypatch, refusal
):
    """TLS, and a reset behind an answer, hand over several pieces before the request's task has its turn."""
    received = Channel.data_received

    def head_and_rest(channel, data):
        at = data.find(b"\r\n\r\n") + 4
        received(channel, data[:at])
        received(channel, data[at:])

    monkeypatch.setattr(Channel, "data_received", head_and_rest)
    client = await connect(await gateway(vllm=upstream))
    for _ in "first", "on an idle connection":
        upstream.on_request(OK)
        assert (await ask(client, bound_post())).status == 200
        upstream.on_request(refusal)
        own_error(await ask(client, bound_post()), 502, "instance_key_refused")


async def test_an_anthropic_client_reads_it_in_its_own_shape(gateway, upstream, connect):
    upstream.repeat(UNAUTHORIZED)
    answer = await ask(await connect(await gateway(vllm=upstream)), post("/v1/messages"))
    assert (answer.status, answer.json()["error"]["type"]) == (502, "api_error")


async def test_a_websocket_reads_it_as_well(gateway, upstream, connect):
    upstream.repeat(UNAUTHORIZED)
    fields = [("Connection", "Upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Key", "eA==")]
    answer = await ask(
        await connect(await gateway(vllm=upstream)), request("GET", "/v1/realtime?model=vllm/m", [*fields])
    )
    own_error(answer, 502, "instance_key_refused")


async def test_a_401_beside_v1_says_nothing_of_the_key(pair):
    """vLLM guards /v1 alone; a caller must not push an instance out of the choice by asking some other route of it."""
    handle, client, one, _ = pair
    one.on_request(UNAUTHORIZED)
    own_error(await ask(client, request("GET", "/p/vllm/plugin")), 502, "instance_key_refused")
    assert not instance_of(handle).health.key_refused


async def test_nor_does_a_200_beside_v1_after_a_refusal(pair):
    handle, client, one, _ = pair
    health = instance_of(handle).health
    one.on_request(UNAUTHORIZED)
    own_error(await ask(client, bound_post()), 502, "instance_key_refused")
    for path, refused in (("/p/vllm/version", True), ("/p/vllm/v1/completions", False)):
        assert health.key_refused
        one.on_request(OK)
        assert (await ask(client, bound_post(path))).status == 200
        assert health.key_refused is refused


async def test_a_refused_key_is_named_by_readiness_log_and_metric(pair, caplog):
    handle, client, one, _ = pair
    one.repeat(UNAUTHORIZED)
    own_error(await ask(client), 502, "instance_key_refused")
    ready = await ask(client, READY)
    states = {name: entry["state"] for name, entry in ready.json()["instances"].items()}
    assert (ready.status, states) == (200, {"vllm": "refuses_the_key", "vllm-b": "unknown"})
    metrics = (await ask(client, request("GET", "/metrics"))).body.decode()
    assert 'gomodel_instance_key_refused{upstream="vllm"} 1.0' in metrics
    assert 'gomodel_instance_key_refused{upstream="vllm-b"} 0.0' in metrics
    said = [each for each in handle.logs.records if "refuses the key" in each.getMessage()]
    assert [(each.levelno, "vllm " in each.getMessage()) for each in said] == [(logging.WARNING, True)]


async def test_a_gateway_whose_only_instance_refuses_the_key_is_not_ready(gateway, upstream, connect):
    upstream.repeat(UNAUTHORIZED)
    client = await connect(await gateway(vllm=upstream))
    await ask(client)
    assert (await ask(client, READY)).status == 503


async def test_a_bound_request_that_is_answered_clears_it(pair):
    handle, client, one, _ = pair
    one.on_request(UNAUTHORIZED)
    await ask(client)
    assert instance_of(handle).health.key_refused
    # Beside /v1 an answer says nothing of the key, and a 403 may come from whoever refuses it.
    one.on_request(OK)
    assert (await ask(client, request("POST", "/tokenize", [], b'{"model":"vllm/m"}'))).status == 200
    one.on_request(FORBIDDEN)
    assert (await ask(client)).status == 403
    assert instance_of(handle).health.key_refused
    one.on_request(OK)
    assert (await ask(client)).status == 200
    assert not instance_of(handle).health.key_refused


@pytest.mark.parametrize("mode", ["fallback", "allowlist"])
async def test_probes_find_out_that_the_key_is_good_again(gateway, upstream, connect, monkeypatch, mode):
    monkeypatch.setattr(probes, "RETRY_S", 0.02)
    upstream.repeat(UNAUTHORIZED)
    refuse_list(upstream)
    handle = await gateway(
        vllm=upstream, probes=True, VLLM_MODELS="m", CONFIGURED_PROVIDER_MODELS_MODE=mode, CACHE_REFRESH_INTERVAL="1h"
    )
    client = await connect(handle)
    own_error(await ask(client), 502, "instance_key_refused")
    health = instance_of(handle).health
    await turned(lambda: health.key_refused)
    upstream._request_scripts.clear()
    upstream.repeat(OK)
    await turned(lambda: not health.key_refused)
    assert instance_of(handle).models == ("m",)
    await turned(lambda: health.settled)


@pytest.mark.parametrize("mode", ["fallback", "allowlist"])
async def test_an_answer_to_the_old_key_says_nothing_of_the_new_one(gateway, upstream, connect, mode):
    late, running = asyncio.Event(), asyncio.Event()
    upstream.on_request(WaitFor(late), UNAUTHORIZED, path="/v1/models")
    upstream.on_request(WaitFor(running), OK, path=CHAT)
    environ = {**DEFAULTS, **env_for(vllm=upstream), "VLLM_MODELS": "m", "CONFIGURED_PROVIDER_MODELS_MODE": mode}
    handle = await gateway(environ)
    client = await connect(handle)
    await client.send(post())  # by the old configuration, which stays as long
    replica = instance_of(handle)
    replica.health.refuse_key()
    (old,) = handle.gateway.app.models.lists
    handle.gateway.app.models.keep_fresh(replica)
    await upstream.wait_for_request(2)
    reading = old.task
    handle.gateway.reload(from_environ({**environ, "VLLM_API_KEY": "good"}))
    late.set()
    await reading
    assert (replica.health.key_refused, replica.health.key_changed) == (False, True)
    running.set()
    assert (await client.read_response()).status == 200


@pytest.mark.parametrize("mode", ["fallback", "allowlist"])
async def test_a_key_that_a_reload_mends_is_said_to_be_accepted(gateway, upstream, connect, monkeypatch, mode):
    monkeypatch.setattr(probes, "RETRY_S", 0.02)
    upstream.repeat(UNAUTHORIZED)
    refuse_list(upstream)
    environ = {**DEFAULTS, **env_for(vllm=upstream), "VLLM_MODELS": "m", "CONFIGURED_PROVIDER_MODELS_MODE": mode}
    handle = await gateway(environ, probes=True)
    own_error(await ask(await connect(handle)), 502, "instance_key_refused")
    await turned(lambda: instance_of(handle).health.key_refused)
    upstream._request_scripts.clear()
    upstream.repeat(OK)
    handle.gateway.reload(from_environ({**environ, "VLLM_API_KEY": "good"}))
    said = "Instance vllm accepts the key of the gateway now"
    await turned(lambda: [each.getMessage() for each in handle.logs.records].count(said) == 1)


async def test_a_model_list_that_is_refused_finds_it_before_a_client_does(gateway, make_upstream, connect):
    one, other = await make_upstream(), await make_upstream()
    refuse_list(one)
    other.repeat(OK)
    handle = await gateway(vllm=one, vllm_b=other, probes=True, VLLM_MODELS="m")
    await turned(lambda: instance_of(handle).health.key_refused)
    client = await connect(handle)
    await turned(lambda: instance_of(handle, "vllm-b").models)
    for _ in range(20):
        assert (await ask(client, BARE)).get("X-GoModel-Provider") == "vllm-b"
    assert one.requests == [] or all(each.target == "/v1/models" for each in one.requests)


@pytest.mark.parametrize(("refusal", "status"), [(UNAUTHORIZED, 502), (FORBIDDEN, 403), (UNLOADED, 404)])
async def test_when_all_refuse_the_last_one_has_the_word(pair, refusal, status):
    _, client, one, other = pair
    one.repeat(refusal)
    other.repeat(refusal)
    answer = await ask(client, BARE)
    assert answer.status == status
    if status != 502:
        assert answer.body == refusal.partition(b"\r\n\r\n")[2]
    assert (len(one.requests), len(other.requests)) == (1, 1)


@pytest.mark.parametrize("refusal", FAST)
async def test_without_retries_a_refusal_goes_nowhere_else(gateway, make_upstream, connect, refusal):
    one, other = await make_upstream(), await make_upstream()
    for each in (one, other):
        each.repeat(refusal)
    client = await connect(await gateway(vllm=one, vllm_b=other, RETRY_MAX_RETRIES="0"))
    await ask(client, LIST)
    assert (await ask(client, BARE)).status in (502, 403, 404)
    assert len(one.requests) + len(other.requests) == 1


@pytest.mark.parametrize("refusal", FAST)
async def test_the_other_instance_gets_the_same_body_spooled_forms_too(pair, refusal, spools, monkeypatch):
    monkeypatch.setattr("gomodel.balancing.choice.random", lambda: 0.0)
    _, client, one, other = pair
    sent = form("m", wav=b"x" * 400_000)
    one.repeat(refusal)
    assert (await ask(client, form_post(sent))).get("X-GoModel-Provider") == "vllm-b"
    assert one.requests[0].body == other.requests[0].body == sent
    await turned(lambda: spools() == 0)


@pytest.mark.usefixtures("first_of_equals")
async def test_an_unloaded_model_is_looked_for_once_and_the_list_is_read_again(gateway, make_upstream, connect):
    upstreams = [await make_upstream() for _ in range(3)]
    for each in upstreams[:2]:
        each.repeat(UNLOADED)
    upstreams[2].repeat(OK)
    handle = await gateway(vllm=upstreams[0], vllm_b=upstreams[1], vllm_c=upstreams[2], RETRY_MAX_RETRIES="5")
    client = await connect(handle)
    await ask(client, LIST)
    models = handle.gateway.app.models
    for each in models.lists:
        each.fetched_at -= 2.0
    for each in upstreams[:2]:
        each.on_request(json_response({"data": [{"id": "base"}]}), path="/v1/models")
    assert (await ask(client, BARE)).status == 404
    assert [sum(seen.method == "POST" for seen in each.requests) for each in upstreams] == [1, 1, 0]
    await turned(lambda: [each.name for each in handle.gateway.providers.by_model["m"]] == ["vllm-c"])
    assert (await ask(client, BARE)).get("X-GoModel-Provider") == "vllm-c"


async def test_a_model_that_an_instance_is_asked_for_by_name_and_does_not_have_says_nothing_of_its_list(pair):
    handle, client, one, _ = pair
    doubted = []
    handle.gateway.app._forwarder._on_unloaded = doubted.append
    one.repeat(UNLOADED)
    assert (await ask(client, bound_post(model="vllm/typo"))).status == 404
    assert doubted == []


@pytest.mark.parametrize("refusal", [UNLOADED, FORBIDDEN, response(b"boom", 500), response(b"", 429)])
async def test_what_a_caller_does_to_the_instance_it_names_costs_that_instance_nothing(pair, refusal):
    handle, client, one, other = pair
    one.repeat(refusal)
    answer = await ask(client, bound_post(model="vllm/typo"))
    assert (answer.status, answer.body) == (int(refusal[9:12]), refusal.partition(b"\r\n\r\n")[2])
    assert instance_of(handle).demotion.until == 0
    assert other.requests == []


@pytest.mark.usefixtures("first_of_equals")
async def test_only_work_that_was_done_ends_the_doubt(pair):
    handle, client, one, _ = pair
    one.on_request(response(b"boom", 500))
    assert (await ask(client, BARE)).status == 500
    demotion = instance_of(handle).demotion
    until = demotion.until
    assert until > 0
    for answer, left in ((response(b"not so", 400), until), (response(b"nor so", 422), until), (OK, 0)):
        one.on_request(answer)
        assert (await ask(client, bound_post())).status == int(answer[9:12])
        assert demotion.until == left


@pytest.mark.usefixtures("first_of_equals")
async def test_when_nobody_else_can_be_reached_the_refusal_is_the_answer(pair):
    _, client, one, other = pair
    one.repeat(FORBIDDEN)
    other.stop_listening()
    for each in other.open_connections:
        each.wire.close()
    answer = await ask(client, BARE)
    assert (answer.status, answer.body, answer.get("X-GoModel-Provider")) == (403, b'{"message":"Forbidden"}', "vllm")


@pytest.mark.usefixtures("first_of_equals")
async def test_a_refusal_during_a_large_upload_ends_its_connection(pair):
    """What has gone is not kept: the answer to a large body that streams through is the client's."""
    _, client, one, other = pair
    one.lenient = True
    one.on_request(ReadHead(), ReadBody(IN_MEMORY_BYTES + 1), FORBIDDEN, WaitFor(asyncio.Event()))
    body = json.dumps({"model": "m", "text": "x" * (IN_MEMORY_BYTES + 5000)}).encode()
    raw = request("POST", CHAT, [("Content-Type", "application/json")], body)
    await client.send(raw[:-2000])
    answer = await client.read_response()
    assert (answer.status, answer.get("Connection"), other.requests) == (403, "close", [])


@pytest.mark.usefixtures("first_of_equals")
async def test_a_refusal_of_unknown_length_is_not_held_back_and_the_next_request_goes_elsewhere(pair):
    _, client, one, _ = pair
    go_on = asyncio.Event()
    one.on_request(head(403, [("Transfer-Encoding", "chunked")]) + chunked(b"no"), WaitFor(go_on), LAST_CHUNK)
    await client.send(BARE)
    answer = await client.read_head()
    assert (answer.status, await client.read_chunk()) == (403, b"no")
    go_on.set()
    await client.read_rest()
    assert (await ask(client, BARE)).get("X-GoModel-Provider") == "vllm-b"
