"""A replica that is up and must not be asked, asleep or taken out of rotation: others take its requests, or nobody."""

import asyncio
import json

import pytest

from gomodel.config.load import from_environ
from gomodel.upstream import probes
from gomodel.upstream.replica import ASLEEP, OUT

from ..harness.gateway import DEFAULTS
from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    ReadHead,
    ReadRequest,
    Stall,
    WaitFor,
    chunked,
    json_response,
    request,
    response,
)
from ..harness.verdicts import OK, ask, own_error, post, shows, turned

LIST = request("GET", "/v1/models")
READY = request("GET", "/health/ready")
EVENT = SSE_HEAD + chunked(b"data: x\n\n")
SLEEPING, AWAKE = (json_response({"is_sleeping": asleep}) for asleep in (True, False))


def said(handle, part):
    return [each.getMessage() for each in handle.logs.records if part in each.getMessage()]


def served(upstream):
    return len([each for each in upstream.requests if each.target.startswith("/v1/chat")])


def says(upstream, answer):
    upstream.answer_probes("/is_sleeping", answer)


def metrics_of(*, awake):
    return response(b'vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="awake"} %d.0\n' % awake)


def asked_for_metrics(upstream):
    return len([each for each in upstream.probes if each.target == "/metrics"])


@pytest.fixture
def often(monkeypatch):
    monkeypatch.setattr(probes, "INTERVAL_S", 0.005)
    monkeypatch.setattr(probes, "SLEEP_INTERVAL_S", 0.005)
    monkeypatch.setattr(probes, "RETRY_S", 0.005)


