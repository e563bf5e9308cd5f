"""A name of which every address is a replica: who takes requests is what the name says now, and nothing that runs ends.

The addresses are of loopback, where a server listens at one port on as many of them as a test needs.
"""

import asyncio
import errno
import socket

import pytest

from gomodel.balancing import discovery
from gomodel.config.load import from_environ
from gomodel.process.check import print_table
from gomodel.upstream import name_sets

from ..harness.gateway import DEFAULTS
from ..harness.scripted import LAST_CHUNK, SSE_HEAD, ReadHead, WaitFor, chunked, json_response, request
from ..harness.tls import PEM
from ..harness.verdicts import OK, ask, own_error, post, turned

HOST = "vllm.test"
EVENT = SSE_HEAD + chunked(b"data: x\n\n")
READY = request("GET", "/health/ready")


@pytest.fixture
def often(monkeypatch):
    """A name is asked again every few milliseconds."""
    monkeypatch.setattr(discovery, "INTERVAL_S", 0.005)
    monkeypatch.setattr(discovery, "SOONEST_S", 0.0)
    monkeypatch.setattr(name_sets, "PATIENCE_S", 0.05)


def url(upstream, host=HOST, scheme="http+dns"):
    return f"{scheme}://{host}:{upstream.port}/v1"


def replicas(handle, instance="vllm"):
    return [each.server.number for each in handle.gateway.providers.instances[instance].replicas]


def said(handle, part):
    return [each.getMessage() for each in handle.logs.records if part in each.getMessage()]


@pytest.fixture
async def everywhere(make_upstream):
    """One scripted server at every address of 127.0.0.0/8."""
    upstream = await make_upstream(host="0.0.0.0")
    upstream.repeat(OK)
    return upstream


def peers(upstream):
    """At which address each request arrived."""
    return [each.connection.reached_at for each in upstream.requests]


async def test_every_address_is_a_replica_from_the_first_request_on(gateway, everywhere, connect, names):
    names.answer(HOST, "127.0.0.3", "127.0.0.1", "127.0.0.2")
    handle = await gateway(vllm=url(everywhere))
    assert replicas(handle) == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    client = await connect(handle)
    for _ in range(60):
        answer = await ask(client, post())
        assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm")
    assert set(peers(everywhere)) == {"127.0.0.1", "127.0.0.2", "127.0.0.3"}
    assert {each.get("Host") for each in everywhere.requests} == {f"{HOST}:{everywhere.port}"}


async def test_sixty_four_addresses_are_as_many_replicas(gateway, everywhere, connect, names):
    addresses = [f"127.0.1.{number}" for number in range(1, 65)]
    names.answer(HOST, *addresses)
    handle = await gateway(vllm=url(everywhere))
    assert replicas(handle) == addresses
    client = await connect(handle)
    for _ in range(64 * 3):
        assert (await ask(client, post())).status == 200
    ready = (await ask(client, READY)).json()["instances"]["vllm"]
    assert ready["replicas"] == 64


async def test_one_that_comes_takes_requests_and_one_that_leaves_takes_no_more(
    gateway, everywhere, connect, names, often
):
    names.answer(HOST, "127.0.0.1", "127.0.0.2")
    handle = await gateway(vllm=url(everywhere))
    stays = handle.gateway.providers.replicas[1]
    names.answer(HOST, "127.0.0.2", "127.0.0.3")
    await turned(lambda: replicas(handle) == ["127.0.0.2", "127.0.0.3"])
    assert handle.gateway.providers.replicas[0] is stays
    client = await connect(handle)
    for _ in range(40):
        assert (await ask(client, post())).status == 200
    assert set(peers(everywhere)) == {"127.0.0.2", "127.0.0.3"}
    port = everywhere.port
    assert said(handle, "replicas now") == [
        f"Instance vllm has 2 replicas now: +127.0.0.1:{port} +127.0.0.2:{port}",
        f"Instance vllm has 2 replicas now: +127.0.0.3:{port} -127.0.0.1:{port}",
    ]


async def test_what_runs_on_one_that_leaves_ends_well_and_then_its_connections_close(
    gateway, everywhere, connect, names, often
):
    names.answer(HOST, "127.0.0.1")
    handle = await gateway(vllm=url(everywhere))
    go_on = asyncio.Event()
    everywhere.on_request(ReadHead(), EVENT, WaitFor(go_on), EVENT.partition(b"\r\n\r\n")[2], LAST_CHUNK)
    running = await connect(handle)
    await running.send(post())
    await running.read_head()
    [left] = handle.gateway.providers.replicas
    names.answer(HOST, "127.0.0.2")
    await turned(lambda: replicas(handle) == ["127.0.0.2"])
    assert (await ask(await connect(handle), post())).status == 200
    assert not left.pool.closed
    go_on.set()
    assert (await running.read_rest()).complete
    await turned(lambda: left.pool.closed)
    await turned(lambda: handle.gateway.providers.instances["vllm"].leaving == [])


