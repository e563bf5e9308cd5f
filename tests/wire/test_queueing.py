"""Requests beyond MAX_IN_FLIGHT wait in the gateway: bounded, in order, and who leaves never reaches an instance."""

import asyncio
import json
from hashlib import sha256

import pytest

from gomodel.access import host_usage
from gomodel.app import App
from gomodel.telemetry.spending import Spending
from gomodel.telemetry.usage import Usage

from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    Fin,
    ReadBody,
    ReadHead,
    ReadRequest,
    Reset,
    Stall,
    WaitFor,
    chunked,
    json_response,
    let_peers_run,
    request,
    response,
)
from ..harness.verdicts import CHAT, KEPT, OK, aborted, access_lines, ask, counted, own_error, post, turned

pytestmark = pytest.mark.transports("tcp", "tls", "unix")

PATIENT = {**KEPT, "HTTP_RESPONSE_HEADER_TIMEOUT": "60s", "HTTP_STREAM_IDLE_TIMEOUT": "60s"}
ONE = {**PATIENT, "VLLM_MAX_IN_FLIGHT": "1"}
# Several instances that list the same model, without asking them.
LISTED = {"CONFIGURED_PROVIDER_MODELS_MODE": "allowlist", "VLLM_MODELS": "m", "VLLM_B_MODELS": "m"}
WAYS = ["fin", "reset", "half_close"]
BUSY = json_response({"error": {"message": "The engine is currently busy. Please try again later.", "code": 503}}, 503)


@pytest.fixture(params=[True, False], ids=["at once", "in its turn"])
def at_once(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(App, "begin", lambda app, asked: False)
    return request.param


def in_line(handle) -> int:
    return sum(record.place is not None and record.place.waiting for record in handle.gateway.telemetry.running.records)


def nothing_held(handle) -> bool:
    queue = handle.gateway.slots._queue
    return not queue._used and not queue.waiting and not handle.gateway.slots._places


async def holding(handle, upstream, connect, go_on=None):
    """A client whose request has the slot."""
    end = asyncio.Event() if go_on is None else go_on
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(end), LAST_CHUNK)
    client = await connect(handle)
    await client.send(post())
    await client.read_head()
    return client, end


async def waiting(handle, connect, raw=None, number=1):
    client = await connect(handle)
    await client.send(post() if raw is None else raw)
    await turned(lambda: in_line(handle) == number)
    return client


async def test_never_more_than_the_limit_is_at_the_instance_and_the_first_come_are_the_first_served(
    at_once, gateway, upstream, connect
):
    handle = await gateway({**PATIENT, "VLLM_MAX_IN_FLIGHT": "2"}, vllm=upstream)
    ends = [asyncio.Event() for _ in range(6)]
    for end in ends:
        upstream.on_request(ReadRequest(), WaitFor(end), OK)
    clients = [await connect(handle) for _ in ends]
    for number, client in enumerate(clients):
        await client.send(post(headers=[("X-Number", str(number))]))
        await upstream.wait_for_request(min(number + 1, 2))
        await turned(lambda: len(handle.gateway.telemetry.running.records) == number + 1)  # noqa: B023 - at once
    await turned(lambda: in_line(handle) == 4)
    for number, end in enumerate(ends):
        await upstream.wait_for_request(min(number + 2, 6))
        assert len(upstream.requests) == min(number + 2, 6)
        end.set()
        assert (await clients[number].read_response()).status == 200
    assert [each.get("X-Number") for each in upstream.requests] == list("012345")
    assert await counted(handle, 6) == {200: 6}
    assert nothing_held(handle)


@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_a_full_line_is_a_503_that_says_when_to_come_again(at_once, gateway, upstream, connect, path):
    handle = await gateway({**ONE, "QUEUE_LIMIT": "1"}, vllm=upstream)
    client, end = await holding(handle, upstream, connect)
    second = await waiting(handle, connect)
    answer = await ask(await connect(handle), post(path))
    error = answer.json()["error"]
    assert answer.status == 503
    assert error["type"] == "overloaded_error"
    assert error.get("code") == (None if path == "/v1/messages" else "queue_full")
    assert 1 <= int(answer.get("Retry-After")) <= 60
    upstream.on_request(OK)
    end.set()
    await client.read_rest()
    assert (await second.read_response()).status == 200
    assert len(upstream.requests) == 2
    assert nothing_held(handle)


