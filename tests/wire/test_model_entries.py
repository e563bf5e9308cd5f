"""GET /v1/models/{id}, HEAD, and the lists that an operator wrote down."""

import json
from dataclasses import replace
from urllib.parse import quote

import pytest

from ..harness.scripted import Fin, json_response, request, response
from ..harness.verdicts import CHAT, OK, ask, own_error

LIST = request("GET", "/v1/models")
ENTRY = {
    "id": "meta-llama/L 8B?é",
    "object": "model",
    "owned_by": "vllm",
    "max_model_len": 7,
    "root": "/m",
    "x": [None],
}


def answers(upstream, *steps):
    upstream.on_request(*steps, path="/v1/models")


def ids(answer):
    assert answer.status == 200, answer.raw
    return [each["id"] for each in answer.json()["data"]]


def chat(model):
    return request("POST", CHAT, [("Content-Type", "application/json")], b'{"model":"%b"}' % model.encode())


@pytest.mark.parametrize(
    "path",
    [
        "vllm-b/meta-llama/L%208B%3F%C3%A9",
        "vllm-b%2Fmeta-llama%2fL%208B%3F%c3%a9",
        "vllm%2Db/meta-llama/L%208B%3F%C3%A9?a=b",
        "meta-llama/L%208B%3F%C3%A9",
        "meta-llama%2FL%208B%3F%C3%A9",
    ],
)
async def test_an_id_may_hold_slashes_and_escapes_and_go_without_its_instance(gateway, make_upstream, connect, path):
    one, other = await make_upstream(models=("m",)), await make_upstream()
    answers(other, json_response({"data": [{"id": "n"}, ENTRY]}))
    client = await connect(await gateway(vllm=one, vllm_b=other))
    answer = await ask(client, request("GET", f"/v1/models/{path}"))
    assert (answer.status, answer.get("Content-Type")) == (200, "application/json")
    assert answer.json() == {**ENTRY, "id": f"vllm-b/{ENTRY['id']}"}
    assert one.requests == []


@pytest.mark.parametrize("path", ["vllm/n", "VLLM/m", "M", "vllm", "vllm-b", "no/such", "vllm%252Fm", "m%20", "%FF"])
async def test_an_id_that_no_list_holds_is_a_404_of_the_model(gateway, make_upstream, connect, path):
    one, other = await make_upstream(), await make_upstream()
    client = await connect(await gateway(vllm=one, vllm_b=other))
    answer = await ask(client, request("GET", f"/v1/models/{path}"))
    error = answer.json()["error"]
    assert (answer.status, error["type"], error["code"]) == (404, "invalid_request_error", "model_not_found")
    assert error["param"] == "model"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("M", "No instance is named in 'M' and none lists it as a model. Did you mean 'm'?"),
        ("vllm-b/mm", "Instance 'vllm-b' does not list the model 'mm'. Did you mean 'vllm-b/m'?"),
        ("vlm-b/m", "No instance is named in 'vlm-b/m' and none lists it as a model. Did you mean 'vllm-b/m'?"),
        ("vllm", "'model' names instance 'vllm' but no model: use 'vllm/<model>'."),
    ],
)
async def test_the_404_of_an_id_says_what_that_of_a_request_would(gateway, make_upstream, connect, path, said):
    one, other = await make_upstream(), await make_upstream()
    client = await connect(await gateway(vllm=one, vllm_b=other))
    answer = await ask(client, request("GET", f"/v1/models/{path}"))
    assert answer.json()["error"]["message"].startswith(said)


ODD = ["/models/gemma", "./gemma", "../gemma/", "a\\b", "a//b", "tab\tb", "/", "..", "%2e", "a%zz", "x#y", "é\u2028"]


@pytest.mark.parametrize("form", ["raw", "encoded"])
@pytest.mark.parametrize("model", ODD)
async def test_an_id_is_looked_up_as_it_is_though_no_path_may_be_so(gateway, make_upstream, connect, model, form):
    one, other = await make_upstream(models=(model,)), await make_upstream(models=("n",))
    client = await connect(await gateway(vllm=one, vllm_b=other))
    for said in (f"vllm/{model}", model):
        path = quote(said, safe="") if form == "encoded" else quote(said, safe="/\\.")
        answer = await ask(client, request("GET", f"/v1/models/{path}"))
        assert (answer.status, answer.json()["id"]) == (200, f"vllm/{model}")
    assert one.requests + other.requests == []


@pytest.mark.parametrize("path", ["..", "%2e%2e/admin/requests", "/m", "vllm/m/", "%00", "\\", "a%"])
async def test_an_odd_id_that_no_list_holds_is_a_404_of_the_model(gateway, upstream, connect, path):
    client = await connect(await gateway(vllm=upstream))
    answer = await ask(client, request("GET", f"/v1/models/{path}"))
    assert (answer.status, answer.json()["error"]["code"], upstream.requests) == (404, "model_not_found", [])
    assert (await ask(client, request("POST", f"/v1/models/{path}", body=b"{}"))).status == 405