async def test_one_that_comes_back_while_something_runs_there_is_the_same(gateway, everywhere, connect, names, often):
    names.answer(HOST, "127.0.0.1")
    handle = await gateway(vllm=url(everywhere))
    go_on = asyncio.Event()
    everywhere.on_request(ReadHead(), EVENT, WaitFor(go_on), LAST_CHUNK)
    running = await connect(handle)
    await running.send(post())
    await running.read_head()
    [first] = handle.gateway.providers.replicas
    names.answer(HOST, "127.0.0.2")
    await turned(lambda: replicas(handle) == ["127.0.0.2"])
    names.answer(HOST, "127.0.0.1", "127.0.0.2")
    await turned(lambda: len(replicas(handle)) == 2)
    assert handle.gateway.providers.replicas[0] is first
    assert first.in_flight == 1
    go_on.set()
    assert (await running.read_rest()).complete
    assert first.in_flight == 0


async def test_one_that_was_drained_and_left_can_be_resumed(gateway, everywhere, connect, names, often):
    names.answer(HOST, "127.0.0.1", "127.0.0.2")
    handle = await gateway(vllm=url(everywhere), GOMODEL_MASTER_KEY="k")
    client = await connect(handle)

    async def rotate(verb, address):
        target = f"/admin/instances/vllm/{verb}?replica={address}:{everywhere.port}"
        return await ask(client, request("POST", target, [("Authorization", "Bearer k")], b""), "POST")

    assert (await rotate("drain", "127.0.0.2")).status == 200
    names.answer(HOST, "127.0.0.1")
    await turned(lambda: replicas(handle) == ["127.0.0.1"])
    assert (await rotate("drain", "127.0.0.2")).status == 404
    assert (await rotate("resume", "127.0.0.2")).status == 200
    assert (await rotate("resume", "127.0.0.2")).status == 404
    names.answer(HOST, "127.0.0.1", "127.0.0.2")
    await turned(lambda: replicas(handle) == ["127.0.0.1", "127.0.0.2"])
    assert not any(each.barred for each in handle.gateway.providers.replicas)


async def test_a_replica_of_an_instance_without_any_is_a_404_that_says_so(
    gateway, everywhere, connect, names, monkeypatch
):
    monkeypatch.setattr(discovery, "FIRST_ANSWER_S", 0.01)
    names.fail(HOST, socket.EAI_AGAIN)
    client = await connect(await gateway(vllm=url(everywhere)))
    answer = await ask(client, request("POST", "/admin/instances/vllm/resume?replica=10.0.0.1:80", body=b""))
    message = own_error(answer, 404, "not_found", "invalid_request_error")
    assert message == "Instance 'vllm' has no replica '10.0.0.1:80'; it has none at the moment."


async def test_all_addresses_may_change_at_once(gateway, everywhere, connect, names, often):
    names.answer(HOST, "127.0.0.1", "127.0.0.2")
    handle = await gateway(vllm=url(everywhere))
    client = await connect(handle)
    for turn in range(3, 9, 2):
        names.answer(HOST, f"127.0.0.{turn}", f"127.0.0.{turn + 1}")
        await turned(lambda turn=turn: replicas(handle) == [f"127.0.0.{turn}", f"127.0.0.{turn + 1}"])
        assert (await ask(client, post())).status == 200
    await turned(lambda: handle.gateway.providers.instances["vllm"].leaving == [])


