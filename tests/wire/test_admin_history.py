"""The page's sources on the wire: the last hour, the last failures, the configuration in force."""

import pytest

from gomodel.operations import handlers, history
from gomodel.telemetry import failures

from ..harness.keys import ALICE, MASTER, chat, entry, get
from ..harness.scripted import Close, response
from ..harness.verdicts import OK, ask


@pytest.fixture(autouse=True)
def nothing_failed():
    failures._last.clear()


async def test_the_last_hour_is_told_in_steps(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=MASTER))
    answer = await ask(client, get(MASTER, "/admin/history?window=15m"))
    assert (answer.status, answer.get("Cache-Control")) == (200, "no-store")
    report = answer.json()
    assert (report["step_s"], report["steps"], report["series"]) == (20, 45, [])
    refused = await ask(client, get(MASTER, "/admin/history?window=1d"))
    assert (refused.status, refused.json()["error"]["code"]) == (400, "invalid_parameter")


@pytest.mark.parametrize(
    "path", ["requests", "instances", "usage", "keys", "history", "engines", "failures", "configuration"]
)
async def test_a_parameter_that_is_not_known_is_refused_once_the_key_was_seen(gateway, upstream, connect, path):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=MASTER))
    target = f"/admin/{path}?limit=5"
    assert (await ask(client, get("sk-nobody", target))).status == 401
    error = (refused := await ask(client, get(MASTER, target))).json()["error"]
    assert (refused.status, error["code"], error["param"]) == (400, "invalid_parameter", "limit")
    assert (await ask(client, get(MASTER, f"/admin/{path}?"))).status == 200


async def test_what_was_counted_is_there_when_its_slot_is_over(gateway, upstream, connect, monkeypatch):
    for module in (history, handlers):
        monkeypatch.setattr(module, "time", lambda: 1_000_000.0)
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY=MASTER)
    client = await connect(handle)
    for _ in range(3):
        assert (await ask(client, chat(MASTER))).status == 200
    await handle.gateway.app._operations._sampling.look()
    series = (await ask(client, get(MASTER, "/admin/history"))).json()["series"]
    counted = {(each["by"], each["name"]): each for each in series}
    assert list(counted) == [("all", ""), ("instance", "vllm"), ("model", "vllm/other")]
    for each in counted.values():
        assert each["window"]["requests"] == 3
        assert each["points"]["requests"] == [*[None] * 59, 3]


async def test_the_last_failures_are_listed_newest_first_without_a_clients_words(gateway, upstream, connect):
    upstream.on_request(response(b"{}", status=500))
    upstream.on_request(Close())
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY=MASTER, RETRY_MAX_RETRIES="0"))
    assert [(await ask(client, chat(MASTER))).status for _ in range(3)] == [500, 502, 200]
    found = (await ask(client, get(MASTER, "/admin/failures"))).json()["failures"]
    assert [(each["status"], each["instance"]) for each in found] == [(502, "vllm"), (500, "vllm")]
    assert found[0]["at"] >= found[1]["at"]
    assert found[0]["request_id"] != found[1]["request_id"]


async def test_the_configuration_is_shown_without_its_secrets(keyed, upstream, connect):
    handle = await keyed(
        entry("alice", ALICE), vllm=upstream, VLLM_API_KEY="sk-of-the-instance", VLLM_HEADERS="X-A: sk-b"
    )
    answer = await ask(await connect(handle), get(MASTER, "/admin/configuration"))
    rows = {each["variable"]: each for each in answer.json()["configuration"]}
    assert rows["VLLM_API_KEY"]["value"] == "(set)"
    assert rows["VLLM_BASE_URL"]["value"] == upstream.base_url
    assert rows["BODY_SIZE_LIMIT"] == {
        "section": "Access",
        "variable": "BODY_SIZE_LIMIT",
        "value": "100M",
        "set": False,
    }
    for secret in (ALICE, MASTER, "sk-of-the-instance", "sk-b"):
        assert secret.encode() not in answer.body


async def test_engines_are_asked_once_for_all_who_ask_and_with_the_instances_key(gateway, make_upstream, connect):
    good, bad = await make_upstream(), await make_upstream()
    good.on_request(response(b"vllm:num_requests_running 3\nvllm:kv_cache_usage_perc 0.5\n"), path="/metrics")
    bad.on_request(response(b"nothing", status=500), path="/metrics")
    handle = await gateway(vllm=good, vllm_test=bad, GOMODEL_MASTER_KEY=MASTER, VLLM_API_KEY="sk-of-the-instance")
    client = await connect(handle)
    answers = [await ask(client, get(MASTER, "/admin/engines")) for _ in range(2)]
    first, second = answers[0].json()["engines"]
    assert (first["instance"], first["running"], first["waiting"], first["cache_usage"]) == ("vllm", 3, None, 0.5)
    assert (second["instance"], second["running"]) == ("vllm-test", None)
    assert answers[1].json() == answers[0].json()
    asked = [each for each in good.requests if each.target == "/metrics"]
    assert [each.get("Authorization") for each in asked] == ["Bearer sk-of-the-instance"]