@pytest.mark.parametrize("path", ["/v1/models/", "/v1//models", "/v1//models/m", "/v1/../models"])
async def test_a_path_that_servers_read_differently_is_no_model(gateway, upstream, connect, path):
    answer = await ask(await connect(await gateway(vllm=upstream)), request("GET", path))
    assert answer.status in (400, 404)
    assert upstream.connections == []


# MODEL_IDS -> what is listed where `vllm` has m, org/x and vllm-b/y, and `vllm-b` has m and n.
LISTED = {
    "prefixed": ["vllm/m", "vllm/org/x", "vllm/vllm-b/y", "vllm-b/m", "vllm-b/n"],
    "bare": ["vllm/vllm-b/y", "m", "org/x", "n"],
    "both": ["vllm/m", "vllm/org/x", "vllm/vllm-b/y", "vllm-b/m", "vllm-b/n", "m", "org/x", "n"],
}


@pytest.mark.parametrize("form", LISTED)
async def test_ids_are_listed_as_the_operator_wants_them_and_each_leads_to_its_model(
    gateway, make_upstream, connect, form
):
    one, other = await make_upstream(models=("m", "org/x", "vllm-b/y")), await make_upstream(models=("m", "n"))
    one.repeat(OK)
    other.repeat(OK)
    client = await connect(await gateway(vllm=one, vllm_b=other, MODEL_IDS=form))
    listed = ids(await ask(client, LIST))
    assert listed == LISTED[form]
    for model in listed:
        entry = (await ask(client, request("GET", f"/v1/models/{model}"))).json()
        assert entry == {"id": model, "object": "model"}
        assert (await ask(client, chat(model))).status == 200
    sent = {(each is one, json.loads(asked.body)["model"]) for each in (one, other) for asked in each.requests}
    assert {model for _, model in sent} == {"m", "org/x", "vllm-b/y", "n"}
    assert {(False, "vllm-b/y"), (True, "n"), (False, "org/x"), (False, "y")}.isdisjoint(sent)


async def test_a_reload_lists_by_the_new_form_at_once(gateway, upstream, connect):
    answers(upstream, json_response({"data": [ENTRY]}))
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    one = request("GET", f"/v1/models/{quote(ENTRY['id'])}")
    for form, said in (("", f"vllm/{ENTRY['id']}"), ("bare", ENTRY["id"]), ("prefixed", f"vllm/{ENTRY['id']}")):
        if form:
            handle.gateway.reload(replace(handle.config, model_ids=form))
        assert (await ask(client, LIST)).json()["data"] == [{**ENTRY, "id": said}]
        assert (await ask(client, one)).json() == {**ENTRY, "id": said}
    assert len(upstream.requests) == 1


async def test_a_model_that_appeared_is_found_at_once_and_lists_are_not_read_for_every_miss(
    gateway, make_upstream, connect
):
    one, other = await make_upstream(), await make_upstream()
    client = await connect(await gateway(vllm=one, vllm_b=other))
    assert ids(await ask(client, LIST)) == ["vllm/m", "vllm-b/m"]
    answers(other, json_response({"data": [{"id": "adapter"}]}))
    assert (await ask(client, request("GET", "/v1/models/vllm-b/adapter"))).status == 200
    for _ in range(5):
        assert (await ask(client, request("GET", "/v1/models/vllm-b/none"))).status == 404
    assert len(one.probes) + len(one.requests) == 2


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/vllm/m", "/v1/models/none"])
async def test_head_is_get_without_the_body(gateway, upstream, connect, path):
    client = await connect(await gateway(vllm=upstream))
    full = await ask(client, request("GET", path))
    answer = await ask(client, request("HEAD", path), "HEAD")
    assert (answer.status, answer.body, answer.complete) == (full.status, b"", True)
    for field in ("Content-Type", "Content-Length"):
        assert answer.get(field) == full.get(field)
    assert (await ask(client, LIST)).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/vllm/m"])
async def test_other_methods_are_not_allowed(gateway, upstream, connect, method, path):
    answer = await ask(await connect(await gateway(vllm=upstream)), request(method, path), method)
    assert (answer.status, answer.get("Allow"), upstream.requests) == (405, "GET, HEAD", [])


async def test_the_master_key_guards_the_list(gateway, upstream, connect):
    client = await connect(await gateway(vllm=upstream, GOMODEL_MASTER_KEY="right"))
    for path in ("/v1/models", "/v1/models/vllm/m"):
        own_error(await ask(client, request("GET", path)), 401, "invalid_api_key", "authentication_error")
    assert upstream.connections == []


