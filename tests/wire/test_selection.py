"""Which instance a request goes to, and that nothing but the instance's name is missing from what it gets there."""

import asyncio
import json

import pytest

from ..harness.scripted import Stall, json_response, request
from ..harness.verdicts import CHAT, OK, ask, own_error, shows, turned

JSON = [("Content-Type", "application/json")]
MODELS = request("GET", "/v1/models")


def post(body, path=CHAT):
    return request("POST", path, JSON, body)


def chat(model):
    return post(json.dumps({"model": model, "messages": []}).encode())


@pytest.fixture
async def three(gateway, make_upstream):
    """A gateway with `vllm`, `vllm-a` and `vllm-b`, which list each their own model and `org/both`, and those."""
    names = {"vllm": "one", "vllm-a": "two", "vllm-b": "org/three"}
    upstreams = {name: await make_upstream(models=(model, "org/both")) for name, model in names.items()}
    handle = await gateway(vllm=upstreams["vllm"], vllm_a=upstreams["vllm-a"], vllm_b=upstreams["vllm-b"])
    for upstream in upstreams.values():
        upstream.repeat(OK)
    return handle, upstreams


@pytest.mark.parametrize(
    ("selector", "instance", "model"),
    [
        # Rule 1: a name binds, whether or not the model is listed, there or elsewhere.
        ("vllm/one", "vllm", "one"),
        ("vllm-a/two", "vllm-a", "two"),
        ("vllm-b/org/three", "vllm-b", "org/three"),
        ("vllm-b/never-listed", "vllm-b", "never-listed"),
        ("vllm-a/one", "vllm-a", "one"),
        ("vllm-b/vllm/one", "vllm-b", "vllm/one"),
        ("vllm-b//one", "vllm-b", "/one"),
        ("vllm-b/one/", "vllm-b", "one/"),
        ("vllm-b/ ", "vllm-b", " "),
        # Rule 2: whoever lists it.
        ("one", "vllm", "one"),
        ("two", "vllm-a", "two"),
        ("org/three", "vllm-b", "org/three"),
        ("org/both", "vllm", "org/both"),
    ],
)
@pytest.mark.usefixtures("first_of_equals")
async def test_a_selector_leads_to_its_instance(three, connect, selector, instance, model):
    handle, upstreams = three
    client = await connect(handle)
    answer = await ask(client, chat(selector))
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, instance)
    assert {name: len(each.requests) for name, each in upstreams.items() if each.requests} == {instance: 1}
    assert upstreams[instance].requests[0].body == json.dumps({"model": model, "messages": []}).encode()


@pytest.mark.parametrize(
    ("selector", "near"),
    [
        ("VLLM/one", "vllm/one"),
        ("vllm_a/two", "vllm-a/two"),
        ("One", "one"),
        ("org/Three", "org/three"),
        ("vllm-c/two", "vllm-a/two"),
        ("three", "org/three"),
        ("ORG/THREE", "org/three"),
        ("thre", "org/three"),
        ("vlm/BOTH", "vllm/org/both"),
        ("/one", None),
        ("zzzzzzzz", None),
        (" vllm/one", "vllm/one"),
    ],
)
async def test_what_nobody_has_is_a_404_that_names_what_is_near(three, connect, selector, near):
    handle, upstreams = three
    answer = await ask(await connect(handle), chat(selector))
    error = answer.json()["error"]
    assert (answer.status, error["type"], error["code"]) == (404, "invalid_request_error", "model_not_found")
    assert error["param"] == "model"
    assert repr(selector) in error["message"]
    if near is not None:
        assert repr(near) in error["message"]
    assert [each.requests for each in upstreams.values()] == [[], [], []]


@pytest.mark.parametrize("name", ["vllm", "vllm-b"])
async def test_the_bare_name_of_an_instance_is_a_404_that_says_what_is_missing(three, connect, name):
    handle, _ = three
    client = await connect(handle)
    answer = await ask(client, chat(name))
    bound = await ask(client, chat(f"{name}/"))
    error = answer.json()["error"]
    assert (answer.status, error["code"], error["param"]) == (404, "model_not_found", "model")
    assert error["message"] == f"'model' names instance '{name}' but no model: use '{name}/<model>'."
    assert bound.json()["error"]["message"] == error["message"]


