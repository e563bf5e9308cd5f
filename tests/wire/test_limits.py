"""Limits of a key as a client meets them: who gets 429, what it says, and that any end of a request frees its place."""

import json
import os
from time import monotonic

import pytest

from gomodel.access import host_usage

from ..harness.keys import ALICE, BOB, MASTER, chat, entry, get, take
from ..harness.scripted import SSE_HEAD, Fin, ReadHead, Reset, Stall, request, response
from ..harness.verdicts import CHAT, KEPT, OK, access_lines, ask, turned

WAYS = pytest.mark.parametrize("late", [False, True], ids=["at once", "by the task"])


@pytest.fixture(autouse=True)
def nothing_used(monkeypatch):
    """Each test has a host of its own."""
    monkeypatch.setattr(host_usage, "shared", host_usage.HostUsage())


@pytest.fixture
def of_two_workers(monkeypatch):
    """This process is one of two."""
    usage = host_usage.HostUsage(2)
    monkeypatch.setattr(host_usage, "shared", usage)
    yield
    os.close(usage.fd)


def running(handle):
    return {each.name: each.limits.used()[0] for each in handle.gateway.app.callers.met if each.limits is not None}


async def busy(client, key=ALICE, late=False):
    """A request that the instance has begun to answer."""
    await client.send(chat(key, late=late))
    await client.read_head()


@WAYS
async def test_one_too_many_is_refused_and_the_next_one_after_the_first_is_over(keyed, upstream, connect, late):
    upstream.on_request(SSE_HEAD + b"5\r\ndata1\r\n", Stall(), b"0\r\n\r\n", path=CHAT)
    upstream.repeat(OK)
    handle = await keyed(entry("alice", ALICE, in_flight=1) + entry("bob", BOB), vllm=upstream)
    first, second = await connect(handle), await connect(handle)
    await busy(first, late=late)
    for _ in range(3):  # with a new head, and with one that is known
        answer = await ask(second, chat(ALICE, late=late))
        assert (answer.status, answer.get("Retry-After"), answer.get("X-Request-Id") is not None) == (429, "1", True)
        assert answer.json() == {
            "error": {
                "message": "The key 'alice' may have 1 requests at once.",
                "type": "rate_limit_error",
                "param": None,
                "code": "rate_limit_exceeded",
            }
        }
    anthropic = (await ask(second, chat(ALICE, path="/v1/messages", late=late))).json()
    assert (anthropic["type"], anthropic["error"]["type"]) == ("error", "rate_limit_error")
    assert [(await ask(second, chat(key, late=late))).status for key in (BOB, MASTER)] == [200, 200]
    upstream.release()
    assert (await first.read_rest()).complete
    assert (await ask(second, chat(ALICE, late=late))).status == 200
    assert running(handle) == {"alice": 0}
    refused = [line for line in access_lines(handle) if line["status"] == 429]
    assert {(line["key"], line["reason"]) for line in refused} == {("alice", "rate_limit_exceeded")}
    assert len(upstream.requests) == 4


async def test_what_the_gateway_answers_itself_counts_for_nothing(keyed, upstream, connect):
    upstream.repeat(OK)
    handle = await keyed(entry("alice", ALICE, requests_per_minute=1, admin=True), vllm=upstream)
    client = await connect(handle)
    for _ in range(3):
        for path in ("/v1/models", "/health", "/admin/requests"):
            answer = await ask(client, get(ALICE, path))
            assert (answer.status, answer.get("x-ratelimit-limit-requests")) == (200, None)
    assert (await ask(client, chat(ALICE))).status == 200
    for path in (CHAT, "/v1/of-a-later-release"):
        assert (await ask(client, chat(ALICE, path=path))).status == 429
    assert (await ask(client, get(ALICE, "/version"))).status == 429


