"""Callers with keys of their own: who is let in, to what, until when, and under which name (contract section 9)."""

from hashlib import sha256

import pytest

from gomodel.routes.route import Kind

from ..harness.keys import ALICE, BOB, MASTER, chat, entry, get, take
from ..harness.scripted import SSE_HEAD, Stall, json_response, request
from ..harness.verdicts import CHAT, OK, access_lines, ask, turned

UNKNOWN = "Missing or invalid API key. Send 'Authorization: Bearer <key>' or 'x-api-key: <key>'."


def refusal(answer, code="not_allowed"):
    assert answer.status == 403
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("permission_error", code)
    return error["message"]


WAYS = pytest.mark.parametrize("late", [False, True], ids=["at once", "by the task"])


@WAYS
async def test_every_key_lets_in_and_its_name_is_what_is_seen_of_it(keyed, upstream, connect, late):
    upstream.repeat(OK)
    handle = await keyed(entry("alice", ALICE) + entry("bob", BOB), vllm=upstream)
    client = await connect(handle)
    for key in (ALICE, BOB, MASTER, ALICE, ALICE):
        assert (await ask(client, chat(key, late=late))).status == 200
    answer = await ask(client, chat("sk-nobody", late=late))
    assert (answer.status, answer.json()["error"]["message"]) == (401, UNKNOWN)
    await turned(lambda: len(access_lines(handle)) == 6)
    assert [line.get("key") for line in access_lines(handle)] == ["alice", "bob", "master", "alice", "alice", None]
    seen = handle.logs.text + repr(handle.config) + repr(vars(handle.gateway.app.callers))
    for key in (ALICE, BOB, MASTER):
        assert key not in seen
        assert sha256(key.encode()).hexdigest() not in seen


@pytest.mark.parametrize(
    "fields",
    [
        [("x-api-key", ALICE)],
        [("api-key", ALICE)],
        [("Authorization", "Bearer dummy"), ("x-api-key", ALICE)],
        [("Sec-WebSocket-Protocol", f"realtime, openai-insecure-api-key.{ALICE}")],
    ],
)
async def test_a_key_may_stand_wherever_the_master_key_may(keyed, upstream, connect, fields):
    upstream.repeat(OK)
    handle = await keyed(entry("alice", ALICE), vllm=upstream)
    client = await connect(handle)
    assert (await ask(client, request("POST", CHAT, fields, b'{"model":"m"}'))).status == 200
    doubled = [*fields, *fields]
    assert (await ask(client, request("POST", CHAT, doubled, b'{"model":"m"}'))).status == 401


async def test_a_keys_file_alone_lets_in_who_stands_in_it(keyed, upstream, connect):
    upstream.repeat(OK)
    client = await connect(await keyed(entry("alice", ALICE), vllm=upstream, GOMODEL_MASTER_KEY=""))
    assert (await ask(client, chat(ALICE))).status == 200
    assert (await ask(client, request("POST", CHAT, [], b"{}"))).status == 401
    assert refusal(await ask(client, get(ALICE, "/admin/requests")))


async def test_a_key_that_is_taken_out_is_refused_on_a_connection_where_its_head_was_known(keyed, upstream, connect):
    upstream.repeat(OK)
    both = entry("alice", ALICE) + entry("bob", BOB)
    handle = await keyed(both, vllm=upstream)
    alice, bob = await connect(handle), await connect(handle)
    for client, key in ((alice, ALICE), (bob, BOB)) * 2:
        assert (await ask(client, chat(key))).status == 200
    take(handle, entry("bob", BOB))
    assert (await ask(alice, chat(ALICE))).status == 401
    assert (await ask(bob, chat(BOB))).status == 200
    take(handle, both)
    assert (await ask(alice, chat(ALICE))).status == 200
    assert len(upstream.requests) == 6


async def test_a_key_that_expires_is_refused_on_a_connection_where_its_head_was_known(
    keyed, upstream, connect, monkeypatch
):
    upstream.repeat(OK)
    now = [1.0]
    monkeypatch.setattr("gomodel.access.callers.time", lambda: now[0])
    handle = await keyed(entry("alice", ALICE, expires="2027-01-01"), vllm=upstream)
    client = await connect(handle)
    for _ in range(2):
        assert (await ask(client, chat(ALICE))).status == 200
    now[0] = 1798761600.0
    handle.gateway.app.callers._look()  # as the timer does
    assert (await ask(client, chat(ALICE))).status == 401