async def test_a_404_names_no_address_and_no_more_of_a_long_selector_than_helps(three, connect):
    handle, upstreams = three
    answer = await ask(await connect(handle), chat("x" * 100_000))
    message = answer.json()["error"]["message"]
    assert len(message) < 1000
    assert not any(shows(message, each.port) for each in upstreams.values())


@pytest.mark.parametrize("selector", ["vllm/", "vllm-b/"])
async def test_a_name_without_a_model_is_a_400(three, connect, selector):
    handle, upstreams = three
    answer = await ask(await connect(handle), chat(selector))
    assert (answer.status, answer.json()["error"]["code"], answer.json()["error"]["param"]) == (
        400,
        "model_required",
        "model",
    )
    assert [each.requests for each in upstreams.values()] == [[], [], []]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "model_required"),
        (b"{}", "model_required"),
        (b'{"messages":[{"model":"vllm/one"}]}', "model_required"),
        (b'{"model":""}', "model_required"),
        (b'{"model":null}', "model_required"),
        (b'{"model":["vllm/one"]}', "model_required"),
        (b'{"model":"vllm/one","model":"vllm/one"}', "invalid_body"),
        (b'{"model":"vllm/one",  "mod\\u0065l":"two"}', "invalid_body"),
        (b'["vllm/one"]', "invalid_body"),
        (b'{"model":"vllm/one', "invalid_body"),
        (b"model=vllm/one", "invalid_body"),
        ('{"model":"vllm/one"}'.encode("utf-16"), "invalid_body"),
    ],
)
async def test_a_body_without_one_clear_selector_is_a_400(three, connect, body, code):
    handle, upstreams = three
    for each in (body, [piece for piece in (body[:9], body[9:]) if piece]):
        answer = await ask(await connect(handle), post(each))
        error = answer.json()["error"]
        assert (answer.status, error["type"], error["code"]) == (400, "invalid_request_error", code)
        assert error["param"] == ("model" if code == "model_required" else None)
    assert [each.requests for each in upstreams.values()] == [[], [], []]


@pytest.mark.usefixtures("first_of_equals")
async def test_the_fewest_in_flight_take_a_bare_model(three, connect):
    handle, upstreams = three
    await ask(await connect(handle), MODELS)
    arrived = []
    for each in upstreams.values():
        each.repeat(Stall())
    for expected in ("vllm", "vllm-a", "vllm-b", "vllm", "vllm-a", "vllm-b"):
        client = await connect(handle)
        await client.send(chat("org/both"))
        counts = {name: len(each.requests) for name, each in upstreams.items()}
        await upstreams[expected].wait_for_request(counts[expected] + 1)
        arrived.append((expected, client))
    # Whoever gets free takes the next one; a bound request counts as one in flight, too.
    bound = await connect(handle)
    await bound.send(chat("vllm/one"))
    await upstreams["vllm"].wait_for_request(3)
    arrived[5][1].fin()
    instances = handle.gateway.providers.instances
    await turned(lambda: [each.in_flight for each in instances.values()] == [3, 2, 1])
    client = await connect(handle)
    await client.send(chat("org/both"))
    await upstreams["vllm-b"].wait_for_request(3)


async def test_of_equals_any_takes_a_bare_model(three, connect):
    handle, upstreams = three
    client = await connect(handle)
    for _ in range(200):
        await ask(client, chat("org/both"))
        if all(each.requests for each in upstreams.values()):
            return
    pytest.fail(f"always the same: { {name: len(each.requests) for name, each in upstreams.items()} }")


async def test_lists_are_read_when_a_bare_model_is_first_asked_for(three, connect):
    handle, upstreams = three
    assert [each.probes for each in upstreams.values()] == [[], [], []]
    client = await connect(handle)
    assert (await ask(client, chat("vllm-b/org/three"))).status == 200
    assert [len(each.probes) for each in upstreams.values()] == [0, 0, 0]
    assert (await ask(client, chat("org/three"))).status == 200
    assert [len(each.probes) for each in upstreams.values()] == [1, 1, 1]
    assert (await ask(client, chat("two"))).status == 200
    assert [len(each.probes) for each in upstreams.values()] == [1, 1, 1]