@WAYS
async def test_what_comes_to_no_attempt_is_given_back_to_the_minute(keyed, make_upstream, connect, late):
    one, other = await make_upstream(models=("m",)), await make_upstream(models=("m",))
    one.repeat(OK)
    handle = await keyed(entry("alice", ALICE, requests_per_minute=2), vllm=one, vllm_b=other)
    client = await connect(handle)
    broken = request("POST", CHAT, [("Authorization", f"Bearer {ALICE}")], b'{"model":')
    for _ in range(3):
        assert (await ask(client, chat(ALICE, "unknown", late=late))).status == 404
        assert (await ask(await connect(handle), broken)).status == 400
    assert [(await ask(client, chat(ALICE, late=late))).status for _ in range(4)] == [200, 200, 429, 429]
    assert (len(one.requests), len(other.requests)) == (2, 0)
    assert running(handle) == {"alice": 0}


@WAYS
async def test_an_attempt_that_failed_counts(keyed, make_upstream, connect, late):
    dead = await make_upstream()
    dead.stop_listening()
    text = entry("alice", ALICE, requests_per_minute=1)
    handle = await keyed(text, vllm=dead, RETRY_MAX_RETRIES="0", CONFIGURED_PROVIDER_MODELS_MODE="allowlist")
    client = await connect(handle)
    assert [(await ask(client, chat(ALICE, late=late))).status for _ in range(2)] == [502, 429]


@WAYS
async def test_every_answer_says_what_is_left_as_openai_names_it(keyed, upstream, connect, late):
    own = [("X-RateLimit-Remaining-Requests", "77"), ("x-ratelimit-limit-tokens", "88"), ("x-rate", "1")]
    upstream.repeat(response(b"{}", 200, own))
    text = entry("alice", ALICE, requests_per_minute=2, tokens_per_minute=1000) + entry("bob", BOB)
    handle = await keyed(text, vllm=upstream)
    client = await connect(handle)
    seen = []
    for _ in range(3):
        answer = await ask(client, chat(ALICE, late=late))
        fields = {name: value for name, value in answer.headers if name.lower().startswith("x-rate")}
        seen.append((answer.status, fields.pop("x-rate", None)))
        left = max(0, 2 - len(seen))
        assert fields == {
            "x-ratelimit-limit-requests": "2",
            "x-ratelimit-remaining-requests": str(left),
            "x-ratelimit-reset-requests": "1m0s",
            "x-ratelimit-limit-tokens": "1000",
            "x-ratelimit-remaining-tokens": "1000",
            "x-ratelimit-reset-tokens": "0s",
        }
    assert seen == [(200, "1"), (200, "1"), (429, None)]
    assert 1 <= int(answer.get("Retry-After")) <= 60
    answer = await ask(client, chat(BOB, late=late))  # without limits an instance's own pass
    assert answer.get_all("x-ratelimit-remaining-requests") == ["77"]


async def test_a_minute_later_there_is_more(keyed, upstream, connect, monkeypatch):
    upstream.repeat(response(b'{"usage":{"prompt_tokens":7,"total_tokens":10,"completion_tokens":3}}', 200))
    now = [float(int(monotonic()))]
    monkeypatch.setattr("gomodel.middleware.monotonic", lambda: now[0])  # when requests begin and end
    text = entry("alice", ALICE, requests_per_minute=1) + entry("bob", BOB, tokens_per_minute=10)
    handle = await keyed(text, vllm=upstream)
    client = await connect(handle)
    for key in (ALICE, BOB):
        assert (await ask(client, chat(key))).status == 200
    for key in (ALICE, BOB):
        answer = await ask(client, chat(key))
        assert (answer.status, answer.get("Retry-After")) == (429, "60")
    now[0] += 60.0
    for key in (ALICE, BOB):
        assert (await ask(client, chat(key))).status == 200


