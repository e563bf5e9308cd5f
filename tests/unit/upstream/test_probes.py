"""How gomodel comes to know whether an instance can take requests, as /health/ready tells it."""

import asyncio
from typing import Any

import pytest

from gomodel.config.load import from_environ
from gomodel.telemetry.counters import ChunkGaps
from gomodel.upstream import probes as probes_module
from gomodel.upstream.health import MISSES
from gomodel.upstream.network import Network
from gomodel.upstream.pool import Pool
from gomodel.upstream.replica import Replica

from ...harness.leaks import nothing_left
from ...harness.scripted import (
    SSE_HEAD,
    Fin,
    ReadHead,
    Stall,
    WaitFor,
    chunked,
    json_response,
    let_peers_run,
    request,
    response,
)
from ...harness.verdicts import CANARY, OK, ask, post, shows

ALLOWLIST = {"CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"}
READY = request("GET", "/health/ready")
SHUTTING_DOWN = json_response(
    {"error": {"message": "cannot schedule new futures after shutdown", "type": "InternalServerError"}}, 500
)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes that a test can wait for."""
    monkeypatch.setattr(probes_module, "RETRY_S", 0.01)
    monkeypatch.setattr(probes_module, "FIRST_VERDICT_S", 5.0)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes that a test about their deadline can wait for."""
    monkeypatch.setattr(probes_module, "TIMEOUT_S", 0.3)


async def states(connect: Any, handle: Any) -> tuple[int, dict[str, Any]]:
    """The status of /health/ready, and each instance's state."""
    answer = await ask(await connect(handle), READY)
    return answer.status, {name: each["state"] for name, each in answer.json()["instances"].items()}


async def becomes(connect: Any, handle: Any, expected: tuple[int, dict[str, Any]]) -> None:
    found: Any = None
    for _ in range(400):
        found = await states(connect, handle)
        if found == expected:
            return
        await asyncio.sleep(0.005)
    assert found == expected


def on_health(upstream: Any, *steps: Any) -> None:
    """Every probe that this test can live to see is answered so."""
    for _ in range(500):
        upstream.on_request(*steps, path="/health")


async def test_a_probes_connection_is_never_lent_to_a_request(
    gateway: Any, upstream: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent: list[Any] = []
    monkeypatch.setattr(Pool, "give", lambda pool, channel: lent.append(channel))
    handle = await gateway(vllm=upstream)
    assert await probes_module.ask(handle.replica()) == ""
    assert lent == []
    await nothing_left(lambda: [str(each) for each in upstream.open_connections])


async def test_a_stream_that_an_instance_broke_off_is_its_last_error(gateway, upstream, connect):
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Fin())
    handle = await gateway(vllm=upstream, probes=True)
    client = await connect(handle)
    assert (await ask(client, post())).complete is False
    entry = (await ask(await connect(handle), READY)).json()["instances"]["vllm"]
    assert (entry["state"], entry["last_error"]) == ("up", "connection_terminated")