async def test_before_the_first_turn_the_wait_is_told_by_how_long_requests_took(
    gateway, upstream, connect, monkeypatch
):
    monkeypatch.setattr(host_usage, "shared", host_usage.HostUsage())  # of one worker, whoever had more before
    handle = await gateway({**ONE, "QUEUE_LIMIT": "1"}, vllm=upstream)
    for instance, key, seconds in (("vllm", "alice", 150.0), ("vllm", "", 50.0), ("other", "", 1.0)):
        spent = handle.gateway.telemetry.spending[instance, "m", key] = Spending()
        spent.add(Usage(1), seconds)
    client, end = await holding(handle, upstream, connect)
    second = await waiting(handle, connect)
    answer = await ask(await connect(handle))
    assert (answer.status, answer.get("Retry-After")) == (503, "200")  # for the one that waits, and for this one
    upstream.on_request(OK)
    end.set()
    await client.read_rest()
    assert (await second.read_response()).status == 200
    assert nothing_held(handle)


async def test_who_waits_too_long_is_told_so(at_once, gateway, upstream, connect):
    handle = await gateway({**ONE, "QUEUE_TIMEOUT": "50ms"}, vllm=upstream)
    client, end = await holding(handle, upstream, connect)
    answer = await ask(await connect(handle))
    own_error(answer, 503, "queue_timeout", "overloaded_error")
    assert int(answer.get("Retry-After")) >= 1
    assert len(upstream.requests) == 1
    end.set()
    await client.read_rest()
    await counted(handle, 2)
    assert nothing_held(handle)
    assert handle.gateway.telemetry.queue_ends == {("vllm", "timeout"): 1}


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("sent", ["all of it", "up to the model", "chunked, up to the model"])
async def test_who_leaves_the_line_never_reaches_the_instance(at_once, gateway, upstream, connect, how, sent):
    handle = await gateway(ONE, vllm=upstream)
    client, end = await holding(handle, upstream, connect)
    raw = {
        "all of it": post(),
        "up to the model": request("POST", CHAT, [("Content-Length", "100")]) + b'{"model":"vllm/m",',
        "chunked, up to the model": request("POST", CHAT, [("Transfer-Encoding", "chunked")])
        + chunked(b'{"model":"vllm/m",'),
    }[sent]
    leaving = await waiting(handle, connect, raw)
    behind = await waiting(handle, connect, number=2)
    getattr(leaving, how)()
    await turned(lambda: in_line(handle) == 1)
    assert await aborted(handle) == {("client", "queue"): 1}
    assert access_lines(handle)[0]["status"] == 499
    upstream.on_request(OK)
    end.set()
    await client.read_rest()
    assert (await behind.read_response()).status == 200
    assert len(upstream.requests) == 2
    assert handle.gateway.telemetry.queue_ends == {("vllm", "left"): 1, ("vllm", "served"): 1}
    await counted(handle, 3)
    assert nothing_held(handle)


async def abort(handle, client):
    for record in handle.gateway.telemetry.running.records:
        if not (record.place is not None and record.place.waiting):
            record.abort("aborted_by_operator")


async def reset(handle, client):
    client.reset()


ENDS = {
    "it is answered": ((OK,), None),
    "it is answered with an error": ((response(b"{}", 500),), None),
    "the instance refuses it as busy": ((BUSY,), None),
    "the instance resets the connection": ((ReadRequest(), Reset()), None),
    "the instance closes the connection": ((ReadRequest(), Fin()), None),
    "the answer breaks off": ((SSE_HEAD + chunked(b"data: 1\n\n"), Reset()), None),
    "the instance says nothing": ((ReadRequest(), Stall()), None),
    "the answer falls silent": ((SSE_HEAD + chunked(b"data: 1\n\n"), Stall()), None),
    "its client leaves": ((ReadRequest(), Stall()), reset),
    "its client leaves in the middle of the answer": ((SSE_HEAD + chunked(b"data: 1\n\n"), Stall()), reset),
    "an operator ends it": ((SSE_HEAD + chunked(b"data: 1\n\n"), Stall()), abort),
    "an operator ends it before its answer": ((ReadRequest(), Stall()), abort),
}