@pytest.mark.parametrize(
    "script",
    [
        [Fin()],
        [Reset()],
        [b"HTTP/1.1 nonsense\r\n\r\n"],
        [response(b"no", 500)],
        [SSE_HEAD + b"5\r\ndata1\r\n", Reset()],
        [response(b"no", 503)],
        [ReadHead(), response(b"early", 413), Fin()],
    ],
    ids=["no answer", "reset", "no HTTP", "500", "broken stream", "503", "early answer"],
)
@WAYS
async def test_a_place_is_free_again_whatever_the_instance_did(keyed, upstream, connect, script, late):
    upstream.on_request(*script, path=CHAT)
    upstream.repeat(OK)
    handle = await keyed(entry("alice", ALICE, in_flight=1), vllm=upstream, RETRY_MAX_RETRIES="0")
    client = await connect(handle)
    await ask(client, chat(ALICE, late=late))
    await turned(lambda: running(handle) == {"alice": 0})
    assert (await ask(await connect(handle), chat(ALICE, late=late))).status == 200


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (chat(ALICE, "nowhere/m", path="/v1/embeddings"), 404),
        (request("POST", CHAT, [("x-api-key", ALICE)], b"no json"), 400),
        (request("POST", CHAT, [("x-api-key", ALICE)], b'{"model":"vllm/"}'), 400),
        (request("POST", "/p/none/x", [("x-api-key", ALICE)], b"{}"), 404),
        (request("GET", "/v1/realtime", [("x-api-key", ALICE)]), 426),
        (chat(ALICE, "vllm/other"), 403),
    ],
    ids=["unknown model", "no JSON", "no model", "unknown instance", "no WebSocket", "not allowed"],
)
async def test_a_place_is_free_again_after_a_refusal(keyed, make_upstream, connect, raw, status):
    one, other = await make_upstream(), await make_upstream()
    one.repeat(OK)
    text = entry("alice", ALICE, in_flight=1, passthrough=True, models=["vllm/m", "nowhere/*", "none/*"])
    handle = await keyed(text, vllm=one, vllm_b=other)
    client = await connect(handle)
    for _ in range(2):
        assert (await ask(client, raw)).status == status
    await turned(lambda: running(handle) == {"alice": 0})
    assert (await ask(await connect(handle), chat(ALICE))).status == 200


@pytest.mark.parametrize("leave", ["close", "reset"])
@pytest.mark.parametrize("phase", ["upload", "head", "stream"])
@WAYS
async def test_a_place_is_free_again_when_the_client_leaves(keyed, upstream, connect, leave, phase, late):
    if phase != "upload":
        upstream.on_request(*([SSE_HEAD + b"5\r\ndata1\r\n"] if phase == "stream" else []), Stall(), path=CHAT)
    upstream.repeat(OK)
    handle = await keyed(entry("alice", ALICE, in_flight=1), vllm=upstream)
    client = await connect(handle)
    raw = chat(ALICE, late=late)
    await client.send(raw[:-3] if phase == "upload" else raw)
    if phase == "stream":
        await client.read_head()
    else:
        await turned(lambda: running(handle) == {"alice": 1})
        if phase == "head":
            await turned(lambda: upstream.requests)
    assert running(handle) == {"alice": 1}
    getattr(client.wire, leave)()
    await turned(lambda: running(handle) == {"alice": 0})
    assert (await ask(await connect(handle), chat(ALICE))).status == 200


@pytest.mark.parametrize(
    "limit", ["HTTP_TIMEOUT", "HTTP_RESPONSE_HEADER_TIMEOUT", "HTTP_STREAM_IDLE_TIMEOUT", "HTTP_REQUEST_IDLE_TIMEOUT"]
)
async def test_a_place_is_free_again_after_a_timeout(keyed, upstream, connect, limit):
    begun = [SSE_HEAD + b"5\r\ndata1\r\n"] if limit == "HTTP_STREAM_IDLE_TIMEOUT" else []
    if limit != "HTTP_REQUEST_IDLE_TIMEOUT":
        upstream.on_request(*begun, Stall(), path=CHAT)
    upstream.repeat(OK)
    handle = await keyed(entry("alice", ALICE, in_flight=1), vllm=upstream, **{limit: "300ms"})
    client = await connect(handle)
    raw = chat(ALICE)
    await client.send(raw[:-3] if limit == "HTTP_REQUEST_IDLE_TIMEOUT" else raw)
    await client.read_response()
    await turned(lambda: running(handle) == {"alice": 0})
    assert (await ask(await connect(handle), chat(ALICE))).status == 200