class TestProbes:
    async def test_make_a_gateway_ready_at_once_when_an_instance_is_up(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (200, {"vllm": "up"})

    async def test_make_it_unready_when_none_is_there(self, gateway, upstream, connect):
        upstream.stop_listening()
        handle = await gateway(vllm=upstream, probes=True)
        answer = await ask(await connect(handle), READY)
        assert (answer.status, answer.json()["status"]) == (503, "unavailable")
        entry = answer.json()["instances"]["vllm"]
        assert (entry["state"], entry["last_error"]) == ("down", "connection_refused")
        for private in ("Errno", "127.0.0.1", "aiohttp"):
            assert private not in answer.raw.decode()
        assert not shows(answer.raw.decode(), upstream.port)

    async def test_never_decide_whether_the_gateway_lives(self, gateway, upstream, connect):
        upstream.stop_listening()
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (503, {"vllm": "down"})
        answer = await ask(await connect(handle), request("GET", "/health"))
        assert (answer.status, answer.body) == (200, b'{"status":"ok"}')

    async def test_tell_instances_apart(self, gateway, upstream, make_upstream, connect):
        other = await make_upstream()
        other.stop_listening()
        handle = await gateway(vllm=upstream, vllm_b=other, probes=True)
        await becomes(connect, handle, (200, {"vllm": "up", "vllm-b": "down"}))

    async def test_notice_a_restart_by_themselves(self, gateway, upstream, connect):
        upstream.stop_listening()
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (503, {"vllm": "down"})
        upstream.listen()
        await becomes(connect, handle, (200, {"vllm": "up"}))

    async def test_start_to_look_for_a_restart_when_a_request_found_it_down(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, probes=True, RETRY_MAX_RETRIES="0")
        assert await states(connect, handle) == (200, {"vllm": "up"})
        upstream.stop_listening()
        assert (await ask(await connect(handle))).status == 502
        assert await states(connect, handle) == (503, {"vllm": "down"})
        upstream.listen()  # the next regular probe is ten seconds away
        await becomes(connect, handle, (200, {"vllm": "up"}))

    async def test_rest_again_once_it_is_up(self, gateway, upstream, connect, monkeypatch):
        monkeypatch.setattr(probes_module, "RETRY_S", 0.0)
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (200, {"vllm": "up"})
        handle.replica().health.failed("connection_refused")
        await becomes(connect, handle, (200, {"vllm": "up"}))
        seen = len(upstream.probes)
        for _ in range(100):
            await let_peers_run()
        assert len(upstream.probes) == seen

    async def test_do_not_believe_an_answer_to_what_was_asked_before_a_request_failed(self, gateway, upstream, connect):
        answers = [asyncio.Event(), asyncio.Event()]
        for each in answers:
            upstream.on_request(ReadHead(), WaitFor(each), response(), path="/health")
        handle = await gateway(vllm=upstream, probes=True)
        await upstream.wait_for_request(1)
        handle.replica().health.failed("connection_refused")
        answers[0].set()
        await upstream.wait_for_request(2)
        assert await states(connect, handle) == (503, {"vllm": "down"})
        answers[1].set()
        await becomes(connect, handle, (200, {"vllm": "up"}))

    @pytest.mark.parametrize(
        ("status", "headers", "state", "error"),
        [
            (200, (), "up", None),
            (204, (), "up", None),
            (302, [("Location", "http://127.0.0.1:1/")], "up", None),
            (401, (), "up", None),
            (404, (), "up", None),
            (405, (), "up", None),
            (503, (), "down", "engine_dead"),
            (500, (), "down", "destination_unavailable"),
            (502, (), "down", "destination_unavailable"),
        ],
    )
    async def test_judge_by_the_status(self, gateway, upstream, connect, status, headers, state, error):
        on_health(upstream, response(b"", status, headers))
        handle = await gateway(vllm=upstream, probes=True)
        entry = (await ask(await connect(handle), READY)).json()["instances"]["vllm"]
        assert (entry["state"], entry["last_error"]) == (state, error)

    @pytest.mark.usefixtures("hasty")
    async def test_forgive_late_answers_that_are_few(self, gateway, upstream, connect):
        upstream.on_request(response(), path="/health")
        for _ in range(MISSES - 1):
            upstream.on_request(Stall(), path="/health")
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (200, {"vllm": "up"})
        handle.replica().health.on_fall()  # the next regular probe is ten seconds away
        await nothing_left(lambda: [] if upstream.probes else ["probes to come"])
        assert await states(connect, handle) == (200, {"vllm": "up"})
        assert "is down" not in handle.logs.text

    @pytest.mark.usefixtures("hasty")
    async def test_call_an_instance_down_that_never_answers(self, gateway, upstream, connect):
        on_health(upstream, Stall())
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (503, {"vllm": "down"})
        [entry] = (await ask(await connect(handle), READY)).json()["instances"].values()
        assert entry["last_error"] == "http_response_timeout"

    @pytest.mark.usefixtures("hasty")
    async def test_call_an_instance_down_that_takes_no_connection(self, gateway, upstream, connect):
        await upstream.jam()
        handle = await gateway(vllm=upstream, probes=True)
        [entry] = (await ask(await connect(handle), READY)).json()["instances"].values()
        assert (entry["state"], entry["last_error"]) == ("down", "connection_timeout")

    @pytest.mark.parametrize(
        ("steps", "error"),
        [((Fin(),), "connection_terminated"), ((b"SSH-2.0-x\r\n", Stall()), "http_protocol_error")],
    )
    async def test_call_an_instance_down_that_does_not_speak_http(self, gateway, upstream, connect, steps, error):
        upstream.lenient = True  # it is asked for TLS, too
        on_health(upstream, *steps)
        handle = await gateway(vllm=upstream, probes=True)
        [entry] = (await ask(await connect(handle), READY)).json()["instances"].values()
        assert (entry["state"], entry["last_error"]) == ("down", error)

    async def test_do_not_call_an_instance_down_that_is_busy_sending(self, gateway, upstream, connect, monkeypatch):
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (200, {"vllm": "up"})
        instance = handle.replica()
        probes = handle.gateway.app._operations._probes
        asked = []

        async def too_busy(_: Replica) -> str:
            instance.gaps.observe(0.01)
            asked.append(1)
            return "http_response_timeout"

        monkeypatch.setattr(probes_module, "ask", too_busy)
        monkeypatch.setattr(probes_module, "INTERVAL_S", 0.0)
        instance.health.on_fall()
        await nothing_left(lambda: [] if len(asked) > 10 else ["probes to come"])
        assert await states(connect, handle) == (200, {"vllm": "up"})
        assert probes.asking

    async def test_ask_with_the_instances_own_key_and_what_shows_a_loop_and_nothing_else(
        self, gateway, upstream, connect
    ):
        handle = await gateway(vllm=upstream, probes=True, VLLM_API_KEY="own", GOMODEL_MASTER_KEY=CANARY)
        assert await states(connect, handle) == (200, {"vllm": "up"})
        probe = next(each for each in upstream.probes if each.target == "/health")
        assert probe.headers == [
            ("Host", f"127.0.0.1:{upstream.port}"),
            ("Authorization", "Bearer own"),
            ("X-Request-Id", handle.gateway.providers.network.mark.decode()),
            ("Connection", "close"),
        ]

    async def test_ask_at_the_root_of_the_base_url(self, gateway, upstream, connect):
        upstream.on_request(response(), path="/deep/health")
        upstream.on_request(response(b"", 404), path="/deep/is_sleeping")
        handle = await gateway(
            vllm=f"http://127.0.0.1:{upstream.port}/deep/v1", probes=True, VLLM_MODELS="m", **ALLOWLIST
        )
        assert await states(connect, handle) == (200, {"vllm": "up"})

    async def test_ask_over_a_unix_socket(self, gateway, make_upstream, connect, tmp_path):
        upstream = await make_upstream(unix_path=str(tmp_path / "vllm.sock"))
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (200, {"vllm": "up"})

    async def test_keep_no_connection(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, probes=True, VLLM_MODELS="m", **ALLOWLIST)
        assert await states(connect, handle) == (200, {"vllm": "up"})
        await nothing_left(lambda: [f"{each}" for each in upstream.open_connections])

    async def test_are_not_confused_by_a_shortage_of_descriptors(self, gateway, upstream, connect, monkeypatch):
        from gomodel.errors import Overloaded
        from gomodel.upstream.pool import Pool

        async def none_left(self: Pool, *, probe: bool = False) -> None:
            asked.append(1)
            raise Overloaded("The gateway has no free file descriptor.", code="connection_limit", retry_after_s=1)

        asked: list[int] = []
        monkeypatch.setattr(Pool, "connect", none_left)
        monkeypatch.setattr(probes_module, "FIRST_VERDICT_S", 0.0)
        handle = await gateway(vllm=upstream, probes=True)
        await nothing_left(lambda: [] if len(asked) > 3 else ["probes to come"])
        assert await states(connect, handle) == (503, {"vllm": "unknown"})

    async def test_read_the_model_list_of_an_instance_that_came_up(self, gateway, upstream, connect):
        upstream.stop_listening()
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (503, {"vllm": "down"})
        upstream.listen()
        instance = handle.replica()
        await nothing_left(lambda: [] if instance.models == ("m",) else ["the list"])

    async def test_end_with_the_gateway_in_the_middle_of_a_question(self, gateway, upstream, monkeypatch):
        monkeypatch.setattr(probes_module, "TIMEOUT_S", 60.0)
        upstream.on_request(ReadHead(), Stall(), path="/health")
        handle = await gateway(vllm=upstream, probes=True)
        await upstream.wait_for_request()
        await handle.gateway.close()
        assert handle.remains() == []

    async def test_go_on_alone_after_a_reload(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (200, {"vllm": "up"})
        upstream.on_request(ReadHead(), Stall())
        client = await connect(handle)
        await client.send(post())
        await upstream.wait_for_request()  # which keeps what was there before the reload
        before = [task for task in asyncio.all_tasks() if "_watch" in repr(task)]
        assert before
        handle.gateway.reload(handle.config)
        await let_peers_run()
        assert all(task.done() for task in before)
        assert await states(connect, handle) == (200, {"vllm": "up"})

    async def test_a_bug_in_one_is_reported(self, gateway, upstream, connect, monkeypatch):
        async def broken(_: Replica) -> str:
            raise RuntimeError("a bug")

        monkeypatch.setattr(probes_module, "ask", broken)
        monkeypatch.setattr(probes_module, "FIRST_VERDICT_S", 0.0)
        handle = await gateway(vllm=upstream, probes=True)
        handle.expect_error("A health probe failed inside the gateway")
        await let_peers_run()
        assert await states(connect, handle) == (503, {"vllm": "unknown"})
        assert "a bug" in handle.logs.text


class TestRequestsThemselves:
    async def test_make_an_instance_down_at_once_and_up_at_once(self, gateway, upstream, connect):
        upstream.stop_listening()
        handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="0")
        assert await states(connect, handle) == (200, {"vllm": "unknown"})
        assert (await ask(await connect(handle))).status == 502
        assert await states(connect, handle) == (503, {"vllm": "down"})
        upstream.listen()
        upstream.on_request(OK)
        assert (await ask(await connect(handle))).status == 200
        assert await states(connect, handle) == (200, {"vllm": "up"})

    async def test_do_not_make_an_instance_up_that_they_reached_before_it_fell(self, gateway, upstream, connect):
        upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Stall(), b"0\r\n\r\n")
        handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="0")
        stream = await connect(handle)
        await stream.send(post())
        await stream.read_head()
        upstream.stop_listening()
        assert (await ask(await connect(handle))).status == 502
        upstream.release()
        assert (await stream.read_rest()).complete
        assert await states(connect, handle) == (503, {"vllm": "down"})

    async def test_show_an_open_breaker(self, gateway, upstream, connect):
        upstream.on_request(response(b"{}", 503))
        handle = await gateway(vllm=upstream, CIRCUIT_BREAKER_FAILURE_THRESHOLD="1")
        assert (await ask(await connect(handle))).status == 503
        assert await states(connect, handle) == (503, {"vllm": "circuit_open"})

    async def test_find_out_that_an_instance_is_shutting_down(self, gateway, upstream, connect):
        upstream.on_request(SHUTTING_DOWN)
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (200, {"vllm": "up"})
        assert (await ask(await connect(handle))).status == 500
        seen = len(upstream.probes)
        await nothing_left(lambda: [] if len(upstream.probes) > seen + 2 else ["probes to come"])
        assert await states(connect, handle) == (503, {"vllm": "draining"})
        upstream.on_request(OK)
        assert (await ask(await connect(handle))).status == 200
        assert await states(connect, handle) == (200, {"vllm": "up"})

    async def test_see_the_end_of_a_shutdown_when_the_server_is_gone_and_back(self, gateway, upstream, connect):
        upstream.on_request(SHUTTING_DOWN)
        handle = await gateway(vllm=upstream, probes=True)
        assert (await ask(await connect(handle))).status == 500
        await becomes(connect, handle, (503, {"vllm": "draining"}))
        upstream.stop_listening()
        await becomes(connect, handle, (503, {"vllm": "down"}))
        upstream.listen()
        await becomes(connect, handle, (200, {"vllm": "up"}))


