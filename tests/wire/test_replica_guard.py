"""Replicas that are not the same are named once, in the log, to operators and in the metrics, and kept out if asked."""

import json
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

from gomodel.balancing import replica_guard
from gomodel.balancing.equivalence import EXCLUDING

from ..harness.scripted import Reset, request
from ..harness.verdicts import ask, post, turned

GUARDED = {"REPLICA_GUARD": "warn"}


class Server:
    """A vLLM that says of itself what it is told to."""

    def __init__(self, **differing):
        self.said = {
            "version": "0.12.0",
            "max_model_len": 4096,
            "chat_template": [1, 2],
            "greedy": " five",
            "system_fingerprint": "fp-a",
        } | differing
        self.asked = []
        self.served = 0
        self.base_url = ""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = json.loads(await request.read() or b"null")
        if request.path == "/v1/models":
            return web.json_response({"data": [{"id": "m", "max_model_len": self.said["max_model_len"]}]})
        if request.path == "/version" and self.said["version"]:
            self.asked.append("version")
            return web.json_response({"version": self.said["version"]})
        if request.path == "/tokenize" and self.said["chat_template"]:
            self.asked.append("chat_template")
            return web.json_response({"tokens": self.said["chat_template"]})
        if request.path == "/v1/completions" and self.said["greedy"]:
            self.asked.append("greedy")
            assert (body["max_tokens"], body["temperature"]) == (8, 0)
            choices = [{"text": self.said["greedy"]}]
            return web.json_response({"choices": choices, "system_fingerprint": self.said["system_fingerprint"]})
        if request.path == "/v1/chat/completions":
            self.served += 1
            return web.json_response({})
        return web.Response(status=200 if request.path == "/health" else 404)


@pytest.fixture(autouse=True)
def when_told(monkeypatch):
    """It looks when a test says so."""
    monkeypatch.setattr(replica_guard, "FIRST_S", 1e6)


@pytest.fixture
async def serve(no_leaks):
    async with AsyncExitStack() as stack:

        async def start(*servers):
            for each in servers:
                app = web.Application()
                app.router.add_route("*", "/{path:.*}", each.answer)
                runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
                await runner.setup()
                stack.push_async_callback(runner.cleanup)
                site = web.TCPSite(runner, "127.0.0.1", 0)
                await site.start()
                each.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            return servers

        yield start


def said(handle):
    texts = [each.getMessage() for each in handle.logs.records]
    return [text for text in texts if text.startswith("Replicas that serve")]


async def compared(handle):
    """Let the lists of servers that are up be read, and what is known of these compared."""
    for each in handle.gateway.providers.replicas:
        each.health.ok(each.health.failures)
    await handle.gateway.app.models.merged()
    await handle.gateway.app._guard.look()


async def replicas(start, servers, **env):
    handle = await start({**GUARDED, **env}, vllm=",".join(each.base_url for each in servers))
    await compared(handle)
    return handle


ODD = [
    ("version", "0.11.2", "0.11.2", "0.12.0"),
    ("max_model_len", 2048, "2048", "4096"),
    ("system_fingerprint", "fp-b", "fp-b", "fp-a"),
    ("chat_template", [1, 2, 3], None, None),
    ("greedy", " 5", None, None),
]


@pytest.mark.parametrize("guard", ["warn", "exclude"])
@pytest.mark.parametrize(("what", "value", "its", "others"), ODD, ids=[each[0] for each in ODD])
async def test_the_odd_one_of_three_is_named_and_kept_out_if_told_to(
    gateway, connect, serve, guard, what, value, its, others
):
    servers = await serve(Server(), Server(**{what: value}), Server())
    handle = await replicas(gateway, servers, REPLICA_GUARD=guard)
    [text] = said(handle)
    odd = handle.gateway.providers.replicas[1]
    assert text.startswith(f"Replicas that serve m differ in {what}: vllm ({odd.address}) has ")
    if its is not None:
        assert f" has {its}; the others have {others}" in text
    out = guard == "exclude" and what in EXCLUDING
    assert text.endswith(", and get its requests") is out
    assert [each.differs for each in handle.gateway.providers.replicas] == [(), (what,), ()]
    assert [each.kept_back for each in handle.gateway.providers.replicas] == [False, out, False]
    client = await connect(handle)
    listed = (await ask(client, request("GET", "/admin/instances"))).json()["instances"][0]["replicas"]
    assert [each["differs"] for each in listed] == [[], [what], []]
    metrics = (await ask(client, request("GET", "/metrics"))).body.decode()
    assert f'gomodel_replicas_differing{{upstream="vllm",what="{what}"}} 1.0' in metrics
    assert f'gomodel_replicas_kept_out{{upstream="vllm",why="differs"}} {float(out)}' in metrics
    for _ in range(20):
        await ask(client)
    assert sum(each.served for each in servers) == 20
    if out:
        assert servers[1].served == 0


async def test_of_two_that_differ_nobody_is_kept_out(gateway, connect, serve):
    servers = await serve(Server(), Server(version="0.11.2"))
    handle = await replicas(gateway, servers, REPLICA_GUARD="exclude")
    one, two = handle.gateway.providers.replicas
    assert said(handle) == [
        f"Replicas that serve m differ in version: vllm ({one.address}) has 0.12.0, vllm ({two.address}) has 0.11.2"
    ]
    assert [each.kept_back for each in (one, two)] == [False, False]


