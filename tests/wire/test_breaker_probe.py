"""How an instance that was left alone comes back: by a health probe or a request that tries it; nobody waits long."""

import asyncio
import re
from time import monotonic

import pytest

from gomodel.upstream import probes

from ..harness.scripted import LAST_CHUNK, SSE_HEAD, Fin, Set, Stall, WaitFor, chunked, head, request, response
from ..harness.verdicts import OK, ask, counted, own_error, post, served, turned

QUICK = {"CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1", "CIRCUIT_BREAKER_TIMEOUT": "60s", "RETRY_MAX_RETRIES": "0"}


def breaker_of(handle, name="vllm"):
    return handle.replica(name).breaker


def time_passes(handle):
    """The next trial may begin, as it may CIRCUIT_BREAKER_TIMEOUT after the failure."""
    assert not breaker_of(handle).candidate(monotonic())
    breaker_of(handle)._trial_at = monotonic()


async def refuse(client, upstream, times=1):
    """Let so many requests fail at an instance that does not listen."""
    upstream.stop_listening()
    for _ in range(times):
        own_error(await ask(client), 502, "connection_refused")


async def test_when_the_instance_is_back_the_first_request_after_the_timeout_is_served(gateway, upstream, connect):
    upstream.repeat(OK)
    handle = await gateway(QUICK, vllm=upstream)
    client = await connect(handle)
    await refuse(client, upstream)
    own_error(await ask(client), 503, "circuit_open")
    upstream.listen()
    time_passes(handle)
    for _ in range(3):
        assert (await ask(client)).status == 200
    assert breaker_of(handle).closed


async def test_while_the_probe_waits_others_are_refused_and_its_head_lets_them_in(gateway, upstream, connect):
    """The probe's answer may be a stream of minutes; that it began is enough."""
    arrived, answer, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    handle = await gateway(QUICK, vllm=upstream)
    client, probe = await connect(handle), await connect(handle)
    await refuse(client, upstream)
    upstream.listen()
    upstream.on_request(Set(arrived), WaitFor(answer), SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(end), LAST_CHUNK)
    upstream.repeat(OK)
    time_passes(handle)
    await probe.send(post())
    await arrived.wait()
    for _ in range(3):
        refusal = await ask(client)
        own_error(refusal, 503, "circuit_open")
        assert 0 < int(refusal.get("Retry-After")) <= 60
    answer.set()
    assert (await probe.read_head()).status == 200
    for _ in range(3):
        assert (await ask(client)).status == 200
    end.set()
    assert (await probe.read_rest()).complete


@pytest.mark.parametrize(("steps", "status"), [((Fin(),), 502), ((response(b"", 503),), 503)])
async def test_a_probe_that_fails_closes_the_door_again(gateway, upstream, connect, steps, status):
    # One failure alone would not close it.
    twice = {"CIRCUIT_BREAKER_FAILURE_THRESHOLD": "2"}
    handle = await gateway(QUICK | twice, vllm=upstream)
    client = await connect(handle)
    await refuse(client, upstream, 2)
    upstream.listen()
    upstream.on_request(*steps)
    time_passes(handle)
    assert (await ask(client)).status == status
    own_error(await ask(client), 503, "circuit_open")
    assert sum(served(upstream)) == 1


async def test_a_request_that_opened_it_and_fails_again_as_the_trial_closes_the_door_too(gateway, upstream, connect):
    late = {"RETRY_INITIAL_BACKOFF": "400ms", "RETRY_MAX_BACKOFF": "400ms", "RETRY_JITTER_FACTOR": "0"}
    handle = await gateway(QUICK | late | {"RETRY_MAX_RETRIES": "1"}, vllm=upstream)
    client = await connect(handle)
    refused = asyncio.create_task(refuse(client, upstream))
    await turned(lambda: not breaker_of(handle).closed)
    time_passes(handle)
    await refused
    assert handle.gateway.telemetry.connects["vllm", "connection_refused"] == 2
    own_error(await ask(client), 503, "circuit_open")


async def test_a_probes_client_that_leaves_makes_room_for_the_next(gateway, upstream, connect):
    handle = await gateway(QUICK, vllm=upstream)
    client, leaver = await connect(handle), await connect(handle)
    await refuse(client, upstream)
    upstream.listen()
    upstream.on_request(Stall())
    upstream.on_request(OK)
    time_passes(handle)
    await leaver.send(post())
    await upstream.wait_for_request()
    own_error(await ask(client), 503, "circuit_open")
    leaver.fin()
    await upstream.requests[0].connection.closed
    await counted(handle, 3)
    assert (await ask(client)).status == 200


async def test_a_stream_from_before_neither_closes_nor_reopens_it(gateway, upstream, connect):
    end = asyncio.Event()
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(end), LAST_CHUNK)
    handle = await gateway(QUICK, vllm=upstream)
    old, client = await connect(handle), await connect(handle)
    await old.send(post())
    await old.read_head()
    await refuse(client, upstream)
    end.set()
    assert (await old.read_rest()).complete
    await counted(handle, 2)
    own_error(await ask(client), 503, "circuit_open")