@pytest.mark.transports("tcp")
@pytest.mark.parametrize("end", ENDS)
async def test_the_slot_is_given_back_however_a_request_ends(at_once, gateway, upstream, connect, end):
    """With a connection idle at the instance and without."""
    limits = {"HTTP_RESPONSE_HEADER_TIMEOUT": "150ms", "HTTP_STREAM_IDLE_TIMEOUT": "150ms", "RETRY_MAX_RETRIES": "0"}
    if "nothing" not in end and "silent" not in end:
        limits = {"RETRY_MAX_RETRIES": "0"}
    handle = await gateway({**ONE, **limits, "CIRCUIT_BREAKER_FAILURE_THRESHOLD": "99"}, vllm=upstream)
    steps, then = ENDS[end]
    for number in range(3):
        upstream.on_request(*steps)
        client = await connect(handle)
        await client.send(post())
        await upstream.wait_for_request(2 * number + 1)
        upstream.on_request(OK)
        if then is not None:
            behind = await waiting(handle, connect)
            await let_peers_run()
            await then(handle, client)
        else:
            behind = await connect(handle)
            await behind.send(post())
        assert (await behind.read_response()).status == 200
        await counted(handle, 2 * number + 2)
        assert nothing_held(handle)


@pytest.mark.transports("tcp")
async def test_an_instance_that_cannot_be_reached_keeps_no_slot(at_once, gateway, connect, make_upstream):
    gone = await make_upstream()
    gone.stop_listening()
    handle = await gateway({**ONE, "RETRY_MAX_RETRIES": "2"}, vllm=gone)
    for _ in range(3):
        assert (await ask(await connect(handle))).status == 502
    await counted(handle, 3)
    assert nothing_held(handle)


@pytest.mark.transports("tcp")
async def test_a_stale_connection_keeps_the_slot_and_its_turn(at_once, gateway, upstream, connect):
    handle = await gateway(ONE, vllm=upstream)
    upstream.on_request(OK)
    assert (await ask(await connect(handle))).status == 200
    upstream.on_request(ReadRequest(), Reset())
    upstream.on_request(OK)
    upstream.on_request(OK)
    first, second = await connect(handle), await connect(handle)
    await first.send(post())
    await second.send(post())
    assert {(await each.read_response()).status for each in (first, second)} == {200}
    await counted(handle, 3)
    assert nothing_held(handle)


@pytest.mark.transports("tcp")
@pytest.mark.usefixtures("first_of_equals")
async def test_who_may_go_to_several_takes_the_one_with_room_and_waits_for_any(
    at_once, gateway, make_upstream, connect
):
    one, other = await make_upstream(), await make_upstream()
    handle = await gateway({**ONE, "VLLM_B_MAX_IN_FLIGHT": "1"}, vllm=one, vllm_b=other)
    await ask(await connect(handle), request("GET", "/v1/models"))
    ends = [asyncio.Event(), asyncio.Event()]
    clients = []
    for upstream, end in zip((one, other), ends, strict=True):
        upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(end), LAST_CHUNK)
        client = await connect(handle)
        await client.send(post(model="m"))
        await client.read_head()
        clients.append(client)
    assert (len(one.requests), len(other.requests)) == (1, 1)
    third = await waiting(handle, connect, post(model="m"))
    other.on_request(OK)
    ends[1].set()
    answer = await third.read_response()
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
    ends[0].set()
    for client in clients:
        await client.read_rest()
    await counted(handle, 4)
    assert nothing_held(handle)