LOST = {
    "no such name": lambda names: names.fail(HOST, socket.EAI_NONAME),
    "no answer": lambda names: names.fail(HOST, socket.EAI_AGAIN),
    "an empty answer": lambda names: names.answer(HOST),
    "no descriptor": lambda names: names.exhaust(HOST, errno.EMFILE),
    "silence": lambda names: names.silence(HOST),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
async def test_the_last_set_is_kept_and_that_is_said_once(gateway, everywhere, connect, names, often, lose):
    names.answer(HOST, "127.0.0.1", "127.0.0.2")
    handle = await gateway(vllm=url(everywhere))
    lose(names)
    await turned(lambda: said(handle, "servers stay in use"))
    asked = names.asked[HOST]
    if not names.waiting[HOST]:
        await turned(lambda: names.asked[HOST] > asked + 3)
    assert replicas(handle) == ["127.0.0.1", "127.0.0.2"]
    client = await connect(handle)
    assert (await ask(client, post())).status == 200
    assert len(said(handle, "servers stay in use")) == 1
    names.answer(HOST, "127.0.0.2")
    await turned(lambda: replicas(handle) == ["127.0.0.2"])
    assert said(handle, "can be looked up again") == [f"The name {HOST} can be looked up again"]


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST)
async def test_a_name_without_an_address_yet_is_a_502_until_it_has_one(
    gateway, everywhere, connect, names, often, lose, monkeypatch
):
    monkeypatch.setattr("gomodel.balancing.instance.FIRST_REPLICA_S", 0.01)
    monkeypatch.setattr(discovery, "FIRST_ANSWER_S", 0.01)
    lose(names)
    handle = await gateway(vllm=url(everywhere))
    client = await connect(handle)
    answer = await ask(client, post())
    assert own_error(answer, 502, "dns_error") == "The host name of instance 'vllm' could not be resolved."
    ready = await ask(client, READY)
    entry = ready.json()["instances"]["vllm"]
    assert (ready.status, entry["state"], entry["replicas"]) == (503, "no_replica", 0)
    assert (await ask(client, request("GET", "/metrics"))).status == 200
    assert (await ask(client, request("GET", "/p/vllm/version"))).status == 502
    for stored in (request("GET", "/v1/responses/resp_1"), request("POST", "/v1/responses/resp_1/cancel", body=b"")):
        answer = await ask(client, stored)
        assert own_error(answer, 502, "dns_error") == "The host name of instance 'vllm' could not be resolved."
    names.answer(HOST, "127.0.0.1")
    await turned(lambda: replicas(handle) == ["127.0.0.1"])
    assert (await ask(client, post())).status == 200


async def test_a_stored_response_may_be_where_no_address_is_known_yet(
    gateway, everywhere, make_upstream, connect, names, monkeypatch
):
    monkeypatch.setattr(discovery, "FIRST_ANSWER_S", 0.01)
    names.fail(HOST, socket.EAI_AGAIN)
    other = await make_upstream()
    other.on_request(json_response({"error": {}}, 404), path="/v1/responses/resp_1")
    client = await connect(await gateway(vllm=url(everywhere), vllm_b=other))
    answer = await ask(client, request("GET", "/v1/responses/resp_1"))
    assert "'vllm' could not be asked" in own_error(answer, 503, "response_owner_unknown", "overloaded_error")


async def test_a_failed_connect_asks_again_at_once(gateway, everywhere, make_upstream, connect, names, monkeypatch):
    monkeypatch.setattr(discovery, "INTERVAL_S", 60.0)
    monkeypatch.setattr(discovery, "SOONEST_S", 0.0)
    here = await make_upstream()
    here.repeat(OK)
    names.answer(HOST, "127.0.0.2")
    handle = await gateway(vllm=url(here))
    names.answer(HOST, "127.0.0.1")
    client = await connect(handle)
    assert (await ask(client, post())).status in (200, 502)
    await turned(lambda: replicas(handle) == ["127.0.0.1"])
    assert (await ask(client, post())).status == 200


async def test_addresses_of_both_kinds_are_replicas(gateway, make_upstream, connect, names):
    upstream = await make_upstream(host="::")
    upstream.repeat(OK)
    names.answer(HOST, "::1", "127.0.0.1")
    handle = await gateway(vllm=url(upstream))
    assert [each.address for each in handle.gateway.providers.replicas] == [
        f"127.0.0.1:{upstream.port}",
        f"[::1]:{upstream.port}",
    ]
    client = await connect(handle)
    for _ in range(20):
        assert (await ask(client, post())).status == 200
    assert set(peers(upstream)) == {"::1", "::ffff:127.0.0.1"}


async def test_replicas_come_and_go_with_their_lists_and_probes(gateway, everywhere, connect, names, often):
    names.answer(HOST, "127.0.0.1")
    handle = await gateway(vllm=url(everywhere), probes=True)
    await turned(lambda: handle.gateway.providers.replicas[0].models == ("m",))
    names.answer(HOST, "127.0.0.2", "127.0.0.3")
    await turned(lambda: replicas(handle) == ["127.0.0.2", "127.0.0.3"])
    await turned(lambda: [each.models for each in handle.gateway.providers.replicas] == [("m",), ("m",)])
    assert [each.health.state.value for each in handle.gateway.providers.replicas] == ["up", "up"]
    answer = await ask(await connect(handle), request("GET", "/v1/models"))
    assert [each["id"] for each in answer.json()["data"]] == ["vllm/m"]