async def test_a_request_that_runs_goes_on_when_its_key_is_taken_out(keyed, upstream, connect):
    first, rest = b"5\r\ndata1\r\n", b"5\r\ndata2\r\n0\r\n\r\n"
    upstream.on_request(SSE_HEAD + first, Stall(), rest, path=CHAT)
    handle = await keyed(entry("alice", ALICE), vllm=upstream)
    client = await connect(handle)
    await client.send(chat(ALICE))
    await client.read_head()
    await client.read_body_until(b"data1")
    take(handle, "[keys]\n")
    upstream.release()
    answer = await client.read_rest()
    assert (answer.status, answer.body, answer.complete) == (200, b"data1data2", True)
    assert (await ask(client, chat(ALICE))).status == 401
    assert [each.running for each in handle.gateway.app.callers.met] == [0]


@pytest.mark.parametrize(
    ("target", "right"),
    [("/admin/requests", "admin"), ("/metrics", "metrics"), ("/p/vllm/version", "passthrough")],
)
async def test_what_is_the_operators_takes_a_right(keyed, upstream, connect, target, right):
    upstream.repeat(OK)
    text = entry("alice", ALICE) + entry("bob", BOB, **{right: True})
    handle = await keyed(text, vllm=upstream)
    client = await connect(handle)
    message = refusal(await ask(client, get(ALICE, target)))
    assert "'alice'" in message
    assert f"{right} = true" in message
    for key in (BOB, MASTER):
        assert (await ask(client, get(key, target))).status == 200
    others = {"/admin/requests", "/metrics", "/p/vllm/version"} - {target}
    for other in others:
        assert refusal(await ask(client, get(BOB, other)))
    assert (await ask(client, request("DELETE", "/admin/requests/x", [("x-api-key", ALICE)]))).status == 403
    assert {line["key"] for line in access_lines(handle) if line["status"] == 403} == {"alice", "bob"}


OPERATORS = [
    ("GET", "/admin/requests"),
    ("DELETE", "/admin/requests/x"),
    ("GET", "/admin/usage"),
    ("GET", "/admin/keys"),
    ("GET", "/admin/history"),
    ("GET", "/admin/engines"),
    ("GET", "/admin/failures"),
    ("GET", "/admin/configuration"),
    ("GET", "/admin/instances"),
    ("POST", "/admin/instances/vllm/drain"),
    ("POST", "/admin/instances/vllm/resume"),
]


@pytest.mark.parametrize(("method", "target"), OPERATORS)
async def test_every_route_of_operators_is_closed_to_a_key_that_is_none(keyed, upstream, connect, method, target):
    upstream.repeat(OK)
    client = await connect(await keyed(entry("alice", ALICE, metrics=True, passthrough=True), vllm=upstream))
    body = b"" if method == "POST" else None
    refusal(await ask(client, request(method, target, [("Authorization", f"Bearer {ALICE}")], body)))
    allowed = await ask(client, request(method, target, [("Authorization", f"Bearer {MASTER}")], body))
    assert allowed.status in (200, 404)


async def test_no_route_of_operators_is_missing_above(keyed, upstream):
    handle = await keyed(entry("alice", ALICE), vllm=upstream)
    resolve = handle.gateway.app._recording._resolve
    kinds = {resolve(target).kind for _, target in OPERATORS}
    assert kinds == {kind for kind in Kind if kind.name.startswith("ADMIN_")}


async def test_routes_that_administer_a_server_take_both_rights_even_where_they_are_open(keyed, upstream, connect):
    upstream.repeat(OK)
    text = entry("alice", ALICE, passthrough=True) + entry("bob", BOB, passthrough=True, admin=True)
    client = await connect(await keyed(text, vllm=upstream, PASSTHROUGH_ADMIN_ROUTES="true"))
    for target in ("/p/vllm/v1/load_lora_adapter", "/p/vllm/sleep?level=1"):
        for key, status in ((ALICE, 403), (BOB, 200), (MASTER, 200)):
            raw = request("POST", target, [("Authorization", f"Bearer {key}")], b"{}")
            assert (await ask(client, raw)).status == status