@pytest.mark.transports("tcp", "unix")
@pytest.mark.usefixtures("first_of_equals")
async def test_what_one_server_did_not_take_waits_for_the_other_beside_the_free_slot_of_the_dead_one(
    at_once, gateway, make_upstream, connect
):
    dead, alive = await make_upstream(), await make_upstream()
    dead.stop_listening()
    settings = {**ONE, **LISTED, "VLLM_B_MAX_IN_FLIGHT": "1", "RETRY_MAX_RETRIES": "2"}
    handle = await gateway(settings, vllm=dead, vllm_b=alive)
    end = asyncio.Event()
    alive.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(end), LAST_CHUNK)
    first = await connect(handle)
    await first.send(post(model="vllm-b/m"))
    await first.read_head()
    others = []
    for number in (1, 2, 3):
        others.append(await waiting(handle, connect, post(model="m"), number))
    assert handle.gateway.telemetry.connects["vllm", "connection_refused"] == 3
    alive.repeat(OK)
    end.set()
    for each in others:
        answer = await each.read_response()
        assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
    await first.read_rest()
    await counted(handle, 4)
    assert nothing_held(handle)


@pytest.mark.transports("tcp")
@pytest.mark.usefixtures("first_of_equals")
async def test_a_server_that_did_not_take_it_is_asked_again_where_no_other_is_left(
    at_once, gateway, make_upstream, connect
):
    upstreams = [await make_upstream(), await make_upstream()]
    for each in upstreams:
        each.stop_listening()
    settings = {**ONE, **LISTED, "VLLM_B_MAX_IN_FLIGHT": "1", "RETRY_MAX_RETRIES": "2"}
    handle = await gateway(settings, vllm=upstreams[0], vllm_b=upstreams[1])
    own_error(await ask(await connect(handle), post(model="m")), 502, "connection_refused")
    connects = handle.gateway.telemetry.connects
    assert [connects[name, "connection_refused"] for name in ("vllm", "vllm-b")] == [2, 1]
    await counted(handle, 1)
    assert nothing_held(handle)


@pytest.mark.transports("tcp")
async def test_one_without_a_limit_takes_what_the_other_has_no_room_for(at_once, gateway, make_upstream, connect):
    one, other = await make_upstream(), await make_upstream()
    handle = await gateway(ONE, vllm=one, vllm_b=other)
    await ask(await connect(handle), request("GET", "/v1/models"))
    client, end = await holding(handle, one, connect)
    other.repeat(OK)
    for _ in range(5):
        assert (await ask(await connect(handle), post(model="m"))).get("X-GoModel-Provider") == "vllm-b"
    end.set()
    await client.read_rest()
    await counted(handle, 7)
    assert nothing_held(handle)


@pytest.mark.transports("tcp")
async def test_a_busy_one_gives_its_slot_back_and_the_request_goes_on(at_once, gateway, make_upstream, connect):
    one, other = await make_upstream(), await make_upstream()
    handle = await gateway({**ONE, "VLLM_B_MAX_IN_FLIGHT": "1"}, vllm=one, vllm_b=other)
    await ask(await connect(handle), request("GET", "/v1/models"))
    one.repeat(BUSY)
    other.repeat(OK)
    for _ in range(4):
        assert (await ask(await connect(handle), post(model="m"))).get("X-GoModel-Provider") == "vllm-b"
    await counted(handle, 5)
    assert nothing_held(handle)


@pytest.mark.transports("tcp")
@pytest.mark.parametrize(
    "raw",
    [
        post("/tokenize"),
        request("GET", "/p/vllm/version"),
        request("GET", "/p/vllm/v1/models"),
        request("GET", "/v1/models"),
        request("GET", "/version"),
    ],
)
async def test_what_no_engine_works_for_does_not_wait(gateway, upstream, connect, raw):
    handle = await gateway(ONE, vllm=upstream)
    client, end = await holding(handle, upstream, connect)
    upstream.repeat(OK)
    assert (await ask(await connect(handle), raw)).status == 200
    end.set()
    await client.read_rest()


@pytest.mark.transports("tcp")
async def test_what_is_passed_through_to_an_engine_waits_as_well(gateway, upstream, connect):
    handle = await gateway(ONE, vllm=upstream)
    client, end = await holding(handle, upstream, connect)
    passed = await waiting(handle, connect, post("/p/vllm" + CHAT, model="m"))
    assert len(upstream.requests) == 1
    upstream.on_request(OK)
    end.set()
    await client.read_rest()
    assert (await passed.read_response()).status == 200