@pytest.mark.parametrize("fault", [json_response({}, 500), response(b"no json"), None])
async def test_what_the_operator_wrote_is_offered_until_the_instance_answers(gateway, make_upstream, connect, fault):
    one, other = await make_upstream(models=("own",)), await make_upstream(models=("b",))
    if fault is None:
        one.stop_listening()
    else:
        for _ in range(3):
            answers(one, fault)
    settings = {"VLLM_MODELS": "x, org/y", "CACHE_REFRESH_INTERVAL": "1ms"}
    client = await connect(await gateway(vllm=one, vllm_b=other, **settings))
    assert ids(await ask(client, LIST)) == ["vllm/x", "vllm/org/y", "vllm-b/b"]
    assert (await ask(client, request("GET", "/v1/models/org/y"))).json()["owned_by"] == "vllm"
    one._request_scripts.clear()
    if fault is None:
        one.listen()
    assert ids(await ask(client, LIST)) == ["vllm/own", "vllm-b/b"]
    one.on_request(OK)
    assert (await ask(client, chat("own"))).get("X-GoModel-Provider") == "vllm"


async def test_a_bare_model_that_the_operator_wrote_is_routed_without_any_list(gateway, make_upstream, connect):
    one, other = await make_upstream(), await make_upstream()
    other.on_request(OK)
    client = await connect(await gateway(vllm=one, vllm_b=other, VLLM_B_MODELS="org/y"))
    assert (await ask(client, chat("org/y"))).get("X-GoModel-Provider") == "vllm-b"
    assert one.probes + other.probes == []


async def test_with_an_allowlist_the_instance_is_not_asked_and_nothing_else_is_listed(gateway, make_upstream, connect):
    one, other = await make_upstream(models=("own", "x")), await make_upstream(models=("b",))
    settings = {"VLLM_MODELS": "x,org/y", "VLLM_B_MODELS": "z", "CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"}
    client = await connect(await gateway(vllm=one, vllm_b=other, **settings))
    answer = await ask(client, LIST)
    assert ids(answer) == ["vllm/x", "vllm/org/y", "vllm-b/z"]
    assert answer.json()["data"][0] == {"id": "vllm/x", "object": "model", "created": 0, "owned_by": "vllm"}
    other.on_request(OK)
    assert (await ask(client, chat("z"))).get("X-GoModel-Provider") == "vllm-b"
    for unlisted in ("own", "b"):
        assert (await ask(client, chat(unlisted))).status == 404
        assert (await ask(client, request("GET", f"/v1/models/{unlisted}"))).status == 404
    assert one.probes + other.probes == []
    # A name binds all the same: the list is what is offered, not what is allowed.
    one.on_request(OK)
    assert (await ask(client, chat("vllm/own"))).status == 200


async def test_an_instance_without_an_allowlist_of_its_own_is_asked(gateway, make_upstream, connect):
    one, other = await make_upstream(models=("own",)), await make_upstream(models=("b",))
    settings = {"VLLM_MODELS": "x", "CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"}
    client = await connect(await gateway(vllm=one, vllm_b=other, **settings))
    assert ids(await ask(client, LIST)) == ["vllm/x", "vllm-b/b"]
    assert (len(one.probes), len(other.probes)) == (0, 1)


async def test_a_model_that_is_listed_more_than_once_does_not_hide_the_other_instances(
    gateway, make_upstream, connect, monkeypatch
):
    monkeypatch.setattr("gomodel.balancing.choice.random", lambda: 0.0)
    one, other = await make_upstream(models=("m", "m", "m")), await make_upstream(models=("m",))
    other.repeat(OK)
    handle = await gateway(vllm=one, vllm_b=other, RETRY_MAX_RETRIES="1")
    client = await connect(handle)
    await ask(client, LIST)
    assert [each.name for each in handle.gateway.providers.by_model["m"]] == ["vllm", "vllm-b"]
    assert handle.replica().models == ("m",)
    one.stop_listening()
    for each in one.open_connections:
        each.wire.close()
    assert (await ask(client, chat("m"))).get("X-GoModel-Provider") == "vllm-b"


async def test_with_an_allowlist_dead_instances_are_listed_as_they_were_written(gateway, upstream, connect):
    upstream.stop_listening()
    settings = {"VLLM_MODELS": "x", "CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"}
    assert ids(await ask(await connect(await gateway(vllm=upstream, **settings)), LIST)) == ["vllm/x"]


async def test_an_answer_cut_off_is_no_list_and_the_operators_stays(gateway, upstream, connect):
    for _ in range(2):
        answers(upstream, b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", Fin())
    client = await connect(await gateway(vllm=upstream, VLLM_MODELS="x"))
    assert ids(await ask(client, LIST)) == ["vllm/x"]
    upstream._request_scripts.clear()