async def test_a_place_is_free_again_when_an_operator_ends_the_request(keyed, upstream, connect):
    upstream.on_request(Stall(), path=CHAT)
    handle = await keyed(entry("alice", ALICE, in_flight=1), vllm=upstream)
    client, operator = await connect(handle), await connect(handle)
    await client.send(chat(ALICE, headers=[("X-Request-Id", "r1")]))
    await turned(lambda: upstream.requests)
    ended = request("DELETE", "/admin/requests/r1", [("x-api-key", MASTER)])
    assert (await ask(operator, ended)).status == 200
    assert (await client.read_response()).status == 503
    assert running(handle) == {"alice": 0}


async def test_a_request_that_runs_counts_over_a_reload_and_a_changed_file(keyed, upstream, connect):
    upstream.on_request(SSE_HEAD + b"5\r\ndata1\r\n", Stall(), b"0\r\n\r\n", path=CHAT)
    upstream.repeat(OK)
    text = entry("alice", ALICE, in_flight=1)
    handle = await keyed(text, vllm=upstream, **KEPT)
    first, second = await connect(handle), await connect(handle)
    await busy(first)
    handle.gateway.reload(handle.gateway.config)
    assert (await ask(second, chat(ALICE))).status == 429
    take(handle, entry("alice", ALICE, in_flight=2))
    assert (await ask(second, chat(ALICE))).status == 200
    take(handle, entry("alice", ALICE))
    assert (await ask(second, chat(ALICE))).status == 200
    take(handle, text)
    assert (await ask(second, chat(ALICE))).status == 429
    upstream.release()
    await first.read_rest()
    assert (await ask(second, chat(ALICE))).status == 200
    assert running(handle) == {"alice": 0}


@pytest.mark.usefixtures("of_two_workers")
async def test_while_another_worker_decides_a_request_waits_and_nobody_else_does(keyed, upstream, connect, monkeypatch):
    upstream.repeat(OK)
    held = [True]
    genuine = host_usage.Account.lock
    monkeypatch.setattr(host_usage.Account, "lock", lambda self: not held[0] and genuine(self))
    handle = await keyed(entry("alice", ALICE, in_flight=1) + entry("bob", BOB), vllm=upstream)
    alice, bob = await connect(handle), await connect(handle)
    await alice.send(chat(ALICE))
    await turned(lambda: handle.gateway.telemetry.running.records)
    assert (await ask(bob, chat(BOB))).status == 200
    assert len(upstream.requests) == 1
    held[0] = False
    assert (await alice.read_response()).status == 200


@pytest.mark.usefixtures("of_two_workers")
async def test_a_worker_that_never_ends_its_decision_is_not_waited_for_for_ever(keyed, upstream, connect, monkeypatch):
    upstream.repeat(OK)
    monkeypatch.setattr("gomodel.checks._ATTEMPTS", 3)
    monkeypatch.setattr(host_usage.Account, "lock", lambda self: False)
    client = await connect(await keyed(entry("alice", ALICE, in_flight=1), vllm=upstream))
    assert (await ask(client, chat(ALICE))).status == 200


async def test_the_metrics_say_what_was_refused(keyed, upstream, connect):
    upstream.repeat(OK)
    handle = await keyed(entry("alice", ALICE, requests_per_minute=1), vllm=upstream)
    client = await connect(handle)
    assert [(await ask(client, chat(ALICE))).status for _ in range(3)] == [200, 429, 429]
    text = (await ask(client, get(MASTER, "/metrics"))).body.decode()
    assert 'gomodel_key_refused_total{key="alice",limit="requests_per_minute"} 2.0' in text
    assert json.loads((await ask(client, get(MASTER, "/admin/requests"))).body) == {"requests": []}