async def test_a_body_waits_unread_beyond_what_was_needed(gateway, upstream, connect):
    handle = await gateway(ONE, vllm=upstream)
    client, end = await holding(handle, upstream, connect)
    body = json.dumps({"model": "vllm/m", "image": "x" * (20 << 20)}).encode()
    large = await connect(handle)
    sending = asyncio.create_task(large.send(request("POST", CHAT, [("Content-Length", str(len(body)))]) + body))
    await turned(lambda: in_line(handle) == 1)
    await large.wire.blocked()
    assert not sending.done()
    (record,) = (each for each in handle.gateway.telemetry.running.records if each.place.waiting)
    assert record.bytes_in < 1 << 20
    upstream.on_request(ReadHead(), ReadBody(), OK)
    end.set()
    await client.read_rest()
    assert (await large.read_response()).status == 200
    await sending
    assert upstream.requests[1].body == body.replace(b"vllm/", b"", 1)


@pytest.mark.transports("tcp")
async def test_who_leaves_with_a_large_body_unread_leaves_the_line(gateway, upstream, connect):
    handle = await gateway(ONE, vllm=upstream)
    client, end = await holding(handle, upstream, connect)
    body = json.dumps({"model": "vllm/m", "image": "x" * (20 << 20)}).encode()
    large = await connect(handle)
    sending = asyncio.create_task(large.send(request("POST", CHAT, [("Content-Length", str(len(body)))]) + body))
    await turned(lambda: in_line(handle) == 1)
    await large.wire.blocked()
    sending.cancel()
    large.reset()
    await turned(lambda: in_line(handle) == 0)
    assert await aborted(handle) == {("client", "queue"): 1}
    end.set()
    await client.read_rest()
    await counted(handle, 2)
    assert len(upstream.requests) == 1
    assert nothing_held(handle)


@pytest.mark.transports("tcp")
async def test_the_wait_for_a_slot_is_no_silence_of_anybody(gateway, upstream, connect):
    limits = {"HTTP_REQUEST_IDLE_TIMEOUT": "60s", "HTTP_RESPONSE_HEADER_TIMEOUT": "60s"}
    handle = await gateway({**ONE, **limits}, vllm=upstream)
    client, end = await holding(handle, upstream, connect)
    raw = post()
    second = await waiting(handle, connect, raw[:-2])
    record = next(each for each in handle.gateway.telemetry.running.records if each.place.waiting)
    record.since -= 3600
    ticks = handle.gateway.telemetry.lag
    seen = sum(ticks.counts)
    await turned(lambda: sum(ticks.counts) > seen + 1)
    assert in_line(handle) == 1
    upstream.on_request(OK)
    end.set()
    await client.read_rest()
    await second.send(raw[-2:])
    assert (await second.read_response()).status == 200


@pytest.mark.transports("tcp")
async def test_a_higher_limit_after_a_reload_holds_from_the_next_request_on(gateway, upstream, connect):
    from gomodel.config.load import from_environ

    from ..harness.gateway import DEFAULTS, env_for

    handle = await gateway(ONE, vllm=upstream)
    client, end = await holding(handle, upstream, connect)
    first = await waiting(handle, connect)
    handle.gateway.reload(from_environ({**DEFAULTS, **ONE, **env_for(vllm=upstream), "VLLM_MAX_IN_FLIGHT": "3"}))
    upstream.repeat(OK)
    assert (await ask(await connect(handle))).status == 200
    assert (await first.read_response()).status == 200
    end.set()
    await client.read_rest()
    await counted(handle, 3)
    assert nothing_held(handle)


