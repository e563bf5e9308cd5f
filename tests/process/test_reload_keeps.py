"""What is still true after a reload is still known: only what changed changes, and nothing for requests that run."""

from time import monotonic
from typing import Any

import pytest

from gomodel.config.load import from_environ
from gomodel.config.settings import Config
from gomodel.telemetry import running as running_module
from gomodel.telemetry.record import Phase, Record
from gomodel.telemetry.running import Running
from gomodel.upstream.health import State

from ..harness.gateway import DEFAULTS
from ..harness.leaks import nothing_left
from ..harness.scripted import LAST_CHUNK, SSE_HEAD, Stall, chunked, env_for, json_response, request, response
from ..harness.verdicts import OK, ask, own_error, post, turned

pytestmark = pytest.mark.usefixtures("first_of_equals")

BARE = post(model="shared")
READY = request("GET", "/health/ready")


def configured(**environ: str) -> Config:
    return from_environ({**DEFAULTS, **environ})


# What an operator changes most; none of it says anything new about a server.
CHANGES: list[Any] = [
    {},
    {"VLLM_API_KEY": "rotated"},
    {"VLLM_B_API_KEY": "rotated"},
    {"HTTP_CONNECT_TIMEOUT": "1s"},
    {"HTTP_TIMEOUT": "60s"},
    {"CIRCUIT_BREAKER_FAILURE_THRESHOLD": "9"},
    {"VLLM_MODELS": "other"},
    {"CACHE_REFRESH_INTERVAL": "1h"},
    {"GOMODEL_MASTER_KEY": ""},
    {"VLLM_C_BASE_URL": "http://127.0.0.1:1/v1"},
]
KEPT = {"HTTP_UPSTREAM_KEEPALIVE": "60s"}


@pytest.fixture
async def pair(gateway, make_upstream):
    """Two instances of the model `shared`, whose lists have been read."""
    one, other = [await make_upstream(models=("shared",)) for _ in range(2)]
    handle = await gateway(KEPT, vllm=one, vllm_b=other)
    await handle.gateway.app.models.merged()
    return handle, one, other


def reload(pair: Any, change: dict[str, str]) -> None:
    handle, one, other = pair
    handle.gateway.reload(configured(**KEPT, **env_for(vllm=one, vllm_b=other), **change))


@pytest.mark.parametrize("change", CHANGES, ids=str)
async def test_model_lists_are_known_and_not_asked_for_again(pair, connect, change):
    handle, one, other = pair
    asked = len(one.probes) + len(other.probes)
    reload(pair, change)
    one.on_request(OK)
    assert (await ask(await connect(handle), BARE)).status == 200
    assert len(one.probes) + len(other.probes) == asked
    assert handle.replica().models == ("shared",)


@pytest.mark.parametrize("change", CHANGES, ids=str)
async def test_load_is_known_so_that_the_idlest_is_still_the_idlest(pair, connect, change):
    handle, one, other = pair
    one.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Stall(), LAST_CHUNK)
    running = await connect(handle)
    await running.send(post(model="vllm/shared"))
    await running.read_head()
    reload(pair, change)
    other.repeat(OK)
    client = await connect(handle)
    assert [(await ask(client, BARE)).get("X-GoModel-Provider") for _ in range(3)] == ["vllm-b"] * 3
    one.release()
    assert (await running.read_rest()).complete
    assert handle.replica().in_flight == 0


@pytest.mark.parametrize("change", CHANGES, ids=str)
async def test_connections_are_kept_and_a_new_key_goes_over_them(pair, connect, change):
    handle, one, _ = pair
    one.repeat(OK)
    client = await connect(handle)
    for _ in range(2):
        assert (await ask(client, post(model="vllm/shared"))).status == 200
        reload(pair, change)
    assert len({id(each.connection) for each in one.requests}) == 1
    key = [value for name, value in one.requests[-1].headers if name == "Authorization"]
    assert key == (["Bearer rotated"] if "VLLM_API_KEY" in change else [])


@pytest.mark.parametrize("change", CHANGES, ids=str)
async def test_an_open_breaker_stays_open(pair, connect, change):
    handle, one, _ = pair
    breaker = handle.replica().breaker
    for _ in range(5):
        now = monotonic()
        breaker.admit(now).failed(now, "connection_refused")
    reload(pair, change)
    own_error(await ask(await connect(handle), post(model="vllm/shared")), 503, "circuit_open")
    assert one.requests == []


