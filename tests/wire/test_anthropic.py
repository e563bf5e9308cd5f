"""An Anthropic client: its key header in, the instance's bearer key out, and gomodel's own errors in its shape."""

import asyncio
import json

import pytest

from ..harness.scripted import (
    SSE_HEAD,
    Fin,
    Stall,
    WaitFor,
    chunked,
    json_response,
    request,
    response,
)
from ..harness.verdicts import ask

PATHS = [
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/messages?beta=true",
    "/p/vllm/v1/messages",
    "/p/vllm/messages",
]
VERSION = [("anthropic-version", "2023-06-01"), ("anthropic-beta", "tools-2024-04-04,x"), ("anthropic-beta", "y")]
JSON = [("Content-Type", "application/json")]
START = b'event: message_start\ndata: {"type":"message_start"}\n\n'


def post(path="/v1/messages", body=b'{"model":"vllm/m","max_tokens":1,"messages":[]}', headers=()):
    return request("POST", path, [*JSON, *headers], body)


def anthropic_error(answer, status, kind):
    """Assert Anthropic's one shape; returns the message."""
    assert (answer.status, answer.complete, answer.malformed) == (status, True, None), answer.raw[:500]
    assert answer.get("Content-Type") == "application/json"
    assert answer.get("X-Request-Id")
    document = answer.json()
    assert list(document) == ["type", "error"]
    assert (document["type"], document["error"]["type"]) == ("error", kind)
    assert sorted(document["error"]) == ["message", "type"]
    return document["error"]["message"]


@pytest.mark.parametrize("key", [("x-api-key", "master"), ("X-Api-Key", "master"), ("Authorization", "bearer master")])
@pytest.mark.parametrize("instance_key", ["instance", None])
async def test_either_key_lets_in_and_only_the_instances_own_goes_on(gateway, upstream, connect, key, instance_key):
    upstream.on_request(json_response({"type": "message"}))
    settings = {"VLLM_API_KEY": instance_key} if instance_key else {}
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY="master", **settings)
    answer = await ask(await connect(handle), post(headers=[key, *VERSION]))
    assert (answer.status, answer.json()) == (200, {"type": "message"})
    (seen,) = upstream.requests
    assert seen.get("Authorization") == (f"Bearer {instance_key}" if instance_key else None)
    assert seen.get("x-api-key") is None
    assert b"master" not in seen.raw
    assert [pair for pair in seen.headers if pair[0].startswith("anthropic-")] == VERSION
    assert seen.body == b'{"model":"m","max_tokens":1,"messages":[]}'


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [("x-api-key", "wrong")],
        [("x-api-key", "")],
        [("x-api-key", "Bearer master")],
        [("Authorization", "master")],
        [("x-api-key", "master"), ("x-api-key", "master")],
    ],
)
@pytest.mark.parametrize("path", [*PATHS, "/v1/messages/unknown", "/p/nobody/messages"])
async def test_without_the_key_it_is_a_401_in_anthropics_shape(gateway, upstream, connect, path, keys):
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY="master")
    answer = await ask(await connect(handle), post(path, headers=keys))
    anthropic_error(answer, 401, "authentication_error")
    assert answer.get("WWW-Authenticate") == "Bearer"
    assert upstream.connections == []


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"", "invalid_request_error", 400),
        (b"not json", "invalid_request_error", 400),
        (b"[]", "invalid_request_error", 400),
        (b'{"messages":[]}', "invalid_request_error", 400),
        (b'{"model":7}', "invalid_request_error", 400),
        (b'{"model":"vllm/m","model":"n"}', "invalid_request_error", 400),
        (b'{"model":"vllm/"}', "invalid_request_error", 400),
        (b'{"model":"nobody/m"}', "not_found_error", 404),
        (b'{"model":"vllm/m","x":"' + b"x" * 2000 + b'"}', "request_too_large", 413),
    ],
)
async def test_a_body_without_a_usable_model_is_refused_in_anthropics_shape(
    gateway, make_upstream, connect, body, kind, status
):
    one, other = await make_upstream(), await make_upstream()
    handle = await gateway(vllm=one, vllm_b=other, BODY_SIZE_LIMIT="1K")
    anthropic_error(await ask(await connect(handle), post(body=body)), status, kind)
    assert one.requests + other.requests == []


@pytest.mark.parametrize(
    ("raw", "status", "kind"),
    [
        (request("GET", "/v1/messages"), 405, "invalid_request_error"),
        (post(headers=[("Expect", "a miracle")]), 417, "invalid_request_error"),
        (request("POST", "/v1/messages/"), 404, "not_found_error"),
        (request("POST", "/v1//messages"), 404, None),
        (request("POST", "/v1/messages/%2e%2e"), 400, "invalid_request_error"),
        (request("POST", "/p/nobody/v1/messages"), 404, "not_found_error"),
        (post(headers=[("Connection", "content-length")]), 400, "invalid_request_error"),
    ],
)
async def test_a_request_that_is_no_message_is_refused_in_anthropics_shape(
    gateway, upstream, connect, raw, status, kind
):
    answer = await ask(await connect(await gateway(vllm=upstream)), raw)
    assert (answer.status, upstream.connections) == (status, [])
    if kind is not None:  # else no path of Anthropic's
        anthropic_error(answer, status, kind)