async def test_unknown_models_refresh_the_lists_once_a_second_for_all_callers(three, connect, monkeypatch):
    handle, upstreams = three
    clients = [await connect(handle) for _ in range(8)]
    answers = await asyncio.gather(*(ask(client, chat(f"unknown-{at}")) for at, client in enumerate(clients)))
    assert [answer.status for answer in answers] == [404] * 8
    assert (await ask(clients[0], chat("unknown"))).status == 404
    assert [len(each.probes) for each in upstreams.values()] == [1, 1, 1]
    monkeypatch.setattr("gomodel.balancing.model_lists._UNKNOWN_INTERVAL_S", 0)
    assert (await ask(clients[0], chat("unknown"))).status == 404
    assert [len(each.probes) for each in upstreams.values()] == [2, 2, 2]


async def test_a_model_that_appears_is_found_by_the_request_that_names_it(gateway, make_upstream, connect, monkeypatch):
    monkeypatch.setattr("gomodel.balancing.model_lists._UNKNOWN_INTERVAL_S", 0)
    one, other = await make_upstream(), await make_upstream()
    client = await connect(await gateway(vllm=one, vllm_b=other))
    assert (await ask(client, chat("adapter"))).status == 404
    other._probe_answers["/v1/models"] = json_response({"data": [{"id": "adapter"}]})
    other.on_request(OK)
    assert (await ask(client, chat("adapter"))).get("X-GoModel-Provider") == "vllm-b"


@pytest.mark.parametrize("selector", ["m", "org/m", "nobody/m", "VLLM/m", "vllm", "/", "vllm-b/m", "x" * 5000])
async def test_one_instance_takes_whatever_names_none_and_needs_no_list(gateway, upstream, connect, selector):
    upstream.repeat(OK)
    client = await connect(await gateway(vllm=upstream))
    answer = await ask(client, chat(selector))
    assert (answer.status, answer.get("X-GoModel-Provider"), upstream.probes) == (200, "vllm", [])
    assert upstream.requests[0].body == json.dumps({"model": selector, "messages": []}).encode()
    assert (await ask(client, chat(f"vllm/{selector}"))).status == 200
    assert upstream.requests[1].body == upstream.requests[0].body


@pytest.mark.parametrize("body", [b"", b"{}", b' { "messages" : [ ] } ', b'{"a":{"model":"vllm/x"}}'])
async def test_one_instance_gets_a_body_without_model_untouched(gateway, upstream, connect, body):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    assert (await ask(await connect(handle), post(body))).status == 200
    assert (await ask(await connect(handle), post([body] if body else []))).status == 200
    assert [each.body for each in upstream.requests] == [body, body]
    assert upstream.requests[0].get("Content-Length") == str(len(body))
    assert upstream.requests[1].get("Transfer-Encoding") == "chunked"


async def test_an_answer_keeps_vllms_model_and_says_who_answered(three, connect):
    handle, upstreams = three
    upstreams["vllm-b"].on_request(json_response({"model": "org/three"}, 200, [("X-GoModel-Provider", "forged")]))
    answer = await ask(await connect(handle), chat("vllm-b/alias"))
    assert (answer.json(), answer.get_all("X-GoModel-Provider")) == ({"model": "org/three"}, ["vllm-b"])
    upstreams["vllm"].on_request(json_response({"error": "no"}, 404))
    assert (await ask(await connect(handle), chat("vllm/no"))).get("X-GoModel-Provider") == "vllm"


async def test_a_bound_request_is_never_another_instances(three, connect):
    handle, upstreams = three
    client = await connect(handle)
    await ask(client, MODELS)
    upstreams["vllm"].stop_listening()
    for each in upstreams["vllm"].open_connections:
        each.wire.close()
    own_error(await ask(client, chat("vllm/org/both")), 502, "connection_refused")
    assert (await ask(client, chat("org/both"))).get("X-GoModel-Provider") in ("vllm-a", "vllm-b")