async def test_a_replica_is_named_by_its_address_by_operators_alone(keyed, upstream, connect):
    upstream.repeat(OK)
    text = entry("alice", ALICE, passthrough=True) + entry("bob", BOB, passthrough=True, admin=True)
    handle = await keyed(text, vllm=upstream)
    client = await connect(handle)
    named, unknown = handle.replica().address, "10.0.0.9:8000"
    for key, status, missing in ((ALICE, 403, 403), (BOB, 200, 404), (MASTER, 200, 404)):
        fields = [("Authorization", f"Bearer {key}")]
        answer = await ask(client, request("GET", "/p/vllm/version", [*fields, ("X-GoModel-Replica", named)]))
        assert answer.status == status
        answer = await ask(client, request("GET", "/p/vllm/version", [*fields, ("X-GoModel-Replica", unknown)]))
        assert (answer.status, named in answer.json()["error"]["message"]) == (missing, missing == 404)


@pytest.mark.parametrize("target", ["/health", "/health/ready", "/"])
async def test_what_is_open_stays_open(keyed, upstream, connect, target):
    client = await connect(await keyed(entry("alice", ALICE), vllm=upstream))
    assert (await ask(client, request("GET", target))).status == 200


@WAYS
@pytest.mark.parametrize(
    ("patterns", "model", "expected"),
    [
        (["vllm/*"], "vllm/m", 200),
        (["vllm/*"], "m", 200),
        (["m"], "vllm/m", 200),
        (["m"], "vllm/m2", 403),
        (["m"], "m2", 403),
        (["vllm-b/*"], "vllm/m", 403),
        (["vllm/M"], "vllm/m", 403),
    ],
)
async def test_a_key_for_some_models_is_refused_for_others(keyed, upstream, connect, patterns, model, expected, late):
    upstream.repeat(OK)
    handle = await keyed(entry("alice", ALICE, models=patterns), vllm=upstream)
    client = await connect(handle)
    for _ in range(2):  # with a new head, and with one that is known
        answer = await ask(client, chat(ALICE, model, late=late))
        assert answer.status == expected
    assert (await ask(client, chat(MASTER, model, late=late))).status == 200
    if expected == 403:
        assert "'alice'" in refusal(answer)
        assert answer.json()["error"]["param"] == "model"
        assert len(upstream.requests) == 1
        anthropic = await ask(client, chat(ALICE, model, "/v1/messages", late=late))
        assert (anthropic.status, anthropic.json()["error"]["type"]) == (403, "permission_error")
        assert access_lines(handle)[-1]["key"] == "alice"


async def test_of_several_instances_only_those_are_asked_that_the_key_is_for(keyed, make_upstream, connect):
    one, other = await make_upstream(models=("m",)), await make_upstream(models=("m",))
    one.repeat(OK)
    other.repeat(OK)
    text = entry("alice", ALICE, models=["vllm-b/*"]) + entry("bob", BOB, models=["m"])
    client = await connect(await keyed(text, vllm=one, vllm_b=other))
    assert (await ask(client, get(MASTER, "/v1/models"))).status == 200  # all lists are known now
    for _ in range(6):
        assert (await ask(client, chat(ALICE, "m"))).status == 200
    assert (len(one.requests), len(other.requests)) == (0, 6)
    assert (await ask(client, chat(BOB, "m"))).status == 200


async def test_the_list_of_models_shows_a_key_what_it_is_for(keyed, make_upstream, connect):
    one, other = await make_upstream(models=("a/x", "a/y")), await make_upstream(models=("a/x", "b"))
    text = entry("alice", ALICE, models=["a/x"]) + entry("bob", BOB, models=["vllm-b/*"])
    handle = await keyed(text, vllm=one, vllm_b=other)
    client = await connect(handle)

    async def ids(key):
        return [each["id"] for each in (await ask(client, get(key, "/v1/models"))).json()["data"]]

    assert await ids(ALICE) == ["vllm/a/x", "vllm-b/a/x"]
    assert await ids(BOB) == ["vllm-b/a/x", "vllm-b/b"]
    assert await ids(MASTER) == ["vllm/a/x", "vllm/a/y", "vllm-b/a/x", "vllm-b/b"]
    seen = [(await ask(client, get(BOB, f"/v1/models/{each}"))).status for each in ("vllm-b/b", "b", "vllm/a/y", "a/y")]
    assert seen == [200, 200, 404, 404]