class TestAsleep:
    async def test_no_request_waits_for_it_and_its_callers_are_told_at_once(self, gateway, upstream, connect, often):
        upstream.repeat(OK)
        says(upstream, AWAKE)
        handle = await gateway(vllm=upstream, probes=True)
        client = await connect(handle)
        assert (await ask(client, post())).status == 200
        says(upstream, SLEEPING)
        await turned(lambda: handle.replica().barred)
        for selector in ("vllm/m", "m"):
            answer = await ask(client, post(model=selector))
            assert own_error(answer, 503, "instance_asleep") == "Instance 'vllm' is asleep."
            assert answer.get("Retry-After") == "10"
        assert served(upstream) == 1
        ready = await ask(client, READY)
        assert (ready.status, ready.json()["instances"]["vllm"]["state"]) == (503, "asleep")
        assert said(handle, "asleep") == ["Instance vllm is asleep and gets no requests until it wakes up"]

    async def test_another_replica_takes_its_requests(self, gateway, make_upstream, connect, often):
        sleeper, other = await make_upstream(), await make_upstream()
        for each in (sleeper, other):
            each.repeat(OK)
        says(sleeper, SLEEPING)
        handle = await gateway(vllm=f"{sleeper.base_url},{other.base_url}", probes=True)
        await turned(lambda: handle.gateway.providers.replicas[0].barred)
        client = await connect(handle)
        for _ in range(20):
            assert (await ask(client, post())).status == 200
        assert (served(sleeper), served(other)) == (0, 20)
        ready = (await ask(client, READY)).json()["instances"]["vllm"]
        assert (ready["state"], ready["replicas_ready"]) == ("up", 1)

    async def test_it_is_back_when_it_says_so(self, gateway, upstream, connect, often):
        upstream.repeat(OK)
        says(upstream, SLEEPING)
        handle = await gateway(vllm=upstream, probes=True)
        await turned(lambda: handle.replica().barred)
        says(upstream, AWAKE)
        await turned(lambda: said(handle, "is asleep no longer"))
        assert (await ask(await connect(handle), post())).status == 200
        assert said(handle, "is asleep no longer") == ["Instance vllm is asleep no longer"]

    async def test_one_that_dies_asleep_is_down_to_its_callers(self, gateway, upstream, connect, often):
        says(upstream, SLEEPING)
        handle = await gateway(vllm=upstream, probes=True)
        await turned(lambda: handle.replica().barred)
        upstream.stop_listening()
        await turned(lambda: not handle.replica().barred)
        client = await connect(handle)
        assert own_error(await ask(client, post()), 502, "connection_refused")
        assert (await ask(client, READY)).json()["instances"]["vllm"]["state"] == "down"

    async def test_what_wakes_it_up_reaches_it(self, gateway, upstream, connect, often):
        says(upstream, SLEEPING)
        handle = await gateway(vllm=upstream, probes=True, PASSTHROUGH_ADMIN_ROUTES="true")
        await turned(lambda: handle.replica().barred)
        upstream.on_request(OK, path="/wake_up")
        client = await connect(handle)
        assert (await ask(client, request("POST", "/p/vllm/wake_up", body=b""))).status == 200
        chat = request("POST", "/p/vllm/v1/chat/completions", [("Content-Type", "application/json")], b"{}")
        assert (await ask(client, chat)).status == 503

    async def test_one_that_has_no_such_route_is_asked_once_until_it_was_down(self, gateway, upstream, connect, often):
        handle = await gateway(vllm=upstream, probes=True)
        await turned(lambda: len(upstream.sleep_probes) == 1)
        replica = handle.replica()
        asked = len(upstream.probes)
        await turned(lambda: len(upstream.probes) > asked + 5)
        assert len(upstream.sleep_probes) == 1
        replica.failed("connection_refused")
        await turned(lambda: len(upstream.sleep_probes) == 2)

    async def test_one_that_has_no_such_route_and_falls_silent_is_asleep_where_its_metrics_say_so(
        self, gateway, upstream, connect, often
    ):
        upstream.answer_probes("/metrics", metrics_of(awake=1))
        upstream.repeat(ReadRequest(), Stall())
        handle = await gateway(vllm=upstream, probes=True)
        await turned(lambda: len(upstream.probes) > 5)
        assert not asked_for_metrics(upstream)
        client = await connect(handle)
        await client.send(post())
        await turned(lambda: asked_for_metrics(upstream) > 2)
        assert not handle.replica().barred
        upstream.answer_probes("/metrics", metrics_of(awake=0))
        await turned(lambda: handle.replica().is_barred(ASLEEP))
        other = await connect(handle)
        assert own_error(await ask(other, post()), 503, "instance_asleep")
        client.reset()
        asked = asked_for_metrics(upstream)
        await turned(lambda: asked_for_metrics(upstream) > asked + 2)
        assert handle.replica().is_barred(ASLEEP)
        upstream.answer_probes("/metrics", metrics_of(awake=1))
        upstream.repeat(OK)
        await turned(lambda: not handle.replica().barred)
        assert (await ask(other, post())).status == 200

    @pytest.mark.parametrize(
        "answer",
        [response(b"true"), response(b"[]"), json_response({"is_sleeping": "no"}), response(b"", 401), response(b"{")],
    )
    async def test_any_other_answer_bars_nothing(self, gateway, upstream, connect, often, answer):
        says(upstream, answer)
        handle = await gateway(vllm=upstream, probes=True)
        await turned(lambda: upstream.sleep_probes)
        await turned(lambda: handle.replica().health.settled)
        assert not handle.replica().is_barred(ASLEEP)
        assert json.loads((await ask(await connect(handle), READY)).body)["status"] == "ready"


def post_to(path, *, key="k"):
    return request("POST", path, [("Authorization", f"Bearer {key}")], b"")