@pytest.mark.transports("tcp")
async def test_without_a_limit_there_is_no_line(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    assert handle.gateway.app._forwarder._queueing is None
    upstream.on_request(OK)
    assert (await ask(await connect(handle))).status == 200


KEYS = {name: f"sk-{name}-0123456789" for name in ("heavy", "light", "waits")}


@pytest.fixture
def keyed(gateway, tmp_path):
    """A gateway with a keys file: `heavy` weighs twice what `light` does, `waits` may have one request at once."""

    async def start(environ, **instances):
        more = {"heavy": "weight = 2", "light": "", "waits": 'in_flight = 1\nwhen_full = "wait"'}
        path = tmp_path / "keys.toml"
        path.write_text(
            "".join(
                f'[keys.{name}]\nsha256 = "{sha256(KEYS[name].encode()).hexdigest()}"\n{more[name]}\n' for name in KEYS
            )
        )
        return await gateway({**environ, "GOMODEL_KEYS_FILE": str(path)}, **instances)

    return start


def by(name: str, path: str = CHAT) -> bytes:
    return post(path, headers=[("x-api-key", KEYS[name]), ("X-Who", name)])


@pytest.mark.transports("tcp")
async def test_keys_take_turns_by_their_weight(at_once, keyed, upstream, connect):
    handle = await keyed(ONE, vllm=upstream)
    end = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(end), LAST_CHUNK)
    first = await connect(handle)
    await first.send(by("heavy"))
    await first.read_head()
    upstream.repeat(OK)
    clients = []
    for name in ["heavy"] * 6 + ["light"] * 3:
        clients.append(await waiting(handle, connect, by(name), len(clients) + 1))
    end.set()
    for client in clients:
        assert (await client.read_response()).status == 200
    served = [each.get("X-Who") for each in upstream.requests[1:]]
    for at in range(0, 9, 3):
        assert sorted(served[at : at + 3]) == ["heavy", "heavy", "light"]
    await first.read_rest()


@pytest.mark.transports("tcp")
@pytest.mark.parametrize("path", [CHAT, "/v1/messages"])
async def test_a_key_with_its_share_of_a_full_line_is_told_so(at_once, keyed, upstream, connect, path):
    handle = await keyed({**ONE, "QUEUE_LIMIT": "3"}, vllm=upstream)
    end = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(end), LAST_CHUNK)
    first = await connect(handle)
    await first.send(by("light"))
    await first.read_head()
    greedy = [await waiting(handle, connect, by("light", path), number) for number in (1, 2, 3)]
    heavy = await connect(handle)
    await heavy.send(by("heavy", path))
    answer = await greedy[-1].read_response()
    error = answer.json()["error"]
    assert (answer.status, error["type"]) == (429, "rate_limit_error")
    assert error.get("code") == (None if path == "/v1/messages" else "rate_limit_exceeded")
    assert int(answer.get("Retry-After")) >= 1
    assert in_line(handle) == 3
    upstream.repeat(OK)
    end.set()
    for client in (*greedy[:-1], heavy):
        assert (await client.read_response()).status == 200
    await first.read_rest()
    await counted(handle, 5)
    assert nothing_held(handle)


@pytest.mark.transports("tcp")
async def test_a_key_that_waits_for_its_own_limit_holds_up_no_other(at_once, keyed, upstream, connect):
    handle = await keyed(KEPT, vllm=upstream)
    end = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(end), LAST_CHUNK)
    first = await connect(handle)
    await first.send(by("waits"))
    await first.read_head()
    second = await waiting(handle, connect, by("waits"))
    upstream.repeat(OK)
    for name in ("light", "heavy"):
        assert (await ask(await connect(handle), by(name))).status == 200
    assert len(upstream.requests) == 3
    end.set()
    assert (await second.read_response()).status == 200
    await first.read_rest()
    await counted(handle, 4)
    assert nothing_held(handle)
    assert {key for _, _, key in handle.gateway.telemetry.spending} == set(KEYS)


@pytest.mark.transports("tcp")
async def test_a_conversation_whose_home_is_full_spills_to_another(at_once, gateway, make_upstream, connect):
    one, other = await make_upstream(), await make_upstream()
    handle = await gateway({**ONE, "VLLM_B_MAX_IN_FLIGHT": "1"}, vllm=one, vllm_b=other)
    await ask(await connect(handle), request("GET", "/v1/models"))
    end = asyncio.Event()
    for each in (one, other):
        each.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(end), LAST_CHUNK)
    turn = post(model="m", headers=[("X-Session-ID", "s")])
    homes = []
    clients = [await connect(handle) for _ in range(2)]
    for client in clients:
        await client.send(turn)
        homes.append((await client.read_head()).get("X-GoModel-Provider"))
    assert sorted(homes) == ["vllm", "vllm-b"]
    end.set()
    for client in clients:
        await client.read_rest()
    await counted(handle, 3)
    assert handle.gateway.telemetry.affinity == {("header", "home"): 1, ("header", "spilled"): 1}