async def test_a_probe_that_becomes_a_tunnel_lets_others_in(gateway, upstream, connect):
    handle = await gateway(QUICK, vllm=upstream)
    client, probe = await connect(handle), await connect(handle)
    await refuse(client, upstream)
    upstream.listen()
    upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    upstream.on_request(head(101, upgrade), Stall())
    upstream.repeat(OK)
    time_passes(handle)
    await probe.send(request("GET", "/p/vllm/v1/realtime", [*upgrade, ("Sec-WebSocket-Key", "eA==")]))
    assert (await probe.read_head()).status == 101
    assert (await ask(client)).status == 200


async def test_who_comes_back_when_told_to_is_let_in(gateway, upstream, connect):
    handle = await gateway(QUICK | {"CIRCUIT_BREAKER_TIMEOUT": "60400ms"}, vllm=upstream)
    client = await connect(handle)
    await refuse(client, upstream)
    answer = await ask(client)
    wait_s = breaker_of(handle).retry_after_s(monotonic())
    assert int(answer.get("Retry-After")) >= wait_s


async def test_a_slow_trial_does_not_keep_the_others_away(gateway, upstream, connect):
    """Each CIRCUIT_BREAKER_TIMEOUT another request may try, whatever became of the one before."""
    handle = await gateway(QUICK, vllm=upstream)
    client, slow = await connect(handle), await connect(handle)
    await refuse(client, upstream)
    upstream.listen()
    upstream.on_request(Stall())
    upstream.repeat(OK)
    time_passes(handle)
    await slow.send(post())
    await upstream.wait_for_request()
    own_error(await ask(client), 503, "circuit_open")
    time_passes(handle)
    for _ in range(3):
        assert (await ask(client)).status == 200
    upstream.release()


async def test_an_answered_health_probe_lets_everybody_in(gateway, upstream, connect, monkeypatch):
    monkeypatch.setattr(probes, "RETRY_S", 0.02)
    upstream.repeat(response(b"", 502))
    handle = await gateway(QUICK, vllm=upstream, probes=True)
    client = await connect(handle)
    await turned(lambda: handle.replica().health.settled)
    upstream.stop_listening()
    for each in upstream.open_connections:
        each.wire.close()
    own_error(await ask(client), 502, "connection_refused")
    own_error(await ask(client), 503, "circuit_open")
    upstream.listen()
    upstream.repeat(OK)
    await turned(lambda: breaker_of(handle).closed)
    clients = [await connect(handle) for _ in range(5)]
    for each in clients:
        await each.send(post())
    assert [(await each.read_response()).status for each in clients] == [200] * 5
    ready = await ask(client, request("GET", "/health/ready"))
    assert (ready.status, ready.json()["instances"]["vllm"]["state"]) == (200, "up")


async def test_probes_are_not_believed_while_requests_go_on_failing(gateway, upstream, connect, monkeypatch):
    monkeypatch.setattr(probes, "RETRY_S", 0.01)
    monkeypatch.setattr(probes, "INTERVAL_S", 0.01)
    upstream.repeat(response(b"", 502))
    handle = await gateway(QUICK, vllm=upstream, probes=True)
    client = await connect(handle)
    assert (await ask(client)).status == 502
    await turned(lambda: breaker_of(handle).closed)
    assert (await ask(client)).status == 502
    asked = len(upstream.probes)
    await turned(lambda: len(upstream.probes) > asked + 3)
    own_error(await ask(client), 503, "circuit_open")


async def test_opening_and_closing_are_logged_with_cause_and_length(gateway, upstream, connect):
    handle = await gateway(QUICK, vllm=upstream)
    client = await connect(handle)
    await refuse(client, upstream)
    upstream.listen()
    upstream.repeat(OK)
    time_passes(handle)
    await ask(client)
    said = [each for each in handle.logs.records if ": circuit " in each.getMessage()]
    assert [each.levelname for each in said] == ["WARNING", "INFO"]
    assert re.fullmatch(r"Instance vllm: circuit open, next try in [\d.]+ s: connection_refused", said[0].getMessage())
    assert re.fullmatch(r"Instance vllm: circuit closed after \d+\.\d s", said[1].getMessage())


CAUSES = [
    pytest.param((response(b"", 502),), "status 502", id="status"),
    pytest.param((SSE_HEAD + chunked(b"data: 1\n\n"), Fin()), "connection_terminated", id="broken off"),
    pytest.param((b"garbage\r\n\r\n", Stall()), "http_protocol_error", id="garbage"),
    pytest.param((Stall(),), "http_response_timeout", id="silence"),
]


@pytest.mark.parametrize(("steps", "cause"), CAUSES)
async def test_the_cause_is_told_whatever_it_was(gateway, upstream, connect, steps, cause):
    upstream.repeat(*steps)
    handle = await gateway(QUICK, vllm=upstream, HTTP_RESPONSE_HEADER_TIMEOUT="100ms")
    await ask(await connect(handle))
    await counted(handle, 1)
    assert re.search(rf"Instance vllm: circuit open, next try in [\d.]+ s: {cause}", handle.logs.text)
