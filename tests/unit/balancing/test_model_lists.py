"""GET /v1/models: every instance's list as vLLM sent it, with the instance before each id; a dead one costs little."""

import asyncio
import json

import pytest

from gomodel.errors import ModelNotFound

from ...harness.scripted import SAFETY_S, Fin, Stall, WaitFor, chunked, head, json_response, request, response
from ...harness.verdicts import OK, ask, own_error, post, turned

LIST = request("GET", "/v1/models")
# What vLLM says of a base model and of an adapter, and a field that it may have tomorrow.
BASE = {
    "id": "meta-llama/L-8B",
    "object": "model",
    "created": 1763000000,
    "owned_by": "vllm",
    "root": "/models/l-8b",
    "parent": None,
    "max_model_len": 131072,
    "permission": [{"id": "modelperm-1", "allow_view": True, "group": None}],
}
ADAPTER = {
    **BASE,
    "id": "lora-é",
    "root": "/adapters/x",
    "parent": "meta-llama/L-8B",
    "max_model_len": None,
    "new": [1.5],
}


def models(*entries, **more):
    return json_response({"object": "list", "data": list(entries), **more})


def entry(name):
    return {"id": name, "object": "model"}


def answers(upstream, *steps):
    upstream.on_request(*steps, path="/v1/models")


SOON_S = 0.25  # in which a busy machine too has the list of an instance that answers


def ids(answer):
    assert answer.status == 200, answer.raw
    return [each["id"] for each in answer.json()["data"]]


@pytest.fixture
async def pair(gateway, make_upstream):
    """A function that starts a gateway with the instances `vllm` and `vllm-b`, and those."""
    one, other = await make_upstream(models=("a",)), await make_upstream(models=("b",))

    async def start(**settings):
        return await gateway(vllm=one, vllm_b=other, **settings)

    return start, one, other


async def test_lists_are_merged_in_the_order_of_instances_and_theirs_with_every_field_kept(pair, connect):
    start, one, other = pair
    answers(one, models(BASE, ADAPTER))
    answers(other, models(entry("z"), entry("a"), more="ignored"))
    answer = await ask(await connect(await start()), LIST)
    document = answer.json()
    assert (answer.status, answer.get("Content-Type"), list(document)) == (200, "application/json", ["object", "data"])
    assert document["object"] == "list"
    assert document["data"] == [
        {**BASE, "id": "vllm/meta-llama/L-8B"},
        {**ADAPTER, "id": "vllm/lora-é"},
        {**entry("z"), "id": "vllm-b/z"},
        {**entry("a"), "id": "vllm-b/a"},
    ]
    assert [list(each) for each in document["data"][:2]] == [list(BASE), list(ADAPTER)]


async def test_each_instance_is_asked_once_with_its_own_key_and_nothing_of_the_clients(pair, connect):
    start, one, other = pair
    handle = await start(VLLM_API_KEY="key-a", GOMODEL_MASTER_KEY="master")
    headers = [("Authorization", "Bearer master"), ("X-Canary", "canary"), ("Cookie", "a=canary")]
    client = await connect(handle)
    for _ in range(3):
        assert ids(await ask(client, request("GET", "/v1/models?x=canary", headers))) == ["vllm/a", "vllm-b/b"]
    assert [len(one.probes), len(other.probes)] == [1, 1]
    assert [each.probes[0].get("Authorization") for each in (one, other)] == ["Bearer key-a", None]
    for seen in (one.probes[0], other.probes[0]):
        assert b"canary" not in seen.raw
        assert b"master" not in seen.raw


async def test_lists_are_read_in_parallel(pair, connect):
    start, one, other = pair
    arrived = asyncio.Event()
    answers(one, WaitFor(arrived), models(entry("a")))
    answers(other, WaitFor(arrived), models(entry("b")))
    client = await connect(await start())
    await client.send(LIST)
    await one.wait_for_request()
    await other.wait_for_request()
    arrived.set()
    assert ids(await client.read_response()) == ["vllm/a", "vllm-b/b"]


async def test_many_callers_share_one_reading(pair, connect):
    start, one, other = pair
    handle = await start()
    clients = [await connect(handle) for _ in range(8)]
    for answer in await asyncio.gather(*(ask(client, LIST) for client in clients)):
        assert ids(answer) == ["vllm/a", "vllm-b/b"]
    assert [len(one.probes), len(other.probes)] == [1, 1]


async def test_a_list_is_read_again_when_it_is_old(pair, connect):
    start, one, _ = pair
    client = await connect(await start(CACHE_REFRESH_INTERVAL="1ms"))
    assert ids(await ask(client, LIST)) == ["vllm/a", "vllm-b/b"]
    answers(one, models(entry("new")))
    await asyncio.sleep(0.002)
    assert ids(await ask(client, LIST)) == ["vllm/new", "vllm-b/b"]