async def test_closed_passthrough_is_refused_in_anthropics_shape(gateway, upstream, connect):
    handle = await gateway(vllm=upstream, ENABLE_PASSTHROUGH_ROUTES="false")
    anthropic_error(await ask(await connect(handle), post("/p/vllm/v1/messages")), 404, "not_found_error")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("steps", "settings", "status", "kind"),
    [
        pytest.param((Fin(),), {}, 502, "api_error", id="closed"),
        pytest.param((b"garbage\r\n\r\n", Stall()), {}, 502, "api_error", id="garbage"),
        pytest.param((Stall(),), {"HTTP_RESPONSE_HEADER_TIMEOUT": "100ms"}, 504, "timeout_error", id="silence"),
    ],
)
async def test_an_instances_failure_is_told_in_anthropics_shape(
    gateway, upstream, connect, path, steps, settings, status, kind
):
    upstream.on_request(*steps)
    answer = await ask(await connect(await gateway(vllm=upstream, **settings)), post(path))
    assert "'vllm'" in anthropic_error(answer, status, kind)


async def test_refusal_to_connect_and_the_open_breaker_are_told_in_anthropics_shape(gateway, upstream, connect):
    upstream.stop_listening()
    handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="0", CIRCUIT_BREAKER_FAILURE_THRESHOLD="1")
    client = await connect(handle)
    anthropic_error(await ask(client, post()), 502, "api_error")
    refused = await ask(client, post())
    anthropic_error(refused, 503, "overloaded_error")
    assert refused.get("Retry-After")


async def test_an_upload_that_stalls_is_a_408_in_anthropics_shape(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream, HTTP_REQUEST_IDLE_TIMEOUT="100ms"))
    await client.send(post()[:-20])
    anthropic_error(await client.read_response(), 408, "timeout_error")


async def test_a_body_over_the_limit_without_a_length_is_a_413_in_anthropics_shape(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream, BODY_SIZE_LIMIT="10K"))
    await client.send(post(body=[b"{" + b" " * 60_000] * 100))
    anthropic_error(await client.read_response(), 413, "request_too_large")


async def test_a_draining_gateway_refuses_in_anthropics_shape(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    handle.gateway.app.refusing = True
    anthropic_error(await ask(client, post()), 503, "overloaded_error")


async def test_a_bug_of_ours_says_nothing_of_itself_in_anthropics_shape(gateway, upstream, connect, monkeypatch):
    handle = await gateway(vllm=upstream)
    handle.expect_error("failed inside the gateway")

    def broken(selector):
        raise RuntimeError("canary")

    monkeypatch.setattr(handle.gateway.providers, "resolve", broken)
    answer = await ask(await connect(handle), post())
    anthropic_error(answer, 500, "api_error")
    assert b"canary" not in answer.raw


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503, 529])
@pytest.mark.parametrize("path", ["/v1/messages", "/p/vllm/v1/messages"])
async def test_an_error_of_the_instance_keeps_the_shape_it_came_in(gateway, upstream, connect, status, path):
    body = b'{"error": {"message":"no","type":"Bad Request","code":%d}}' % status
    upstream.on_request(response(body, status, [("Retry-After", "3"), ("request-id", "req_1")]))
    answer = await ask(await connect(await gateway(vllm=upstream)), post(path))
    assert (answer.status, answer.body, answer.get("Retry-After"), answer.get("request-id")) == (
        status,
        body,
        "3",
        "req_1",
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("how", ["fin", "silence"])
async def test_a_stream_that_breaks_off_between_events_ends_with_an_error_event(gateway, upstream, connect, path, how):
    go_on = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(START), WaitFor(go_on), Fin() if how == "fin" else Stall())
    client = await connect(await gateway(vllm=upstream, HTTP_STREAM_IDLE_TIMEOUT="150ms"))
    await client.send(post(path))
    answer = await client.read_head()
    await client.read_body_until(START)
    go_on.set()
    await client.read_rest()
    assert (answer.complete, answer.end) == (False, "fin")
    name, data, *rest = answer.body.removeprefix(START).split(b"\n")
    assert (name, data[:6], rest) == (b"event: error", b"data: ", [b"", b""])
    document = json.loads(data[6:])
    assert (document["type"], document["error"]["type"]) == ("error", "api_error")
    assert "'vllm'" in document["error"]["message"]


@pytest.mark.parametrize("so_far", [START[:-1], START + b"event: content_block_delta\n", START + b"data: {"])
async def test_a_stream_that_breaks_off_inside_an_event_is_cut_right_there(gateway, upstream, connect, so_far):
    go_on = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(so_far), WaitFor(go_on), Fin())
    client = await connect(await gateway(vllm=upstream))
    await client.send(post())
    answer = await client.read_head()
    await client.read_body_until(so_far)
    go_on.set()
    await client.read_rest()
    assert (answer.body, answer.complete, answer.end) == (so_far, False, "fin")


async def test_an_instances_own_error_event_and_clean_end_pass(gateway, upstream, connect):
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"busy"}}\n\n'
    upstream.on_request(SSE_HEAD + chunked(START, error) + b"0\r\n\r\n")
    answer = await ask(await connect(await gateway(vllm=upstream)), post())
    assert (answer.body, answer.complete, answer.end) == (START + error, True, "keepalive")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messagesfoo", "/v2/messages", "/p/vllm/chat/messages"])
async def test_other_routes_keep_openais_shape(gateway, upstream, connect, path):
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY="master")
    assert "code" in (await ask(await connect(handle), post(path))).json()["error"]