@WAYS
async def test_an_unknown_model_tells_a_key_for_some_models_nothing_of_the_others(keyed, make_upstream, connect, late):
    one, other = await make_upstream(models=("secret-model",)), await make_upstream(models=("m",))
    handle = await keyed(entry("alice", ALICE, models=["m"]), vllm=one, vllm_b=other)
    client = await connect(handle)
    asked = [chat(key, "secret-modal", late=late) for key in (MASTER, ALICE)]
    asked.append(get(ALICE, "/v1/models/secret-modal"))
    told, hidden, listed = [(await ask(client, each)).json()["error"] for each in asked]
    assert "secret-model" in told["message"]
    assert hidden == listed
    assert (hidden["code"], hidden["param"]) == ("model_not_found", "model")
    assert hidden["message"] == (
        "There is no such model, or the key 'alice' is not good for it; GET /v1/models lists those that it is good for."
    )
    await turned(lambda: len(access_lines(handle)) == 3)
    assert access_lines(handle)[1]["model"] == "secret-modal"


@pytest.mark.parametrize("ids", ["bare", "both"])
async def test_the_list_of_models_does_so_under_bare_ids(keyed, make_upstream, connect, ids):
    one, other = await make_upstream(models=("a/x", "a/y")), await make_upstream(models=("a/x", "b"))
    handle = await keyed(entry("bob", BOB, models=["vllm-b/*"]), vllm=one, vllm_b=other, MODEL_IDS=ids)
    client = await connect(handle)
    found = [each["id"] for each in (await ask(client, get(BOB, "/v1/models"))).json()["data"]]
    assert found == ([] if ids == "bare" else ["vllm-b/a/x", "vllm-b/b"]) + ["a/x", "b"]


async def test_what_could_reach_any_model_takes_the_right_to_all_of_an_instance(keyed, upstream, connect):
    upstream.repeat(OK)
    text = entry("alice", ALICE, models=["vllm/m"], passthrough=True) + entry(
        "bob", BOB, models=["vllm/*"], passthrough=True
    )
    client = await connect(await keyed(text, vllm=upstream))
    nameless = b'{"input":"x"}'
    for method, target, body in (
        ("POST", "/v1/embeddings", nameless),
        ("POST", "/p/vllm/v1/chat/completions", b'{"model":"m"}'),
        ("GET", "/v1/of-a-later-release", None),
    ):
        for key, status in ((ALICE, 403), (BOB, 200)):
            answer = await ask(client, request(method, target, [("Authorization", f"Bearer {key}")], body))
            assert answer.status == status, target
            assert status == 200 or "could reach others" in refusal(answer)
    for target in ("/version", "/v1/responses/resp_1"):
        assert (await ask(client, get(ALICE, target))).status == 200


async def test_a_realtime_session_takes_the_right_to_all_of_an_instance(keyed, upstream, connect):
    handle = await keyed(entry("alice", ALICE, models=["m"]), vllm=upstream)
    client = await connect(handle)
    fields = [
        ("Authorization", f"Bearer {ALICE}"),
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ]
    assert refusal(await ask(client, request("GET", "/v1/realtime?model=m", fields)))
    assert upstream.requests == []


@WAYS
async def test_priority_is_what_the_entry_says_and_never_what_the_client_says(keyed, upstream, connect, late):
    upstream.repeat(OK)
    text = entry("alice", ALICE, priority=-5) + entry("bob", BOB)
    client = await connect(await keyed(text, vllm=upstream))
    own = [("X-Vllm-Priority", "-100"), ("x-vllm-PRIORITY", "-99")]
    for key in (ALICE, ALICE, BOB, MASTER):
        assert (await ask(client, chat(key, headers=own, late=late))).status == 200
    assert [each.get_all("X-Vllm-Priority") for each in upstream.requests] == [["-5"], ["-5"], [], []]


