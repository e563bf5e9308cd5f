"""What is tried again, on which instance and how often; and what never is (contract section 7)."""

import asyncio
from types import SimpleNamespace

import pytest

from gomodel.errors import GatewayError
from gomodel.relay import forward
from gomodel.upstream.channel import Channel
from gomodel.upstream.line import Line, Seeker

from ..harness.scripted import (
    SSE_HEAD,
    Fin,
    Reset,
    Stall,
    chunked,
    head,
    response,
)
from ..harness.verdicts import OK, aborted, access_lines, ask, counted, own_error, post, served, turned

pytestmark = pytest.mark.usefixtures("first_of_equals")

# Several instances that list the same model, without asking them.
LISTED = {"CONFIGURED_PROVIDER_MODELS_MODE": "allowlist", "VLLM_MODELS": "m", "VLLM_B_MODELS": "m"}
BARE = post(model="m")


def refused(handle, instance="vllm"):
    """How many connects to an instance were refused."""
    return handle.gateway.telemetry.connects.get((instance, "connection_refused"), 0)


async def test_a_refused_connect_is_tried_again_until_the_only_instance_is_back(gateway, upstream, connect):
    upstream.repeat(OK)
    upstream.stop_listening()
    handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="50", CIRCUIT_BREAKER_FAILURE_THRESHOLD="100")
    client = await connect(handle)
    await client.send(post())
    await turned(lambda: refused(handle) >= 3)
    upstream.listen()
    assert (await client.read_response()).status == 200
    assert await aborted(handle) == {}
    (line,) = access_lines(handle)
    assert line["retries"] == refused(handle) == handle.gateway.telemetry.retries["vllm"]
    assert len(upstream.requests) == 1


@pytest.mark.parametrize("retries", [0, 1, 2, 4])
async def test_a_refused_connect_is_tried_so_often_and_no_oftener(gateway, upstream, connect, retries):
    upstream.stop_listening()
    handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES=str(retries))
    own_error(await ask(await connect(handle)), 502, "connection_refused")
    assert refused(handle) == 1 + retries
    assert await aborted(handle) == {("upstream", "connect"): 1}


@pytest.mark.interpreted
async def test_a_connection_lost_before_it_is_used_is_made_good_and_nobodys_failure(
    gateway, upstream, connect, monkeypatch
):
    upstream.on_request(OK)
    dialed = Line._dialed
    lost = []

    def lose_the_first(self: Line, seeker: Seeker, channel: Channel | None, error: GatewayError | None) -> None:
        async def lose() -> None:
            await turned(lambda: channel.transport is None)
            dialed(self, seeker, channel, error)

        if lost or channel is None:
            dialed(self, seeker, channel, error)
        else:
            channel.transport.abort()
            lost.append(asyncio.create_task(lose()))

    monkeypatch.setattr(Line, "_dialed", lose_the_first)
    handle = await gateway(vllm=upstream)
    assert (await ask(await connect(handle))).status == 200
    assert await aborted(handle) == {}
    (line,) = access_lines(handle)
    assert (line["retries"], "ended_by" in line) == (1, False)


