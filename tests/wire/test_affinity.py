"""A conversation stays with the server that has it in its cache: whatever names it, however its requests arrive."""

import json
from hashlib import sha256

import pytest

from gomodel.balancing import keys_in_flight
from gomodel.selector.conversation import LIMIT_BYTES

from ..harness.forms import form
from ..harness.forms import post as post_form
from ..harness.gateway import WAY
from ..harness.scripted import ReadBody, ReadHead, Stall, json_response, request
from ..harness.verdicts import CHAT, KEPT, OK, access_lines, ask, own_error, turned

MODELS = request("GET", "/v1/models")
BUSY_TEXT = "The engine is currently busy. Please try again later or on a different instance."
BUSY = json_response(
    {"error": {"message": BUSY_TEXT, "type": "ServiceUnavailableError", "param": None, "code": 503}},
    503,
    [("server", "uvicorn")],
)


def chat(said="hello", *, headers=(), path=CHAT, model="m", **fields):
    body = {"model": model, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": said}]}
    return request(
        "POST", path, [("Content-Type", "application/json"), *headers], json.dumps({**body, **fields}).encode()
    )


def session(name, **fields):
    return chat("the same for all", headers=[("X-Session-ID", name)], **fields)


@pytest.fixture
async def fleet(gateway, make_upstream, connect):
    """A gateway whose four servers all list `m`, a client, and the servers by name."""
    servers = {name: await make_upstream(models=("m",)) for name in ("vllm", "vllm_a", "vllm_b", "vllm_c")}
    for each in servers.values():
        each.repeat(OK)
    handle = await gateway(**servers)
    client = await connect(handle)
    await ask(client, MODELS)
    return handle, client, {name.replace("_", "-"): each for name, each in servers.items()}


async def server_of(client, raw):
    return (await ask(client, raw)).get("X-GoModel-Provider")


NAMED = {
    "a header": session,
    "another header": lambda name: chat(headers=[("Helicone-Session-Id", name)]),
    "a cache key": lambda name: chat(prompt_cache_key=name),
    "a session in the body": lambda name: chat(session_id=name),
    "a user": lambda name: chat(metadata={"user_id": f"user_1_account__session_{name}"}, path="/v1/messages"),
    "its opening": lambda name: chat("as " + name),
    "its input": lambda name: request(
        "POST", "/v1/responses", [], json.dumps({"model": "m", "input": "as " + name}).encode()
    ),
    "its prompt": lambda name: request(
        "POST", "/v1/completions", [], json.dumps({"model": "m", "prompt": "as " + name}).encode()
    ),
}


@pytest.mark.parametrize("ask_as", NAMED.values(), ids=NAMED)
async def test_a_conversation_goes_to_one_server_and_conversations_to_all(fleet, ask_as):
    _, client, servers = fleet
    names = [f"s-{number}" for number in range(60)]  # of 24, one time in 250 none is at home at one of four
    homes = [await server_of(client, ask_as(name)) for name in names]
    assert [await server_of(client, ask_as(name)) for name in names[19::-1]] == homes[19::-1]
    assert set(homes) == set(servers)


async def test_another_gateway_chooses_alike(fleet, gateway, connect):
    _, client, servers = fleet
    other = await gateway(**{name.replace("-", "_"): each for name, each in reversed(servers.items())})
    second = await connect(other)
    await ask(second, MODELS)
    for name in range(12):
        for raw in (session(f"s-{name}"), chat(f"as {name}")):
            assert await server_of(client, raw) == await server_of(second, raw)


async def test_however_a_body_arrives_its_conversation_is_the_same(fleet, connect):
    handle, client, _ = fleet
    for size in (10, 40_000, LIMIT_BYTES + 100_000):
        raw = chat("x" * size, tools=[{"function": {"parameters": {"role": "user"}}}])
        home = await server_of(client, raw)
        begin = raw.index(b"\r\n\r\n") + 4
        body = raw[begin:]
        pieces = [body[at : at + 9973] for at in range(0, len(body), 9973)]
        other = await connect(handle)
        assert await server_of(other, request("POST", CHAT, [("Content-Type", "application/json")], pieces)) == home
        await other.send_pieces([raw[:begin], body[:7], body[7:-5], body[-5:]])
        assert (await other.read_response()).get("X-GoModel-Provider") == home


async def test_however_a_body_arrives_a_second_model_in_what_is_held_is_a_400(fleet, connect):
    handle, _, servers = fleet
    begin, end = b'{"model":"m","messages":[{"role":"user","content":"hello"}]', b',"model":"n"}'
    fields = [("Content-Type", "application/json")]
    for pieces in ([begin + end], [begin, end], [begin[:7], begin[7:], end[:4], end[4:]]):
        client = await connect(handle)
        length = ("Content-Length", str(len(begin + end)))
        await client.send_pieces([request("POST", CHAT, [*fields, length]), *pieces])
        own_error(await client.read_response(), 400, "invalid_body", "invalid_request_error")
        chunked = [b"%x\r\n%b\r\n" % (len(each), each) for each in pieces]
        await client.send_pieces(
            [request("POST", CHAT, [*fields, ("Transfer-Encoding", "chunked")]), *chunked, b"0\r\n\r\n"]
        )
        own_error(await client.read_response(), 400, "invalid_body", "invalid_request_error")
    assert not any(each.target == CHAT for server in servers.values() for each in server.requests)


@pytest.mark.skipif(WAY == "task", reason="this run is of the other way")
@pytest.mark.parametrize("size", [200, 40_000, 200_000])
async def test_what_comes_in_pieces_is_sent_home_by_no_task(gateway, make_upstream, connect, size):
    servers = {name: await make_upstream(models=("m",)) for name in ("vllm", "vllm_a", "vllm_b", "vllm_c")}
    for each in servers.values():
        each.repeat(OK)
    handle = await gateway(KEPT, **servers)
    client = await connect(handle)
    await ask(client, MODELS)
    raw = chat("x" * size)
    home = await server_of(client, raw)
    handle.gateway.app.serve = None
    at, third = raw.index(b"\r\n\r\n") + 4, size // 3
    await client.send_pieces([raw[:at], raw[at : at + 40], raw[at + 40 : at + third], raw[at + third : -20], raw[-20:]])
    assert (await client.read_response()).get("X-GoModel-Provider") == home


async def test_models_have_homes_of_their_own(gateway, make_upstream, connect):
    servers = {name: await make_upstream(models=("m", "n")) for name in ("vllm", "vllm_a", "vllm_b", "vllm_c")}
    for each in servers.values():
        each.repeat(OK)
    client = await connect(await gateway(**servers))
    await ask(client, MODELS)
    homes = [[await server_of(client, session(f"s-{at}", model=model)) for at in range(12)] for model in "mn"]
    assert homes[0] != homes[1]


@pytest.fixture
async def replicas(gateway, make_upstream, connect):
    """A gateway with one instance, `vllm`, of four servers; a client, and the servers."""
    servers = [await make_upstream(models=("m",)) for _ in range(4)]
    for each in servers:
        each.repeat(OK)
    handle = await gateway(vllm=",".join(each.base_url for each in servers), GOMODEL_MASTER_KEY="k")
    return handle, await connect(handle), servers


async def homes_of(client, servers, names, model="vllm/m"):
    """Which of the servers each session is served by."""
    found = []
    for name in names:
        before = [len(each.requests) for each in servers]
        raw = chat(headers=[("X-Session-ID", name), ("x-api-key", "k")], model=model)
        assert (await ask(client, raw)).status == 200
        found.append(next(at for at, each in enumerate(servers) if len(each.requests) != before[at]))
    return found


async def test_callers_have_homes_of_their_own(gateway, make_upstream, connect, tmp_path):
    """Nobody can aim at the server that another's session is at."""
    keys = tmp_path / "keys.toml"
    keys.write_text(
        "".join(f"[keys.{name}]\nsha256 = '{sha256(name.encode()).hexdigest()}'\n" for name in ("alice", "bob"))
    )
    servers = {name: await make_upstream(models=("m",)) for name in ("vllm", "vllm_a", "vllm_b", "vllm_c")}
    for each in servers.values():
        each.repeat(OK)
    client = await connect(await gateway(GOMODEL_MASTER_KEY="k", GOMODEL_KEYS_FILE=str(keys), **servers))
    await ask(client, request("GET", "/v1/models", [("x-api-key", "k")]))
    homes = {}
    for name in ("alice", "bob", "alice"):
        seen = [
            await server_of(client, chat(headers=[("X-Session-ID", f"s-{at}"), ("x-api-key", name)]))
            for at in range(12)
        ]
        assert homes.setdefault(name, seen) == seen
    assert homes["alice"] != homes["bob"]


async def test_sessions_that_share_a_connection_are_told_apart(fleet, connect):
    """Their heads are alike but for the one line."""
    handle, client, _ = fleet
    names = [f"s-{number % 8}" for number in range(40)]
    shared = [await server_of(client, session(name)) for name in names]
    assert [await server_of(await connect(handle), session(name)) for name in names[:8]] == shared[:8]
    assert len(set(shared)) > 1


async def test_the_field_goes_on_and_what_was_made_of_it_does_not(fleet):
    handle, client, servers = fleet
    await ask(client, session("s-canary"))
    [seen] = [each for server in servers.values() for each in server.requests]
    assert seen.get("X-Session-ID") == "s-canary"
    assert "canary" not in handle.logs.text


async def test_an_operators_header_names_a_session(gateway, make_upstream, connect):
    servers = {name: await make_upstream(models=("m",)) for name in ("vllm", "vllm_a", "vllm_b")}
    for each in servers.values():
        each.repeat(OK)
    client = await connect(await gateway(SESSION_HEADERS="X-Chat", **servers))
    await ask(client, MODELS)
    homes = {await server_of(client, chat(f"turn {turn}", headers=[("X-Chat", "c")])) for turn in range(12)}
    assert len(homes) == 1


async def test_what_names_no_conversation_goes_to_any(fleet):
    handle, client, servers = fleet
    raw = request("POST", "/v1/embeddings", [("Content-Type", "application/json")], b'{"model":"m","input":"x"}')
    for _ in range(200):
        await ask(client, raw)
        if all(each.requests for each in servers.values()):
            break
    assert all(each.requests for each in servers.values())
    assert set(handle.gateway.telemetry.affinity) == {("none", "none")}


async def test_by_least_nothing_stays(gateway, make_upstream, connect):
    servers = {name: await make_upstream(models=("m",)) for name in ("vllm", "vllm_a")}
    for each in servers.values():
        each.repeat(OK)
    handle = await gateway(ROUTING="least", **servers)
    client = await connect(handle)
    await ask(client, MODELS)
    for _ in range(200):
        await ask(client, session("s"))
        if all(each.requests for each in servers.values()):
            break
    assert all(each.requests for each in servers.values())
    assert handle.gateway.telemetry.affinity == {}
    assert not any("affinity" in line for line in access_lines(handle))


async def test_where_there_is_no_choice_nothing_is_looked_for_and_nothing_waited_for(fleet, connect):
    handle, _, servers = fleet
    servers["vllm"].on_request(ReadHead(), ReadBody(), OK)
    raw = chat("x" * 5000, model="vllm/m")
    client = await connect(handle)
    await client.send(raw[:-100])
    seen = await servers["vllm"].wait_for_request()
    assert not seen.complete
    await client.send(raw[-100:])
    assert (await client.read_response()).status == 200
    assert handle.gateway.telemetry.affinity == {}


async def test_a_body_is_held_to_its_end_or_as_long_as_it_may_say_something(fleet, connect):
    handle, _, servers = fleet
    long = chat("x" * (LIMIT_BYTES + 200_000))
    client = await connect(handle)
    await client.send(long[:-1000])
    await turned(lambda: any(each.requests for each in servers.values()))
    [seen] = [each for server in servers.values() for each in server.requests]
    assert not seen.complete
    await client.send(long[-1000:])
    assert (await client.read_response()).status == 200
    short = chat("x" * 5000)
    await client.send(short[:-1])
    other = await connect(handle)
    await ask(other, session("s"))
    assert sum(len(each.requests) for each in servers.values()) == 2
    await client.send(short[-1:])
    assert (await client.read_response()).status == 200


@pytest.mark.parametrize("headers", [(), [("X-Session-ID", "s")]], ids=["unnamed", "named"])
async def test_forms_stream_through(fleet, headers):
    _, client, servers = fleet
    raw = post_form(form("m", "first", wav=b"x" * 400_000), headers=headers)
    await client.send(raw[:-1000])
    await turned(lambda: any(each.requests for each in servers.values()))
    await client.send(raw[-1000:])
    assert (await client.read_response()).status == 200


async def line_with(handle, **facts):
    found = lambda: [line for line in access_lines(handle) if facts.items() <= line.items()]  # noqa: E731
    await turned(found)
    return found()[-1]


async def test_a_home_that_has_far_too_much_to_do_is_left_for_the_next_in_rank(fleet, connect):
    handle, client, servers = fleet
    home = await server_of(client, session("s"))
    servers[home].repeat(Stall())
    waiting = []
    # What is bound to it counts as well.
    for number in range(8):
        other = await connect(handle)
        await other.send(chat(f"as {number}", model=f"{home}/m"))
        waiting.append(other)
    await turned(lambda: handle.gateway.providers.instances[home].in_flight == 8)
    elsewhere = {await server_of(client, session("s")) for _ in range(5)}
    assert len(elsewhere) == 1
    assert home not in elsewhere
    assert (await line_with(handle, affinity="spilled"))["instance"] in elsewhere
    assert handle.gateway.telemetry.affinity == {("header", "home"): 1, ("header", "spilled"): 5}
    for each in waiting:
        each.fin()
    await turned(lambda: handle.gateway.providers.instances[home].in_flight == 0)
    servers[home].repeat(OK)
    assert await server_of(client, session("s")) == home


async def test_one_conversation_in_parallel_is_spread_over_all(fleet, connect):
    handle, _, servers = fleet
    for each in servers.values():
        each.repeat(Stall())
    clients = [await connect(handle) for _ in range(40)]
    for number, each in enumerate(clients, 1):
        await each.send(session("s"))
        await turned(lambda number=number: sum(len(server.requests) for server in servers.values()) == number)
    assert max(len(each.requests) for each in servers.values()) <= 1.6 * 10
    for each in clients:
        each.fin()
    await turned(lambda: not handle.gateway.telemetry.running.records)
    await turned(lambda: not any(keys_in_flight.shared._cells))


async def test_conversations_of_a_lost_server_move_and_come_home(fleet):
    handle, client, servers = fleet
    names = [f"s-{number}" for number in range(24)]
    before = {name: await server_of(client, session(name)) for name in names}
    lost = before[names[0]]
    servers[lost].stop_listening()
    for each in servers[lost].open_connections:
        each.wire.close()
    during = {name: await server_of(client, session(name)) for name in names}
    assert lost not in during.values()
    assert {name for name in names if during[name] != before[name]} == {name for name in names if before[name] == lost}
    assert (await line_with(handle, affinity="moved"))["instance"] != lost
    servers[lost].listen()
    [replica] = handle.gateway.providers.instances[lost].replicas
    replica.health.ok(replica.health.failures)
    replica.demotion.over()
    assert {name: await server_of(client, session(name)) for name in names} == before


async def test_a_busy_home_costs_the_client_nothing(fleet):
    handle, client, servers = fleet
    home = await server_of(client, session("s"))
    servers[home].repeat(BUSY)
    answer = await ask(client, session("s"))
    assert (answer.status, answer.get("X-GoModel-Provider") == home) == (200, False)
    assert (await line_with(handle, affinity="moved"))["retries"] == 1
    assert handle.gateway.telemetry.affinity == {("header", "home"): 1, ("header", "moved"): 1}
    assert not any(keys_in_flight.shared._cells)


async def test_a_client_that_leaves_takes_its_conversation_along(fleet, connect):
    handle, _, servers = fleet
    for each in servers.values():
        each.repeat(Stall())
    for raw in (session("s"), chat("a")):
        client = await connect(handle)
        await client.send(raw)
        await turned(lambda: any(keys_in_flight.shared._cells))
        client.fin()
        await turned(lambda: not any(keys_in_flight.shared._cells))


NAMES = [f"s-{number}" for number in range(24)]


async def test_a_conversation_stays_with_one_of_an_instances_replicas(replicas):
    _, client, servers = replicas
    homes = await homes_of(client, servers, NAMES)
    assert len(set(homes)) > 1
    assert await homes_of(client, servers, NAMES[::-1]) == homes[::-1]
    # A bare id means the same servers.
    assert await homes_of(client, servers, NAMES, model="m") == homes


async def test_the_order_of_replicas_and_the_name_of_their_instance_do_not_matter(replicas, gateway, connect):
    _, client, servers = replicas
    urls = ",".join(each.base_url for each in reversed(servers))
    other = await connect(await gateway({"VLLM_X_BASE_URL": urls, "GOMODEL_MASTER_KEY": "k"}))
    homes = await homes_of(client, servers, NAMES)
    assert await homes_of(other, servers, NAMES, model="vllm-x/m") == homes


async def test_out_of_rotation_conversations_move_and_come_home(replicas):
    handle, client, servers = replicas
    before = await homes_of(client, servers, NAMES)
    at = before[0]
    where = f"/admin/instances/vllm/{{}}?replica=127.0.0.1:{servers[at].port}"
    assert (await ask(client, request("POST", where.format("drain"), [("x-api-key", "k")]))).status == 200
    during = await homes_of(client, servers, NAMES)
    assert at not in during
    assert [now for now, was in zip(during, before, strict=True) if was != at] == [was for was in before if was != at]
    assert (await line_with(handle, affinity="moved"))["instance"] == "vllm"
    assert (await ask(client, request("POST", where.format("resume"), [("x-api-key", "k")]))).status == 200
    assert await homes_of(client, servers, NAMES) == before