async def test_without_a_keys_file_a_clients_priority_passes(gateway, upstream, connect):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=MASTER))
    assert (await ask(client, chat(MASTER, headers=[("X-Vllm-Priority", "-100")]))).status == 200
    assert upstream.requests[0].get_all("X-Vllm-Priority") == ["-100"]


async def test_the_running_list_and_the_metrics_name_the_key(keyed, upstream, connect):
    upstream.on_request(SSE_HEAD + b"5\r\ndata1\r\n", Stall(), b"0\r\n\r\n", path=CHAT)
    upstream.repeat(OK)
    handle = await keyed(entry("alice", ALICE) + entry("bob", BOB), vllm=upstream)
    alice, operator = await connect(handle), await connect(handle)
    await alice.send(chat(ALICE))
    await alice.read_head()
    await alice.read_body_until(b"data1")
    listed = (await ask(operator, get(MASTER, "/admin/requests"))).json()["requests"]
    assert [each["key"] for each in listed] == ["alice"]
    assert (await ask(operator, chat(MASTER))).status == 200
    assert (await ask(operator, get(ALICE, "/admin/requests"))).status == 403
    upstream.release()
    await alice.read_rest()
    text = (await ask(operator, get(MASTER, "/metrics"))).body.decode()
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("gomodel_key"))
    assert numbers == {
        'gomodel_key_requests_total{code="200",key="alice"}': "1.0",
        'gomodel_key_requests_total{code="403",key="alice"}': "1.0",
        'gomodel_key_requests_total{code="200",key="master"}': "2.0",
        'gomodel_key_requests_in_flight{key="alice"}': "0.0",
        'gomodel_key_requests_in_flight{key="master"}': "0.0",
        "gomodel_keys_file_broken": "0.0",
    }


async def test_several_master_keys_are_good_with_and_without_a_keys_file(gateway, upstream, connect, tmp_path):
    upstream.repeat(OK)
    path = tmp_path / "master"
    path.write_text("sk-old\nsk-new\n")
    keys = tmp_path / "keys.toml"
    keys.write_text(entry("alice", ALICE))
    for more in ({}, {"GOMODEL_KEYS_FILE": str(keys)}):
        client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY_FILE=str(path), **more))
        for key, status in (("sk-old", 200), ("sk-new", 200), ("sk-old\nsk-new", 401), ("sk-", 401)):
            if "\n" not in key:
                assert (await ask(client, get(key, "/admin/requests"))).status == status


async def test_a_preflight_needs_no_key(keyed, upstream, connect):
    client = await connect(await keyed(entry("alice", ALICE), vllm=upstream, CORS_ALLOW_ORIGINS="https://chat.example"))
    fields = [("Origin", "https://chat.example"), ("Access-Control-Request-Method", "POST")]
    assert (await ask(client, request("OPTIONS", CHAT, fields))).status == 204
    upstream.repeat(OK)
    answer = await ask(client, chat(ALICE, headers=[("Origin", "https://chat.example")]))
    assert (answer.status, answer.get("Access-Control-Allow-Origin")) == (200, "https://chat.example")


async def test_usage_is_counted_by_key_and_shown_to_operators_alone(keyed, upstream, connect):
    text = entry("alice", ALICE) + entry("bob", BOB, admin=True)
    handle = await keyed(text, vllm=upstream)
    client = await connect(handle)
    usage = {"prompt_tokens": 5, "total_tokens": 7, "completion_tokens": 2}
    for key in (ALICE, ALICE, BOB, MASTER):
        upstream.on_request(json_response({"usage": usage}))
        assert (await ask(client, chat(key))).status == 200
    refusal(await ask(client, get(ALICE, "/admin/usage")))
    answer = await ask(client, get(BOB, "/admin/usage?by=key"))
    assert {row["key"]: row["prompt_tokens"] for row in answer.json()["data"]} == {"alice": 10, "bob": 5, "master": 5}
    raw = request("GET", "/admin/usage", [("x-api-key", MASTER), ("Accept", "text/csv")])
    answer = await ask(client, raw)
    assert answer.get("Content-Type") == "text/csv; charset=utf-8"
    assert len(answer.body.splitlines()) == 4
    assert (await ask(client, get(MASTER, "/admin/usage?by=x"))).json()["error"]["code"] == "invalid_parameter"
    assert (await ask(client, request("GET", "/admin/usage"))).status == 401
