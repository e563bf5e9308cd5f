"""An instance that keeps failing is left alone for a while, then tried with one request; nobody else notices."""

import pytest

from ..harness.scripted import LAST_CHUNK, SSE_HEAD, Fin, ReadHead, Reset, Stall, chunked, head, request, response
from ..harness.verdicts import OK, aborted, access_lines, ask, counted, own_error, post, tells_nothing

OPEN = {"CIRCUIT_BREAKER_FAILURE_THRESHOLD": "3", "CIRCUIT_BREAKER_TIMEOUT": "60s", "RETRY_MAX_RETRIES": "0"}
QUICK = {"CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1", "CIRCUIT_BREAKER_TIMEOUT": "100ms", "RETRY_MAX_RETRIES": "0"}
LISTED = {"CONFIGURED_PROVIDER_MODELS_MODE": "allowlist", "VLLM_MODELS": "m", "VLLM_B_MODELS": "m"}


def breaker_of(handle, name="vllm"):
    return handle.replica(name).breaker


async def refuse(client, upstream, times=1):
    """Let so many requests fail at an instance that does not listen."""
    upstream.stop_listening()
    for _ in range(times):
        own_error(await ask(client), 502, "connection_refused")


# What an instance does -> what the client sees each time until the breaker opens.
FAILURES = [
    pytest.param((Fin(),), 502, id="fin"),
    pytest.param((Reset(),), 502, id="reset"),
    pytest.param((b"garbage\r\n\r\n", Stall()), 502, id="garbage"),
    pytest.param((Stall(),), 504, id="no head in time"),
    pytest.param((SSE_HEAD + chunked(b"data: 1\n\n"), Fin()), 200, id="breaks off"),
    pytest.param((SSE_HEAD + chunked(b"data: 1\n\n"), Stall()), 200, id="falls silent"),
    pytest.param((response(b"", 502),), 502, id="502"),
    pytest.param((response(b"", 503, [("Retry-After", "1")]),), 503, id="503"),
    pytest.param((response(b"", 504),), 504, id="504"),
]
SHORT = {"no head in time": "HTTP_RESPONSE_HEADER_TIMEOUT", "falls silent": "HTTP_STREAM_IDLE_TIMEOUT"}


@pytest.mark.parametrize(("steps", "status"), FAILURES)
async def test_after_so_many_failures_an_instance_is_left_alone(request, gateway, upstream, connect, steps, status):
    upstream.repeat(*steps)
    limits = {SHORT[id]: "100ms" for id in [request.node.callspec.id] if id in SHORT}
    handle = await gateway(OPEN, vllm=upstream, **limits)
    for _ in range(3):
        assert (await ask(await connect(handle))).status == status
    await counted(handle, 3)
    client = await connect(handle)
    for _ in range(2):
        answer = await ask(client)
        message = own_error(answer, 503, "circuit_open")
        assert "'vllm'" in message
        assert 55 <= int(answer.get("Retry-After")) <= 60
        assert answer.end == "keepalive"
        tells_nothing(handle, answer, upstream)
    assert len(upstream.requests) == 3
    line = access_lines(handle)[-1]
    assert (line["reason"], line["instance"]) == ("circuit_open", "vllm")


async def test_refused_connects_open_it_and_are_not_even_tried_then(gateway, upstream, connect):
    handle = await gateway(OPEN, vllm=upstream)
    client = await connect(handle)
    await refuse(client, upstream, 3)
    own_error(await ask(client), 503, "circuit_open")
    assert handle.gateway.telemetry.connects["vllm", "connection_refused"] == 3


async def test_a_request_counts_once_however_often_it_is_tried(gateway, upstream, connect):
    upstream.stop_listening()
    handle = await gateway(OPEN | {"RETRY_MAX_RETRIES": "2"}, vllm=upstream)
    client = await connect(handle)
    for _ in range(2):
        own_error(await ask(client), 502, "connection_refused")
    assert breaker_of(handle).closed
    assert handle.gateway.telemetry.connects["vllm", "connection_refused"] == 6
    # The request that opens the breaker says what it saw itself; those that find it open say that.
    own_error(await ask(client), 502, "connection_refused")
    assert handle.gateway.telemetry.connects["vllm", "connection_refused"] == 7
    own_error(await ask(client), 503, "circuit_open")
    assert [line.get("retries") for line in access_lines(handle)] == [2, 2, None, None]
    assert await aborted(handle, 4) == {("upstream", "connect"): 2, ("upstream", "queue"): 1}