class TestRotation:
    @pytest.fixture
    async def pair(self, gateway, make_upstream, connect):
        upstreams = [await make_upstream(models=("m",)) for _ in range(2)]
        for each in upstreams:
            each.repeat(OK)
        base = ",".join(each.base_url for each in upstreams)
        handle = await gateway(vllm=base, GOMODEL_MASTER_KEY="k")
        return handle, upstreams, await connect(handle)

    @staticmethod
    def chat(model="vllm/m"):
        return post(model=model, headers=[("Authorization", "Bearer k")])

    async def test_a_replica_that_is_drained_gets_no_more_requests_until_it_is_resumed(self, pair):
        handle, (one, other), client = pair
        first, _ = (each.address for each in handle.gateway.providers.replicas)
        answer = await ask(client, post_to(f"/admin/instances/vllm/drain?replica={first}"), "POST")
        states = {each["replica"]: each["state"] for each in answer.json()["instances"][0]["replicas"]}
        assert (answer.status, states[first]) == (200, "out_of_rotation")
        for _ in range(20):
            assert (await ask(client, self.chat())).status == 200
        assert (served(one), served(other)) == (0, 20)
        await ask(client, post_to(f"/admin/instances/vllm/resume?replica={first}"), "POST")
        for _ in range(40):
            assert (await ask(client, self.chat())).status == 200
        assert served(one) > 0
        assert said(handle, "rotation") == [
            f"Instance vllm ({first}) is out of rotation and gets no requests",
            f"Instance vllm ({first}) is in rotation again",
        ]

    async def test_what_runs_on_it_ends_well(self, pair, connect):
        handle, upstreams, client = pair
        go_on = asyncio.Event()
        for each in upstreams:
            each.on_request(ReadHead(), EVENT, WaitFor(go_on), LAST_CHUNK)
        running = await connect(handle)
        await running.send(self.chat())
        await running.read_head()
        await ask(client, post_to("/admin/instances/vllm/drain"), "POST")
        assert sum(each.in_flight for each in handle.gateway.providers.replicas) == 1
        go_on.set()
        assert (await running.read_rest()).complete

    @pytest.mark.parametrize("selector", ["vllm/m", "m"])
    async def test_an_instance_that_is_drained_is_a_503_and_not_ready(self, pair, selector):
        _, upstreams, client = pair
        await ask(client, post_to("/admin/instances/vllm/drain"), "POST")
        answer = await ask(client, self.chat(selector))
        assert own_error(answer, 503, "instance_out_of_rotation") == "Instance 'vllm' is out of rotation."
        assert answer.get("Retry-After") == "30"
        ready = await ask(client, READY)
        entry = ready.json()["instances"]["vllm"]
        assert (ready.status, entry["state"], entry["replicas_ready"]) == (503, "out_of_rotation", 0)
        metrics = (await ask(client, request("GET", "/metrics", [("Authorization", "Bearer k")]))).body
        assert b'gomodel_replicas_kept_out{upstream="vllm",why="out_of_rotation"} 2.0' in metrics
        assert [served(each) for each in upstreams] == [0, 0]

    async def test_an_operator_still_reaches_a_replica_that_is_out(self, pair):
        handle, (one, _), client = pair
        await ask(client, post_to("/admin/instances/vllm/drain"), "POST")
        address = handle.gateway.providers.replicas[0].address
        headers = [("Authorization", "Bearer k"), ("X-GoModel-Replica", address), ("Content-Type", "application/json")]
        assert (await ask(client, request("POST", "/p/vllm/v1/chat/completions", headers, b"{}"))).status == 200
        assert served(one) == 1

    async def test_it_stays_out_over_reloads_and_so_does_what_comes_later(self, pair, make_upstream):
        handle, (one, other), client = pair
        first, _ = handle.gateway.providers.replicas
        await ask(client, post_to(f"/admin/instances/vllm/drain?replica={first.address}"), "POST")
        new = await make_upstream()
        base = ",".join(each.base_url for each in (new, one, other))
        handle.gateway.reload(from_environ({**DEFAULTS, "VLLM_BASE_URL": base, "GOMODEL_MASTER_KEY": "k"}))
        assert [each.barred for each in handle.gateway.providers.replicas] == ["", OUT, ""]
        await ask(client, post_to("/admin/instances/vllm/drain"), "POST")
        newer = await make_upstream()
        base = f"{base},{newer.base_url}"
        handle.gateway.reload(from_environ({**DEFAULTS, "VLLM_BASE_URL": base, "GOMODEL_MASTER_KEY": "k"}))
        assert [each.barred for each in handle.gateway.providers.replicas] == [OUT] * 4
        await ask(client, post_to(f"/admin/instances/vllm/resume?replica={first.address}"), "POST")
        assert [each.barred for each in handle.gateway.providers.replicas] == [OUT, "", OUT, OUT]
        await ask(client, post_to("/admin/instances/vllm/resume"), "POST")
        assert not any(each.barred for each in handle.gateway.providers.replicas)

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/admin/instances/vllm-x/drain", 404),
            ("/admin/instances/vllm/drain?replica=10.0.0.9:1", 404),
            ("/admin/instances/vllm/drain?replica=", 404),
            ("/admin/instances/vllm/drain?replicas=a", 400),
            ("/admin/instances/vllm/drain?replica=a&replica=b", 400),
            ("/admin/instances/vllm/drain?" + "&".join("replica=a" for _ in range(20)), 400),
            ("/admin/instances/vllm/pause", 404),
            ("/admin/instances/vllm", 404),
        ],
    )
    async def test_what_there_is_not_is_an_error_and_changes_nothing(self, pair, path, status):
        handle, _, client = pair
        assert (await ask(client, post_to(path), "POST")).status == status
        assert not any(each.barred for each in handle.gateway.providers.replicas)

    async def test_it_takes_the_master_key_and_a_post(self, pair):
        handle, upstreams, client = pair
        for raw, status in (
            (post_to("/admin/instances/vllm/drain", key="x"), 401),
            (request("GET", "/admin/instances/vllm/drain", [("Authorization", "Bearer k")]), 405),
        ):
            answer = await ask(client, raw)
            assert answer.status == status
            assert not any(shows(answer.raw.decode(), each.port) for each in upstreams)
        assert not any(each.barred for each in handle.gateway.providers.replicas)