# What a connection can do to a list; whatever else may be answered is in test_own_requests.
BROKEN = {
    "refused": None,
    "closed": (Fin(),),
    "500": (json_response({"error": "no"}, 500),),
    "redirect": (response(b"", 307, [("Location", "http://127.0.0.1:9/v1/models")]),),
    "cut": (head(200, [("Content-Length", "100")]) + b'{"data":[]}', Fin()),
    "garbage": (b"garbage\r\n\r\n", Fin()),
}


@pytest.mark.parametrize("fault", BROKEN)
async def test_the_last_good_list_stays_when_an_instance_fails(pair, connect, fault):
    start, _, other = pair
    answers(other, models(BASE))
    client = await connect(await start(CACHE_REFRESH_INTERVAL="1ms"))
    known = (await ask(client, LIST)).json()
    if BROKEN[fault] is None:
        other.stop_listening()
    else:
        for _ in range(4):
            answers(other, *BROKEN[fault])
    for _ in range(2):
        await asyncio.sleep(0.002)
        assert (await ask(client, LIST)).json() == known
    other._request_scripts.clear()


@pytest.mark.parametrize("fault", BROKEN)
async def test_an_instance_that_never_answered_is_left_out_and_when_none_did_it_is_a_503(pair, connect, fault):
    start, one, other = pair
    for upstream in (one, other):
        if BROKEN[fault] is None:
            upstream.stop_listening()
        else:
            for _ in range(6):
                answers(upstream, *BROKEN[fault])
    client = await connect(await start(CACHE_REFRESH_INTERVAL="1ms"))
    for path in ("/v1/models", "/v1/models/vllm/a"):
        answer = await ask(client, request("GET", path))
        own_error(answer, 503, "no_instance_reachable", "overloaded_error")
        assert answer.get("Retry-After")
    one._request_scripts.clear()
    other._request_scripts.clear()
    if BROKEN[fault] is None:
        one.listen()
    assert ids(await ask(client, LIST))[:1] == ["vllm/a"]


async def test_entries_that_are_none_are_left_out_and_the_rest_kept(pair, connect):
    start, one, _ = pair
    answers(one, models(entry("a"), "b", None, {"object": "model"}, {"id": 7}, entry("c")))
    assert ids(await ask(await connect(await start()), LIST)) == ["vllm/a", "vllm/c", "vllm-b/b"]


def nested(depth):
    return '{"id":"x","deep":' + "[" * depth + "]" * depth + "}"


@pytest.mark.parametrize(
    "entry",
    ['{"id":"x","created":1e400}', '{"id":"x","a":{"b":[-1e999]}}', *(nested(depth) for depth in range(900, 1001, 5))],
)
async def test_what_could_be_read_and_not_be_said_again_costs_no_other_entry(pair, connect, entry):
    start, one, _ = pair
    answers(one, response(b'{"data":[{"id":"a"},%b,{"id":"c"}]}' % entry.encode()))
    client = await connect(await start())
    answer = await ask(client, LIST)
    assert b"Infinity" not in answer.body
    assert set(ids(answer)) <= {"vllm/a", "vllm/c", "vllm-b/b", *(["vllm/x"] if "deep" in entry else [])}
    assert (ids(answer)[-1], len(ids(answer)) > 2 or "deep" in entry) == ("vllm-b/b", True)


async def test_half_a_character_in_one_list_does_not_take_the_others_away(pair, connect):
    start, one, _ = pair
    answers(one, response(b'{"data":[{"id":"a","root":"\\ud800"}]}'))
    assert ids(await ask(await connect(await start()), LIST)) == ["vllm/a", "vllm-b/b"]


async def test_an_empty_list_is_a_list(pair, connect):
    start, one, other = pair
    answers(one, models())
    answers(other, models())
    answer = await ask(await connect(await start()), LIST)
    assert answer.json() == {"object": "list", "data": []}


@pytest.mark.parametrize("how", ["silent", "jammed"])
async def test_an_instance_that_hangs_is_waited_for_once_and_then_left_to_itself(pair, connect, monkeypatch, how):
    monkeypatch.setattr("gomodel.balancing.model_lists.PATIENCE_S", SOON_S)
    start, _, other = pair
    if how == "jammed":
        await other.jam()
    else:
        answers(other, Stall())
    client = await connect(await start())
    assert ids(await ask(client, LIST)) == ["vllm/a"]
    # From here on whoever waited for it would wait longer than any test does.
    monkeypatch.setattr("gomodel.balancing.model_lists.PATIENCE_S", 3600)
    monkeypatch.setattr("gomodel.balancing.model_lists._UNKNOWN_INTERVAL_S", 0)
    for _ in range(2):
        assert ids(await ask(client, LIST)) == ["vllm/a"]
        assert (await ask(client, request("GET", "/v1/models/vllm/a"))).status == 200
        assert (await ask(client, request("GET", "/v1/models/vllm/none"))).status == 404