async def test_an_anthropic_client_reads_that_the_instance_is_overloaded(gateway, upstream, connect):
    handle = await gateway(OPEN, vllm=upstream)
    client = await connect(handle)
    await refuse(client, upstream, 3)
    answer = await ask(client, post("/v1/messages"))
    assert (answer.status, answer.json()["error"]["type"]) == (503, "overloaded_error")
    assert answer.get("Retry-After")


@pytest.mark.parametrize("status", [200, 204, 301, 400, 403, 404, 408, 422, 429, 500, 501])
async def test_an_answer_that_is_no_failure_of_the_instance_never_counts(gateway, upstream, connect, status):
    upstream.repeat(head(204) if status == 204 else response(b"", status))
    handle = await gateway(QUICK, vllm=upstream)
    client = await connect(handle)
    for _ in range(3):
        assert (await ask(client)).status == status
    assert len(upstream.requests) == 3


LEAVES = ["fin", "reset"]


@pytest.mark.parametrize("leave", LEAVES)
@pytest.mark.parametrize("started", [False, True])
async def test_a_client_that_leaves_never_counts(gateway, upstream, connect, leave, started):
    upstream.repeat(*([SSE_HEAD + chunked(b"data: 1\n\n")] if started else []), Stall())
    handle = await gateway(QUICK, vllm=upstream)
    for number in range(1, 4):
        client = await connect(handle)
        await client.send(post())
        await upstream.wait_for_request(number)
        if started:
            await client.read_head()
        getattr(client, leave)()
        await upstream.requests[-1].connection.closed
    await counted(handle, 3)
    assert breaker_of(handle).closed


async def test_a_broken_upload_never_counts(gateway, upstream, connect):
    upstream.repeat(ReadHead(), Stall())
    upstream.lenient = True
    handle = await gateway(QUICK, vllm=upstream)
    for _ in range(3):
        client = await connect(handle)
        raw = request("POST", "/v1/chat/completions", body=[b'{"model":"m",'])
        await client.send(raw.removesuffix(LAST_CHUNK) + b"zz\r\n")
        assert (await client.read_response()).status == 400
    assert breaker_of(handle).closed


async def test_an_idle_connection_that_the_instance_closes_never_counts(gateway, upstream, connect):
    handle = await gateway(QUICK | {"RETRY_MAX_RETRIES": "1"}, vllm=upstream)
    client = await connect(handle)
    for _ in range(3):
        upstream.on_request(OK)
        upstream.on_request(Fin())
        upstream.on_request(OK, Fin())
        assert [(await ask(client)).status for _ in range(2)] == [200, 200]
    assert breaker_of(handle).closed


async def test_success_in_between_begins_the_count_anew(gateway, upstream, connect):
    handle = await gateway(OPEN, vllm=upstream)
    client = await connect(handle)
    for _ in range(4):
        for status in (503, 503, 200):
            upstream.on_request(response(b"", status))
            assert (await ask(client)).status == status
    assert breaker_of(handle).closed


async def test_an_open_instance_is_no_candidate_and_others_take_its_part(gateway, make_upstream, connect):
    broken, sound = await make_upstream(), await make_upstream()
    sound.repeat(OK)
    handle = await gateway(OPEN | LISTED, vllm=broken, vllm_b=sound)
    client = await connect(handle)
    await refuse(client, broken, 3)
    for _ in range(5):
        answer = await ask(client, post(model="m"))
        assert (answer.status, answer.get("X-GoModel-Provider")) == (200, "vllm-b")
    assert (await ask(client, post(model="vllm-b/m"))).status == 200
    # Whoever names the open one waits for it, and so does its passthrough.
    own_error(await ask(client), 503, "circuit_open")
    own_error(await ask(client, request("GET", "/p/vllm/version")), 503, "circuit_open")
    assert (await ask(client, request("GET", "/p/vllm-b/version"))).status == 200


async def test_all_candidates_open_is_503_until_the_first_may_be_tried(gateway, make_upstream, connect):
    first, second = await make_upstream(), await make_upstream()
    for each in (first, second):
        each.stop_listening()
    handle = await gateway(OPEN | LISTED | {"CIRCUIT_BREAKER_FAILURE_THRESHOLD": "1"}, vllm=first, vllm_b=second)
    client = await connect(handle)
    bare = post(model="m")
    for _ in range(2):
        own_error(await ask(client, bare), 502, "connection_refused")
    answer = await ask(client, bare)
    message = own_error(answer, 503, "circuit_open")
    assert "'vllm'" in message
    assert "'vllm-b'" in message
    assert 1 <= int(answer.get("Retry-After")) <= 60
    assert access_lines(handle)[-1]["instance"] in ("vllm", "vllm-b")