class TestTheLine:
    """Who has a slot has it at a replica that takes requests."""

    @pytest.fixture
    async def pair(self, gateway, make_upstream):
        upstreams = [await make_upstream(models=("m",)) for _ in range(2)]
        base = ",".join(each.base_url for each in upstreams)
        handle = await gateway(vllm=base, VLLM_MAX_IN_FLIGHT="1", VLLM_MODELS="m")
        return handle, upstreams

    async def test_nobody_gets_a_slot_at_one_that_is_out(self, pair, connect):
        handle, (one, other) = pair
        other.repeat(OK)
        handle.gateway.providers.replicas[0].bar(OUT, True)
        for _ in range(10):
            assert (await ask(await connect(handle), post())).status == 200
        assert (served(one), served(other)) == (0, 10)

    async def test_nobody_waits_where_all_are_out(self, pair, connect):
        handle, _ = pair
        for each in handle.gateway.providers.replicas:
            each.bar(OUT, True)
        own_error(await ask(await connect(handle), post()), 503, "instance_out_of_rotation")

    async def test_one_whose_turn_comes_at_a_replica_that_went_out_is_served_by_another(self, pair, connect):
        handle, upstreams = pair
        ends = [asyncio.Event(), asyncio.Event()]
        for upstream, end in zip(upstreams, ends, strict=True):
            upstream.on_request(ReadHead(), EVENT, WaitFor(end), LAST_CHUNK)
            upstream.repeat(OK)
        running = []
        for turn in ("0", "1"):
            running.append(await connect(handle))
            await running[-1].send(post(headers=[("X-Turn", turn)]))
            await running[-1].read_head()
        if int(upstreams[0].requests[0].get("X-Turn")):
            running.reverse()
        waiting = await connect(handle)
        await waiting.send(post())
        await turned(lambda: len(handle.gateway.telemetry.running.records) == 3)
        handle.gateway.providers.replicas[0].bar(OUT, True)
        ends[0].set()
        assert (await running[0].read_rest()).complete
        for _ in range(5):
            await ask(await connect(handle), READY)
        assert [served(each) for each in upstreams] == [1, 1]
        ends[1].set()
        assert (await waiting.read_response("POST")).status == 200
        assert [served(each) for each in upstreams] == [1, 2]
        assert (await running[1].read_rest()).complete
