"""Several servers behind one instance: any of them takes its requests, and clients see its name and no address."""

import asyncio
import json
from collections import Counter

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ..harness.scripted import LAST_CHUNK, SSE_HEAD, ReadHead, WaitFor, chunked, json_response, request
from ..harness.verdicts import OK, access_lines, ask, counted, own_error, post, shows, turned

KEY = [("Authorization", "Bearer k")]
ADMIN = request("GET", "/admin/instances", KEY)
LIST = request("GET", "/v1/models")
EVENT = SSE_HEAD + chunked(b"data: x\n\n")
READY = request("GET", "/health/ready")
UNLOADED = json_response(
    {"error": {"message": "The model `m` does not exist.", "type": "NotFoundError", "param": "model", "code": 404}}, 404
)


def metric(text, name, **labels):
    """The value of one sample of a scrape."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if (sample.name, sample.labels) == (name, labels):
                return sample.value
    raise AssertionError(f"no {name} {labels} in\n{text}")


def address(upstream):
    """What operators know it by."""
    return f"127.0.0.1:{upstream.port}"


def together(*upstreams):
    """A base URL of all of them."""
    return ",".join(each.base_url for each in upstreams)


@pytest.fixture
async def trio(gateway, make_upstream):
    """A gateway whose instance `vllm` has three replicas."""
    upstreams = [await make_upstream(models=("m",)) for _ in range(3)]
    for each in upstreams:
        each.repeat(OK)
    return await gateway(vllm=together(*upstreams)), upstreams


async def test_a_list_shares_the_requests_and_shows_one_name(trio, connect):
    handle, upstreams = trio
    client = await connect(handle)
    for _ in range(60):
        answer = await ask(client, post())
        assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm")
        assert not any(shows(answer.raw.decode(), each.port) for each in upstreams)
    served = [len(each.requests) for each in upstreams]
    assert sum(served) == 60
    assert min(served) > 5
    await counted(handle, 60)
    assert Counter(each["replica"] for each in access_lines(handle)) == {
        address(each): count for each, count in zip(upstreams, served, strict=True)
    }
    assert {each["instance"] for each in access_lines(handle)} == {"vllm"}


async def test_a_range_of_ports_is_as_many_replicas(gateway, upstream, connect):
    upstream.repeat(OK)
    port = upstream.port
    handle = await gateway(vllm=f"http://127.0.0.1:{port - 1}-{port + 2}/v1")
    assert [each.address for each in handle.gateway.providers.replicas] == [
        f"127.0.0.1:{each}" for each in range(port - 1, port + 3)
    ]
    head = request("GET", "/p/vllm/version", [("X-GoModel-Replica", address(upstream))])
    assert (await ask(await connect(handle), head)).status == 200
    assert len(upstream.requests) == 1


async def test_one_without_a_list_has_no_replica_in_its_access_line(gateway, upstream, connect):
    upstream.repeat(OK)
    handle = await gateway(vllm=upstream)
    await ask(await connect(handle), post())
    await counted(handle, 1)
    [line] = access_lines(handle)
    assert "replica" not in line


async def test_what_runs_is_listed_with_its_replica(trio, connect):
    handle, upstreams = trio
    ended = asyncio.Event()
    for each in upstreams:
        each.on_request(
            ReadHead(), SSE_HEAD + chunked(b"data: x\n\n"), WaitFor(ended), b"0\r\n\r\n", path="/v1/completions"
        )
    client = await connect(handle)
    await client.send(post("/v1/completions"))
    await client.read_head()
    answer = await ask(await connect(handle), request("GET", "/admin/requests"))
    [entry] = answer.json()["requests"]
    [busy] = [each for each in upstreams if each.requests]
    assert (entry["instance"], entry["replica"]) == ("vllm", address(busy))
    text = (await ask(await connect(handle), request("GET", "/metrics"))).body.decode()
    in_flight = {address(each): 0 for each in upstreams} | {address(busy): 1}
    for where, count in in_flight.items():
        assert metric(text, "gomodel_replica_requests_in_flight", upstream="vllm", replica=where) == count
    ended.set()
    assert (await client.read_rest()).complete


async def test_who_has_fewest_in_flight_takes_the_next(trio, connect):
    handle, upstreams = trio
    ended = asyncio.Event()
    for each in upstreams:
        for _ in range(3):
            each.on_request(ReadHead(), EVENT, WaitFor(ended), LAST_CHUNK)
    clients = [await connect(handle) for _ in range(9)]
    for client in clients:
        await client.send(post())
        await client.read_head()
    assert [len(each.requests) for each in upstreams] == [3, 3, 3]
    ended.set()
    for client in clients:
        assert (await client.read_rest()).complete


async def test_a_replica_that_is_gone_costs_nobody_an_answer(trio, connect):
    handle, upstreams = trio
    upstreams[1].stop_listening()
    client = await connect(handle)
    for _ in range(30):
        assert (await ask(client, post())).status == 200
    replicas = handle.gateway.providers.replicas
    assert [each.health.state.value for each in replicas] == ["up", "down", "up"]
    assert all(f"127.0.0.1:{upstreams[1].port}" in each for each in said(handle, "is down"))


async def test_one_breaker_does_not_open_for_another(gateway, make_upstream, connect):
    broken, well = await make_upstream(), await make_upstream()
    broken.repeat(json_response({"error": "x"}, 502))
    well.repeat(OK)
    handle = await gateway(vllm=together(broken, well), CIRCUIT_BREAKER_FAILURE_THRESHOLD="1")
    client = await connect(handle)
    statuses = [(await ask(client, post())).status for _ in range(20)]
    assert statuses.count(502) <= 1
    assert [each.breaker.closed for each in handle.gateway.providers.replicas] == [502 not in statuses, True]
    ready = (await ask(client, READY)).json()["instances"]["vllm"]
    assert (ready["replicas"], ready["state"]) == (2, "up")


async def test_without_any_replica_left_the_client_is_told_the_instances_name(trio, connect):
    handle, upstreams = trio
    for each in upstreams:
        each.stop_listening()
    answer = await ask(await connect(handle), post())
    assert own_error(answer, 502, "connection_refused") == "Instance 'vllm' refused the connection."


def said(handle, part):
    return [each.getMessage() for each in handle.logs.records if part in each.getMessage()]


class TestModels:
    async def test_an_instance_lists_what_any_of_its_replicas_lists(self, gateway, make_upstream, connect):
        upstreams = [await make_upstream(models=models) for models in (("a", "b"), ("b", "c"), ("a", "b"))]
        handle = await gateway(vllm=together(*upstreams))
        client = await connect(handle)
        assert [each["id"] for each in (await ask(client, LIST)).json()["data"]] == ["vllm/a", "vllm/b", "vllm/c"]
        assert handle.gateway.providers.instances["vllm"].models == ("a", "b", "c")
        assert (await ask(client, request("GET", "/v1/models/vllm/c"))).json()["id"] == "vllm/c"
        ready = (await ask(client, READY)).json()["instances"]["vllm"]
        assert ready["models"] == 3

    @pytest.mark.parametrize(("ids", "listed"), [("bare", ["a", "b", "c"]), ("both", ["vllm/a", "vllm/b", "vllm/c"])])
    async def test_under_every_id(self, gateway, make_upstream, connect, ids, listed):
        upstreams = [await make_upstream(models=models) for models in (("a", "b"), ("b", "c"))]
        handle = await gateway(vllm=together(*upstreams), MODEL_IDS=ids)
        found = [each["id"] for each in (await ask(await connect(handle), LIST)).json()["data"]]
        assert found == (listed if ids == "bare" else [*listed, "a", "b", "c"])

    @pytest.mark.parametrize("selector", ["vllm/c", "c"])
    async def test_a_model_goes_to_a_replica_that_lists_it(self, gateway, make_upstream, connect, selector):
        upstreams = [await make_upstream(models=models) for models in (("a",), ("a", "c"), ("a",))]
        for each in upstreams:
            each.repeat(OK)
        handle = await gateway(vllm=together(*upstreams))
        client = await connect(handle)
        await ask(client, LIST)
        for _ in range(20):
            assert (await ask(client, post(model=selector))).status == 200
        assert [len(served(each)) for each in upstreams] == [0, 20, 0]

    @pytest.mark.parametrize("selector", ["vllm/m", "m"])
    async def test_a_replica_without_a_model_of_its_list_passes_it_on(self, gateway, make_upstream, connect, selector):
        one, other = await make_upstream(models=("m",)), await make_upstream(models=("m",))
        one.repeat(UNLOADED)
        other.repeat(OK)
        handle = await gateway(vllm=together(one, other))
        client = await connect(handle)
        await ask(client, LIST)
        assert [(await ask(client, post(model=selector))).status for _ in range(10)] == [200] * 10
        assert served(one)

    async def test_a_dead_replica_takes_none_of_the_models_away(self, gateway, make_upstream, connect):
        one, other = await make_upstream(models=("m",)), await make_upstream(models=("m", "n"))
        other.stop_listening()
        handle = await gateway(vllm=together(one, other))
        client = await connect(handle)
        assert [each["id"] for each in (await ask(client, LIST)).json()["data"]] == ["vllm/m"]
        other.listen()
        await ask(client, request("GET", "/v1/models/vllm/n"))
        assert [each["id"] for each in (await ask(client, LIST)).json()["data"]] == ["vllm/m", "vllm/n"]


def served(upstream):
    return [each for each in upstream.requests if each.target.startswith("/v1/chat")]


class TestPassthrough:
    @pytest.fixture
    async def keyed(self, gateway, make_upstream, connect):
        upstreams = [await make_upstream() for _ in range(3)]
        for each in upstreams:
            each.repeat(OK)
        handle = await gateway(vllm=together(*upstreams), GOMODEL_MASTER_KEY="k")
        return handle, upstreams, await connect(handle)

    async def test_goes_to_any(self, keyed):
        _, upstreams, client = keyed
        for _ in range(30):
            assert (await ask(client, request("GET", "/p/vllm/version", KEY))).status == 200
        assert min(len(each.requests) for each in upstreams) > 0

    @pytest.mark.parametrize("name", ["X-GoModel-Replica", "x-gomodel-replica"])
    async def test_reaches_one_by_its_address_which_is_not_passed_on(self, keyed, name):
        _, upstreams, client = keyed
        for _ in range(5):
            head = request("GET", "/p/vllm/version", [*KEY, (name, address(upstreams[1]))])
            assert (await ask(client, head)).status == 200
        assert [len(each.requests) for each in upstreams] == [0, 5, 0]
        assert not any(b"replica" in each.raw.lower() for each in upstreams[1].requests)

    async def test_of_another_address_is_a_404_that_names_those_there_are(self, keyed):
        _, upstreams, client = keyed
        answer = await ask(client, request("GET", "/p/vllm/version", [*KEY, ("X-GoModel-Replica", "10.0.0.9:8000")]))
        message = own_error(answer, 404, "not_found", "invalid_request_error")
        known = ", ".join(address(each) for each in upstreams)
        assert message == f"X-GoModel-Replica names no replica of instance 'vllm'; there are: {known}."

    async def test_without_the_key_is_a_401_that_names_none(self, keyed):
        _, upstreams, client = keyed
        answer = await ask(client, request("GET", "/p/vllm/version", [("X-GoModel-Replica", "x")]))
        assert answer.status == 401
        assert not any(shows(answer.raw.decode(), each.port) for each in upstreams)

    async def test_where_no_key_is_needed_an_unknown_address_names_none_either(self, trio, connect):
        handle, upstreams = trio
        client = await connect(handle)
        answer = await ask(client, request("GET", "/p/vllm/version", [("X-GoModel-Replica", "x:1")]))
        own_error(answer, 404, "not_found", "invalid_request_error")
        assert not any(shows(answer.raw.decode(), each.port) for each in upstreams)

    async def test_elsewhere_the_field_chooses_nothing_and_is_not_passed_on(self, trio, connect):
        handle, upstreams = trio
        client = await connect(handle)
        for _ in range(30):
            head = post(headers=[("X-GoModel-Replica", address(upstreams[0]))])
            assert (await ask(client, head)).status == 200
        assert min(len(each.requests) for each in upstreams) > 0
        assert not any(b"replica" in each.raw.lower() for one in upstreams for each in one.requests)


class TestOperators:
    async def test_see_each_replica_by_its_address(self, gateway, make_upstream, connect):
        one, other = await make_upstream(models=("m",)), await make_upstream(models=("m",))
        other.stop_listening()
        handle = await gateway(vllm=together(one, other), GOMODEL_MASTER_KEY="k", probes=True)
        client = await connect(handle)
        await turned(lambda: [each.health.state.value for each in handle.gateway.providers.replicas] == ["up", "down"])
        [instance] = (await ask(client, ADMIN)).json()["instances"]
        assert instance["name"] == "vllm"
        told = [(each["replica"], each["state"], each["last_error"]) for each in instance["replicas"]]
        assert told == [(address(one), "up", None), (address(other), "down", "connection_refused")]
        assert (await ask(client, request("GET", "/admin/instances"))).status == 401

    async def test_get_a_gauge_for_each_and_one_for_all(self, gateway, make_upstream, connect):
        one, other = await make_upstream(), await make_upstream()
        other.stop_listening()
        handle = await gateway(vllm=together(one, other), probes=True)
        await turned(lambda: [each.health.state.value for each in handle.gateway.providers.replicas] == ["up", "down"])
        text = (await ask(await connect(handle), request("GET", "/metrics"))).body.decode()
        up = [metric(text, "gomodel_replica_up", upstream="vllm", replica=address(each)) for each in (one, other)]
        assert up == [1, 0]
        assert metric(text, "gomodel_instance_up", upstream="vllm") == 1
        assert metric(text, "gomodel_replica_breaker_open", upstream="vllm", replica=address(other)) == 0

    async def test_who_need_no_key_for_the_metrics_read_no_address_there(self, gateway, make_upstream, connect):
        upstreams = [await make_upstream() for _ in range(2)]
        handle = await gateway(vllm=together(*upstreams), GOMODEL_MASTER_KEY="k", METRICS_PUBLIC="true")
        text = (await ask(await connect(handle), request("GET", "/metrics"))).body.decode()
        assert "gomodel_instance_up" in text
        assert not any(shows(text, each.port) for each in upstreams)

    async def test_who_have_no_key_read_counts_on_readiness(self, gateway, make_upstream, connect):
        one, other = await make_upstream(), await make_upstream()
        other.stop_listening()
        handle = await gateway(vllm=together(one, other), GOMODEL_MASTER_KEY="k", probes=True)
        await turned(lambda: [each.health.state.value for each in handle.gateway.providers.replicas] == ["up", "down"])
        answer = await ask(await connect(handle), READY)
        entry = answer.json()["instances"]["vllm"]
        assert (answer.status, entry["state"], entry["replicas"], entry["replicas_ready"]) == (200, "up", 2, 1)
        assert not any(address(each) in json.dumps(answer.json()) for each in (one, other))


class TestFailingAtOnce:
    """Whoever fails at once has the fewest requests in flight: that must not draw those that name the instance."""

    @pytest.mark.parametrize("status", [500, 403, 429])
    async def test_the_others_take_over(self, gateway, make_upstream, connect, status):
        one, other = await make_upstream(models=("m",)), await make_upstream(models=("m",))
        one.repeat(json_response({"error": "x"}, status))
        other.repeat(OK)
        handle = await gateway(vllm=together(one, other), ROUTING="least")
        client = await connect(handle)
        await ask(client, LIST)
        for _ in range(20):
            await ask(client, post())
        assert len(served(one)) <= 1
        assert len(served(other)) >= 19

    async def test_what_can_only_fail_pushes_nobody_aside(self, gateway, make_upstream, connect):
        upstreams = [await make_upstream(models=("m",)) for _ in range(2)]
        for each in upstreams:
            each.repeat(json_response({"error": "x"}, 429))
        handle = await gateway(vllm=together(*upstreams))
        client = await connect(handle)
        await ask(client, LIST)
        for raw in (post(model="vllm/unknown"), request("GET", "/p/vllm/version")):
            assert (await ask(client, raw)).status == 429
        assert [each.demotion.until for each in handle.gateway.providers.replicas] == [0.0, 0.0]

    async def test_the_list_of_one_that_lacks_what_it_lists_is_read_again(self, gateway, make_upstream, connect):
        one, other = await make_upstream(models=("m",)), await make_upstream(models=("m",))
        one.repeat(UNLOADED)
        other.repeat(OK)
        handle = await gateway(vllm=together(one, other))
        client = await connect(handle)
        await ask(client, LIST)
        handle.gateway.app.models.lists[0].fetched_at -= 5
        before = len(one.probes)
        while not served(one):
            assert (await ask(client, post())).status == 200
        await turned(lambda: len(one.probes) == before + 1)