async def test_an_instance_that_hung_is_waited_for_again_when_its_time_has_come(pair, connect, monkeypatch):
    monkeypatch.setattr("gomodel.balancing.model_lists.PATIENCE_S", SOON_S)
    start, _, other = pair
    go_on = asyncio.Event()
    answers(other, WaitFor(go_on), models(entry("late")))
    client = await connect(await start(CACHE_REFRESH_INTERVAL="1ms"))
    assert ids(await ask(client, LIST)) == ["vllm/a"]
    monkeypatch.setattr("gomodel.balancing.model_lists.PATIENCE_S", 3600)
    await asyncio.sleep(0.002)
    await client.send(LIST)
    go_on.set()
    assert ids(await client.read_response()) == ["vllm/a", "vllm-b/late"]


async def test_an_unknown_id_waits_for_both_readings_together_no_longer_than_for_one(pair, monkeypatch):
    monkeypatch.setattr("gomodel.balancing.model_lists.PATIENCE_S", SOON_S)
    start, _, other = pair
    answers(other, Stall())
    lists = (await start(CACHE_REFRESH_INTERVAL="1ms")).gateway.app.models
    learn = lists.learn_unknown

    async def patiently(found, until=None):
        monkeypatch.setattr("gomodel.balancing.model_lists.PATIENCE_S", 3600)
        await learn(found, until)

    monkeypatch.setattr(lists, "learn_unknown", patiently)
    with pytest.raises(ModelNotFound):
        await lists.one("vllm/none")


async def test_a_bare_id_goes_to_whom_lists_it_without_waiting_for_a_list_that_hangs(pair, connect, monkeypatch):
    monkeypatch.setattr("gomodel.balancing.model_lists.PATIENCE_S", 3600)
    start, one, other = pair
    answers(other, Stall())
    one.on_request(OK, path="/v1/chat/completions")
    client = await connect(await start())
    assert (await ask(client, post(model="a"))).status == 200


def test_the_patience_is_that_of_the_contract():
    from gomodel.balancing.model_lists import PATIENCE_S

    assert PATIENCE_S == 2.0


async def test_a_list_that_comes_late_is_there_the_next_time(pair, connect, monkeypatch):
    monkeypatch.setattr("gomodel.balancing.model_lists.PATIENCE_S", SAFETY_S)
    start, _, other = pair
    go_on = asyncio.Event()
    answers(other, WaitFor(go_on), models(entry("late")))
    handle = await start()
    client = await connect(handle)
    reading = asyncio.create_task(handle.gateway.app.models.merged())
    await turned(lambda: handle.replica("vllm").models)
    monkeypatch.setattr("gomodel.balancing.model_lists.PATIENCE_S", 0.02)
    assert ids(await ask(client, LIST)) == ["vllm/a"]
    go_on.set()
    await reading
    assert ids(await ask(client, LIST)) == ["vllm/a", "vllm-b/late"]
    assert (len(other.probes), len(other.requests)) == (0, 1)


async def test_a_large_list_passes(pair, connect):
    start, one, _ = pair
    many = [{**BASE, "id": f"m-{at}"} for at in range(5000)]
    body = json.dumps({"data": many}).encode()
    answers(one, head(200, [("Transfer-Encoding", "chunked")]) + chunked(body[:1000], body[1000:]) + b"0\r\n\r\n")
    assert len(ids(await ask(await connect(await start()), LIST))) == 5001


WHY = {
    "refused": "the connection failed",
    "closed": "the connection failed",
    "500": "status 500",
    "redirect": "status 307",
    "garbage": "no valid HTTP answer",
}


@pytest.mark.parametrize("fault", WHY)
async def test_a_list_that_begins_to_fail_is_one_warning_and_its_return_one_line(pair, connect, fault):
    start, _, other = pair
    if BROKEN[fault] is None:
        other.stop_listening()
    else:
        for _ in range(8):
            answers(other, *BROKEN[fault])
    handle = await start(CACHE_REFRESH_INTERVAL="1ms")

    def said():
        return [
            (each.levelname, each.getMessage()) for each in handle.logs.records if "model list" in each.getMessage()
        ]

    client = await connect(handle)
    for _ in range(3):
        await asyncio.sleep(0.002)
        await ask(client, LIST)
    failing = ("WARNING", f"The model list of instance vllm-b cannot be read: {WHY[fault]}")
    assert said() == [failing]
    if BROKEN[fault] is None:
        other.listen()
    other._request_scripts.clear()
    for _ in range(3):
        await asyncio.sleep(0.002)
        await ask(client, LIST)
    assert said() == [failing, ("INFO", "The model list of instance vllm-b can be read again")]