@pytest.mark.parametrize(("chance", "times"), [(0.0, 1.0), (1.0, 1.25), (-1.0, 0.75)])
@pytest.mark.interpreted
async def test_between_attempts_it_waits_longer_each_time_up_to_the_limit(
    gateway, upstream, connect, monkeypatch, chance, times
):
    waited = []

    async def sleep(delay_s: float) -> None:
        waited.append(delay_s)

    monkeypatch.setattr(forward, "asyncio", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(
        forward, "random", SimpleNamespace(uniform=lambda low, high: {0.0: 0.0, low: low, high: high}[chance])
    )
    upstream.stop_listening()
    handle = await gateway(
        vllm=upstream,
        RETRY_MAX_RETRIES="4",
        RETRY_INITIAL_BACKOFF="20ms",
        RETRY_BACKOFF_FACTOR="3",
        RETRY_MAX_BACKOFF="100ms",
        RETRY_JITTER_FACTOR="0.25",
        CIRCUIT_BREAKER_FAILURE_THRESHOLD="9",
    )
    own_error(await ask(await connect(handle)), 502, "connection_refused")
    assert waited == pytest.approx([0.02 * times, 0.06 * times, 0.1 * times, 0.1 * times])


async def test_a_client_that_leaves_while_it_waits_ends_the_attempts(gateway, upstream, connect):
    upstream.stop_listening()
    handle = await gateway(vllm=upstream, RETRY_INITIAL_BACKOFF="60s", RETRY_MAX_BACKOFF="60s")
    client = await connect(handle)
    await client.send(post())
    await turned(lambda: refused(handle) == 1)
    client.fin()
    assert await aborted(handle) == {("client", "queue"): 1}
    assert await counted(handle, 1) == {499: 1}
    assert refused(handle) == 1


async def test_another_candidate_takes_what_the_first_refused(gateway, make_upstream, connect):
    dead, alive = await make_upstream(), await make_upstream()
    dead.stop_listening()
    alive.repeat(OK)
    handle = await gateway(LISTED, vllm=dead, vllm_b=alive, RETRY_MAX_RETRIES="1")
    answer = await ask(await connect(handle), BARE)
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
    assert (refused(handle), len(alive.requests)) == (1, 1)
    assert await aborted(handle) == {}


async def test_every_candidate_is_tried_before_one_is_tried_again(gateway, make_upstream, connect):
    upstreams = [await make_upstream() for _ in range(3)]
    for each in upstreams:
        each.stop_listening()
    names = ["vllm", "vllm_b", "vllm_c"]
    handle = await gateway(
        LISTED | {"VLLM_C_MODELS": "m"}, **dict(zip(names, upstreams, strict=True)), RETRY_MAX_RETRIES="3"
    )
    own_error(await ask(await connect(handle), BARE), 502, "connection_refused")
    assert [refused(handle, name.replace("_", "-")) for name in names] == [2, 1, 1]


async def test_a_candidate_left_alone_does_not_make_another_one_be_tried_twice(gateway, make_upstream, connect):
    dead, gone, alive = [await make_upstream() for _ in range(3)]
    dead.stop_listening()
    alive.repeat(OK)
    handle = await gateway(
        LISTED | {"VLLM_C_MODELS": "m"},
        vllm=dead,
        vllm_b=gone,
        vllm_c=alive,
        RETRY_MAX_RETRIES="1",
        CIRCUIT_BREAKER_FAILURE_THRESHOLD="1",
        CIRCUIT_BREAKER_TIMEOUT="60s",
    )
    client = await connect(handle)
    gone.repeat(response(b"last", 200, [("Connection", "close")]))
    assert (await ask(client, BARE)).get("X-GoModel-Provider") == "vllm-b"
    # The first is left alone now; the second refuses; the one retry there is goes to the third.
    gone.stop_listening()
    answer = await ask(client, BARE)
    assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-c")


async def test_a_named_instance_is_never_exchanged_for_another(gateway, make_upstream, connect):
    dead, alive = await make_upstream(), await make_upstream()
    dead.stop_listening()
    alive.repeat(OK)
    handle = await gateway(LISTED, vllm=dead, vllm_b=alive)
    own_error(await ask(await connect(handle), post(model="vllm/m")), 502, "connection_refused")
    assert alive.requests == []
    assert refused(handle) == 3


@pytest.mark.parametrize("status", [400, 404, 408, 425, 429, 500, 502, 503, 504])
@pytest.mark.parametrize("reused", [False, True])
async def test_an_answer_is_passed_on_whatever_it_says_and_never_asked_for_again(
    gateway, make_upstream, connect, status, reused
):
    busy, other = await make_upstream(), await make_upstream()
    other.repeat(OK)
    handle = await gateway(LISTED, vllm=busy, vllm_b=other)
    client = await connect(handle)
    if reused:
        busy.on_request(OK)
        await ask(client, BARE)
    busy.on_request(response(b"later", status, [("Retry-After", "3")]))
    answer = await ask(client, BARE)
    assert (answer.status, answer.body, answer.get("Retry-After")) == (status, b"later", "3")
    assert (len(busy.requests), len(other.requests)) == (1 + reused, 0)
    assert handle.gateway.telemetry.retries == {}


# What an instance may still do on a reused connection once it has begun to answer, or not at all, and what it is then.
BEGUN = [
    pytest.param((b"H", Fin()), 502, id="one byte"),
    pytest.param((head(100), Reset()), 502, id="an interim response"),
    pytest.param((b"garbage\r\n\r\n", Stall()), 502, id="garbage"),
    pytest.param((head(200, [("Content-Length", "9")]), Fin()), 200, id="a head"),
    pytest.param((SSE_HEAD + chunked(b"data: 1\n\n"), Reset()), 200, id="an event"),
    pytest.param((Stall(),), 504, id="silence"),
]


@pytest.mark.parametrize(("steps", "status"), BEGUN)
async def test_nothing_is_tried_again_after_a_response_byte_or_a_timeout(gateway, upstream, connect, steps, status):
    upstream.on_request(OK)
    upstream.on_request(*steps)
    handle = await gateway(vllm=upstream, HTTP_RESPONSE_HEADER_TIMEOUT="150ms", RETRY_MAX_RETRIES="9")
    client = await connect(handle)
    await ask(client)
    answer = await ask(client)
    assert (answer.status, answer.complete) == (status, status != 200)
    assert served(upstream) == [2]
    assert handle.gateway.telemetry.retries == {}