@pytest.mark.parametrize("change", CHANGES, ids=str)
async def test_that_a_key_was_refused_is_known_of_that_key_alone(pair, connect, change):
    handle, one, _ = pair
    one.on_request(json_response({"error": "Unauthorized"}, 401))
    own_error(await ask(await connect(handle), post(model="vllm/shared")), 502, "instance_key_refused")
    reload(pair, change)
    health = handle.replica().health
    assert health.key_refused is ("VLLM_API_KEY" not in change)


@pytest.mark.parametrize("change", CHANGES, ids=str)
async def test_ready_is_ready_before_anything_was_asked_anew(pair, connect, change):
    handle, _, _ = pair
    for instance in handle.gateway.providers.replicas:
        instance.health.ok(0)
    since = [each.health.since for each in handle.gateway.providers.replicas]
    reload(pair, change)
    document = (await ask(await connect(handle), READY)).json()
    assert document["status"] == "ready"
    assert {document["instances"][name]["state"] for name in ("vllm", "vllm-b")} == {"up"}
    after = {each.name: each for each in handle.gateway.providers.replicas}
    assert [after[name].health.since for name in ("vllm", "vllm-b")] == since


@pytest.mark.parametrize("change", CHANGES, ids=str)
async def test_who_made_a_response_is_known(pair, connect, change):
    handle, one, other = pair
    other.on_request(json_response({"id": "resp_1"}))
    assert (await ask(await connect(handle), post("/v1/responses", model="vllm-b/shared"))).status == 200
    reload(pair, change)
    other.on_request(OK)
    answer = await ask(await connect(handle), request("GET", "/v1/responses/resp_1"))
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
    assert one.requests == []


async def test_of_a_list_all_replicas_that_stay_are_the_same(gateway, make_upstream, connect):
    one, gone, other, new = [await make_upstream() for _ in range(4)]
    for each in (one, other, new):
        each.repeat(OK)
    gone.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Stall(), LAST_CHUNK)
    handle = await gateway(vllm=",".join(each.base_url for each in (one, gone, other)))
    first, second, third = handle.gateway.providers.replicas
    running = await connect(handle)
    await running.send(request("POST", "/p/vllm/x", [("X-GoModel-Replica", second.address), ("Content-Length", "0")]))
    await running.read_head()
    handle.gateway.reload(configured(**KEPT, VLLM_BASE_URL=",".join(each.base_url for each in (other, new, one))))
    after = handle.gateway.providers.replicas
    assert [each.address for each in after] == [third.address, f"127.0.0.1:{new.port}", first.address]
    assert (after[0] is third, after[2] is first) == (True, True)
    client = await connect(handle)
    for _ in range(30):
        assert (await ask(client, post())).status == 200
    assert len(gone.requests) == 1
    assert not second.pool.closed
    gone.release()
    assert (await running.read_rest()).complete
    await turned(lambda: second.pool.closed)
    assert not first.pool.closed


async def test_another_address_is_another_server_of_which_nothing_is_known(pair, connect, make_upstream):
    handle, one, other = pair
    before = handle.replica()
    before.health.ok(0)
    one.on_request(json_response({"id": "resp_1"}))
    assert (await ask(await connect(handle), post("/v1/responses", model="vllm/shared"))).status == 200
    new = await make_upstream(models=("new",))
    handle.gateway.reload(configured(**KEPT, **env_for(vllm=new, vllm_b=other)))
    after = handle.replica()
    assert after is not before
    assert (after.models, after.health.state) == ((), State.UNKNOWN)
    for upstream in (new, other):  # both are asked, since who made it is gone
        upstream.on_request(response(b"", 404), path="/v1/responses/resp_1")
    assert (await ask(await connect(handle), request("GET", "/v1/responses/resp_1"))).status == 404
    await nothing_left(lambda: [] if before.pool.closed else ["the old pool"])