class TestAReload:
    async def test_keeps_the_replicas_of_a_name(self, gateway, everywhere, connect, names):
        names.answer(HOST, "127.0.0.1", "127.0.0.2")
        handle = await gateway(vllm=url(everywhere))
        before = handle.gateway.providers.replicas
        handle.gateway.reload(from_environ({**DEFAULTS, "VLLM_BASE_URL": url(everywhere), "VLLM_API_KEY": "k"}))
        assert handle.gateway.providers.replicas == before
        assert (await ask(await connect(handle), post())).status == 200
        assert everywhere.requests[-1].get("Authorization") == "Bearer k"

    async def test_that_brings_a_name_lets_the_first_request_wait_for_it(self, gateway, everywhere, connect, names):
        names.answer(HOST, "127.0.0.1")
        handle = await gateway(vllm=everywhere.base_url.replace("0.0.0.0", "127.0.0.1"))
        handle.gateway.reload(from_environ({**DEFAULTS, "VLLM_BASE_URL": url(everywhere)}))
        assert replicas(handle) == []
        assert (await ask(await connect(handle), post())).status == 200
        assert replicas(handle) == ["127.0.0.1"]

    async def test_follows_the_name_of_the_new_configuration_alone(self, gateway, everywhere, connect, names, often):
        names.answer(HOST, "127.0.0.1")
        names.answer("other.test", "127.0.0.2")
        handle = await gateway(vllm=url(everywhere))
        handle.gateway.reload(from_environ({**DEFAULTS, "VLLM_BASE_URL": url(everywhere, "other.test")}))
        await turned(lambda: replicas(handle) == ["127.0.0.2"])
        names.answer(HOST, "127.0.0.9")
        names.answer("other.test", "127.0.0.2", "127.0.0.4")
        await turned(lambda: replicas(handle) == ["127.0.0.2", "127.0.0.4"])


async def test_a_list_may_mix_names_and_servers(gateway, everywhere, connect, names, often):
    names.answer(HOST, "127.0.0.1")
    handle = await gateway(vllm=f"{url(everywhere)},http://127.0.0.9:{everywhere.port}/v1")
    assert [each.address for each in handle.gateway.providers.replicas] == [
        f"127.0.0.1:{everywhere.port}",
        f"127.0.0.9:{everywhere.port}",
    ]
    names.answer(HOST, "127.0.0.1", "127.0.0.2")
    await turned(lambda: len(handle.gateway.providers.replicas) == 3)


async def test_over_tls_the_name_is_what_the_certificate_has_to_be_for(gateway, make_upstream, connect, names):
    upstream = await make_upstream(host="0.0.0.0", tls=True)
    upstream.repeat(OK)
    for host in ("localhost", "elsewhere.test"):
        names.answer(host, "127.0.0.2", "127.0.0.3")
    handle = await gateway(
        vllm=url(upstream, "localhost", "https+dns"),
        vllm_b=url(upstream, "elsewhere.test", "https+dns"),
        VLLM_CA_FILE=PEM,
        VLLM_B_CA_FILE=PEM,
    )
    client = await connect(handle)
    for _ in range(10):
        assert (await ask(client, post())).status == 200
    assert set(peers(upstream)) == {"127.0.0.2", "127.0.0.3"}
    assert {each.get("Host") for each in upstream.requests} == {f"localhost:{upstream.port}"}
    own_error(await ask(client, post(model="vllm-b/m")), 502, "tls_certificate_error")
    upstream.lenient = True


async def test_check_has_a_line_for_every_server_and_for_a_name_without_any(make_upstream, names, capsys, no_leaks):
    upstream = await make_upstream(host="0.0.0.0")
    names.answer(HOST, "127.0.0.1", "127.0.0.2")
    names.fail("gone.test", socket.EAI_NONAME)
    config = from_environ({"VLLM_BASE_URL": url(upstream), "VLLM_B_BASE_URL": "http+dns://gone.test/v1"})
    assert await print_table(config) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == ["vllm", "vllm", "vllm-b"]
    for line, address in zip(lines[1:3], ("127.0.0.1", "127.0.0.2"), strict=True):
        assert f"http://{HOST}:{upstream.port}/v1 on {address}:{upstream.port}" in line
        assert "ok, " in line
    assert "http+dns://gone.test/v1" in lines[3]
    assert "dns error" in lines[3]
    assert "vllm-b: No address of its name could be found. Is the host in VLLM_B_BASE_URL right" in lines[5]
    assert lines[-1] == "1 of 3 servers cannot be used."


@pytest.mark.interpreted
async def test_a_bug_while_a_name_is_followed_is_said(gateway, everywhere, names, often, monkeypatch):
    names.answer(HOST, "127.0.0.1")
    handle = await gateway(vllm=url(everywhere))
    handle.expect_error("Following a name failed inside the gateway")

    def broken(self):
        raise RuntimeError("a bug")

    monkeypatch.setattr("gomodel.balancing.instance.Instance.follow_names", broken)
    await turned(lambda: said(handle, "Following a name failed inside the gateway"))