async def test_the_odd_one_gets_what_no_other_takes(gateway, connect, serve):
    servers = await serve(Server(), Server(version="0.11.2"), Server())
    handle = await replicas(gateway, servers, REPLICA_GUARD="exclude")
    for each in (0, 2):
        handle.gateway.providers.replicas[each].bar("out_of_rotation", True)
    assert (await ask(await connect(handle))).status == 200
    assert servers[1].served == 1


async def test_instances_that_list_one_model_are_compared_and_one_that_is_named_serves(gateway, connect, serve):
    servers = await serve(Server(), Server(), Server(version="0.11.2"))
    urls = {f"vllm_{name}": each.base_url for name, each in zip("abc", servers, strict=True)}
    handle = await gateway({"REPLICA_GUARD": "exclude"}, **urls)
    await compared(handle)
    assert said(handle) == [
        "Replicas that serve m differ in version: vllm-c has 0.11.2; the others have 0.12.0, and get its requests"
    ]
    client = await connect(handle)
    for _ in range(10):
        await ask(client, post(model="m"))
    assert servers[2].served == 0
    assert (await ask(client, post(model="vllm-c/m"))).status == 200
    assert servers[2].served == 1


async def test_a_difference_is_said_once_and_again_when_it_is_another_or_gone(gateway, serve):
    servers = await serve(Server(), Server(version="0.11.2"), Server())
    handle = await replicas(gateway, servers)
    for _ in range(3):
        await compared(handle)
    assert len(said(handle)) == 1
    odd = handle.gateway.providers.replicas[1]
    for version in ("0.11.3", "0.12.0"):
        servers[1].said["version"] = version
        odd.health.failed("connection_refused")
        await compared(handle)
    assert [text.partition(": ")[0] for text in said(handle)] == [
        "Replicas that serve m differ in version",
        "Replicas that serve m differ in version",
        "Replicas that serve m do not differ in version any more",
    ]
    assert odd.differs == ()


async def test_nothing_is_asked_of_one_replica_alone_nor_while_it_drains_nor_where_it_is_off(gateway, serve):
    alone, *pair = await serve(Server(), Server(), Server())
    handle = await gateway(GUARDED, vllm=alone.base_url)
    await compared(handle)
    draining = await gateway(GUARDED, vllm=",".join(each.base_url for each in pair))
    draining.gateway.app.draining = True
    await compared(draining)
    off = await gateway({"REPLICA_GUARD": "off"}, vllm=",".join(each.base_url for each in pair))
    assert off.gateway.app._guard is None
    assert [each.asked for each in (alone, *pair)] == [[], [], []]


async def test_no_engine_works_for_it_where_an_operator_says_so(gateway, serve):
    servers = await serve(Server(), Server(greedy=" 5"))
    handle = await replicas(gateway, servers, REPLICA_GUARD_GENERATES="false")
    assert [each.asked for each in servers] == [["version", "chat_template"]] * 2
    assert said(handle) == []


async def test_what_it_asks_is_counted_and_in_flight(gateway, connect, serve):
    servers = await serve(Server(), Server())
    handle = await replicas(gateway, servers)
    counted = handle.gateway.telemetry.own_requests
    assert counted == {("vllm", what): 2 for what in replica_guard.ASKED}
    assert [each.in_flight for each in handle.gateway.providers.replicas] == [0, 0]


async def test_a_server_that_says_nothing_differs_in_nothing(gateway, serve):
    silent = Server(version=None, chat_template=None, greedy=None, max_model_len=None)
    servers = await serve(Server(), silent)
    handle = await replicas(gateway, servers)
    assert said(handle) == []
    assert servers[0].asked == ["version", "chat_template", "greedy"]


async def test_one_that_cannot_be_asked_is_asked_again_later(gateway, serve, make_upstream, clock):
    upstream = await make_upstream()
    servers = await serve(Server())
    upstream.repeat(Reset())
    handle = await gateway(GUARDED, vllm=f"{servers[0].base_url},{upstream.base_url}", VLLM_MODELS="m")
    asked = []
    for _ in range(3):
        await compared(handle)
        asked.append(sum(each.target == "/version" for each in upstream.requests))
        if len(asked) == 2:
            clock.advance(replica_guard.RETRY_S)
    assert 0 < asked[0] == asked[1] < asked[2]
    assert said(handle) == []
    assert servers[0].asked == ["version", "chat_template", "greedy"]


async def test_all_are_asked_again_after_an_hour(gateway, serve, clock):
    servers = await serve(Server(), Server())
    handle = await replicas(gateway, servers)
    await compared(handle)
    clock.advance(replica_guard.AGAIN_S)
    await compared(handle)
    assert [each.asked for each in servers] == [["version", "chat_template", "greedy"] * 2] * 2


async def test_it_looks_by_itself(gateway, serve, monkeypatch):
    monkeypatch.setattr(replica_guard, "FIRST_S", 0)
    monkeypatch.setattr(replica_guard, "LOOK_S", 0.01)
    servers = await serve(Server(), Server(version="0.11.2"))
    handle = await gateway(GUARDED, vllm=",".join(each.base_url for each in servers), probes=True)
    await turned(lambda: said(handle))