@pytest.mark.parametrize(
    ("before", "after", "models"),
    [
        ({}, {"VLLM_MODELS": "x", "CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"}, ("x",)),
        ({"VLLM_MODELS": "x", "CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"}, {"VLLM_MODELS": "x"}, ("x",)),
        (
            {"VLLM_MODELS": "x", "CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"},
            {"VLLM_MODELS": "y", "CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"},
            ("y",),
        ),
        ({}, {"VLLM_MODELS": "x"}, ("read",)),
        ({}, {"CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"}, ("read",)),
    ],
)
async def test_a_configured_list_counts_when_it_is_the_one_that_is_meant(gateway, make_upstream, before, after, models):
    upstream = await make_upstream(models=("read",))
    handle = await gateway(vllm=upstream, **before)
    await handle.gateway.app.models.merged()
    handle.gateway.reload(configured(**env_for(vllm=upstream), **after))
    assert handle.replica().models == models
    assert list(handle.gateway.providers.by_model) == list(models)


@pytest.mark.parametrize(
    "change",
    [{"HTTP_TIMEOUT": "50ms"}, {"HTTP_STREAM_IDLE_TIMEOUT": "50ms"}, {"HTTP_RESPONSE_HEADER_TIMEOUT": "50ms"}],
    ids=str,
)
async def test_a_request_keeps_the_limits_it_began_with(gateway, upstream, connect, change):
    late = (
        (Stall(), json_response({}))
        if "HTTP_RESPONSE_HEADER_TIMEOUT" in change
        else (SSE_HEAD + chunked(b"data: 1\n\n"), Stall(), LAST_CHUNK)
    )
    handle = await gateway(vllm=upstream)
    old, new = await connect(handle), await connect(handle)
    for client in (old, new):
        upstream.on_request(*late)
        await client.send(post())
        await upstream.wait_for_request(1 if client is old else 2)
        handle.gateway.reload(configured(**env_for(vllm=upstream), **change))
    # The younger one ends by the new limit, when the older one would be over by it as well.
    answer = await new.read_response()
    assert answer.status in (200, 504)
    assert answer.complete is (answer.status == 504)
    await turned(lambda: len(handle.gateway.telemetry.running.records) == 1)
    upstream.release()
    answer = await old.read_response()
    assert (answer.status, answer.complete) == (200, True)


async def test_a_connection_keeps_its_write_limit_until_its_request_is_over(gateway, upstream, connect, monkeypatch):
    monkeypatch.setattr("gomodel.process.gateway._RETIRE_POLL_S", 0.01)
    upstream.on_request(SSE_HEAD, Stall(), LAST_CHUNK)
    handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="5s")
    idle, busy = await connect(handle), await connect(handle)
    await busy.send(post())
    await busy.read_head()
    await turned(lambda: len(handle.gateway._server.clients) == 2)
    handle.gateway.reload(configured(**env_for(vllm=upstream), HTTP_WRITE_IDLE_TIMEOUT="7s"))
    assert {each.busy: each.write_idle_s for each in handle.gateway._server.clients} == {True: 5.0, False: 7.0}
    upstream.release()
    assert (await busy.read_rest()).complete
    await turned(lambda: {each.write_idle_s for each in handle.gateway._server.clients} == {7.0})
    del idle


class Owner:
    def __init__(self) -> None:
        self.overdue_in: list[Phase] = []

    def overdue(self, phase: Phase) -> None:
        self.overdue_in.append(phase)


class Clock:
    """A loop's clock that stands where it is put, and remembers for when it was asked to call."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, *_: object) -> None:
        self.next = when


def test_limits_of_several_reloads_hold_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(running_module, "monotonic", lambda: clock.now)
    running = Running(on_lag=lambda _: None)
    owners = []
    for limit_s in (100.0, 0.8, 10.0):
        running.limit({Phase.HEAD: limit_s}, None)
        record, owner = Record("POST", "192.0.2.1", 0.0), Owner()
        record.enter(Phase.HEAD, 0.0, owner)
        running.records.add(record)
        owners.append(owner)
    found = []
    for now in (0.5, 0.9, 11.0, 101.0):
        clock.now = now
        running._tick(clock)  # type: ignore[arg-type]
        found.append([len(owner.overdue_in) for owner in owners])
        assert clock.next == pytest.approx(now + 0.1)  # as often as the shortest of them asks for
    assert found == [[0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1]]
    running.records.clear()
    running._tick(clock)  # type: ignore[arg-type]
    assert clock.next == pytest.approx(102.0)
    assert not running._earlier