class TestTheRoute:
    async def test_is_open_without_the_key_and_tells_no_secret(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY=CANARY, VLLM_API_KEY=CANARY, VLLM_MODELS=CANARY)
        answer = await ask(await connect(handle), READY)
        assert (answer.status, answer.get("Cache-Control")) == (200, "no-store")
        assert CANARY not in answer.raw.decode()

    async def test_answers_head(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream)
        assert (await ask(await connect(handle), request("HEAD", "/health/ready"), "HEAD")).status == 200
        handle.gateway.app.draining = True
        answer = await ask(await connect(handle), request("HEAD", "/health/ready"), "HEAD")
        assert (answer.status, answer.body) == (503, b"")

    async def test_is_served_to_the_end_of_a_drain(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream)
        handle.gateway.app.draining = handle.gateway.app.refusing = True
        answer = await ask(await connect(handle), READY)
        assert (answer.status, answer.json()["status"]) == (503, "draining")

    async def test_does_not_wait_for_ever_for_the_first_verdict(self, gateway, upstream, connect, monkeypatch):
        monkeypatch.setattr(probes_module, "TIMEOUT_S", 60.0)
        monkeypatch.setattr(probes_module, "FIRST_VERDICT_S", 0.02)
        upstream.on_request(ReadHead(), Stall(), path="/health")
        handle = await gateway(vllm=upstream, probes=True)
        assert await states(connect, handle) == (503, {"vllm": "unknown"})


async def test_ask_says_why_an_instance_does_not_answer(upstream, no_leaks):
    config = from_environ({"VLLM_BASE_URL": upstream.base_url})
    (instance,) = config.instances
    replica = Replica(instance, instance.servers[0], config, Network(), ChunkGaps())
    on_health(upstream, b"HTTP/1.1 200 X\r\nContent-", Fin())
    assert await probes_module.ask(replica) == "http_response_incomplete"
    await replica.close()
