"""An engine that answers nothing any more behind a /health that does: nobody else has to wait for it."""

import asyncio
import json
from time import monotonic

import pytest

from gomodel.relay import wedged
from gomodel.relay.wedged import usual_s
from gomodel.telemetry.histogram import SECONDS, Histogram
from gomodel.upstream.health import State
from gomodel.upstream.replica import WEDGED

from ..harness.scripted import SAFETY_S, SSE_HEAD, ReadHead, Stall, WaitFor, chunked, json_response, request
from ..harness.verdicts import CHAT, OK, ask, own_error, post, turned

EVENT = chunked(b"data: x\n\n")
SILENT = (ReadHead(), Stall())
DONE = json_response({"choices": [{"text": "2"}]})
READY = request("GET", "/health/ready")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Silence is long after a moment."""
    monkeypatch.setattr(wedged, "LOOK_S", 0.005)
    monkeypatch.setattr(wedged, "LEAST_S", 0.02)
    monkeypatch.setattr(wedged, "LEAST_WAITING_S", 0.04)
    monkeypatch.setattr(wedged, "ANSWER_S", 0.03)


def questions(upstream):
    return [each for each in upstream.requests if each.target == "/v1/completions"]


def said(handle, part):
    return [each.getMessage() for each in handle.logs.records if part in each.getMessage()]


async def started(gateway, *upstreams):
    handle = await gateway(vllm=",".join(each.base_url for each in upstreams), VLLM_MODELS="m")
    for each in handle.gateway.providers.replicas:
        each.health.ok(0)
    return handle


@pytest.fixture
async def stuck(gateway, upstream, connect):
    """A gateway, a client whose stream has come to a stand in the middle, and what lets it go on."""
    go_on = asyncio.Event()
    upstream.on_request(ReadHead(), SSE_HEAD + EVENT, WaitFor(go_on), EVENT, Stall(), path=CHAT)
    upstream.repeat(*SILENT)
    handle = await started(gateway, upstream)
    client = await connect(handle)
    await client.send(post())
    await client.read_head()
    await client.read_chunk()
    return handle, client, go_on


async def test_others_are_told_at_once_and_what_runs_goes_on(stuck, upstream, connect):
    handle, client, go_on = stuck
    replica = handle.replica()
    await turned(lambda: replica.is_barred(WEDGED))
    other = await connect(handle)
    answer = await ask(other, post())
    message = own_error(answer, 503, "instance_wedged")
    assert message == "Instance 'vllm' accepts requests and answers nothing."
    assert answer.get("Retry-After") == "10"
    ready = await ask(other, READY)
    assert (ready.status, ready.json()["instances"]["vllm"]["state"]) == (503, "wedged")
    metrics = (await ask(other, request("GET", "/metrics"))).body
    assert b'gomodel_replicas_kept_out{upstream="vllm",why="wedged"} 1.0' in metrics
    assert said(handle, "nothing any more") == [
        "Instance vllm answers nothing any more and gets no requests until it does"
    ]
    assert replica.health.state is State.UP
    go_on.set()
    assert await client.read_chunk() == b"data: x\n\n"


async def test_the_question_is_one_token_of_its_first_model(stuck, upstream):
    await turned(lambda: questions(upstream))
    assert json.loads(questions(upstream)[0].body) == {"model": "m", "prompt": "1", "max_tokens": 1}


async def test_a_byte_on_a_stream_that_still_runs_brings_it_back(stuck, upstream, monkeypatch):
    handle, client, go_on = stuck
    replica = handle.replica()
    await turned(lambda: replica.is_barred(WEDGED))
    monkeypatch.setattr(wedged, "LEAST_S", 60.0)  # not again
    monkeypatch.setattr(wedged, "LEAST_WAITING_S", 60.0)
    go_on.set()
    await client.read_chunk()
    await turned(lambda: not replica.barred)
    assert said(handle, "answers again") == ["Instance vllm answers again"]


@pytest.mark.parametrize("answer", [DONE, json_response({"error": "x"}, 404), json_response({"error": "x"}, 500)])
async def test_so_does_an_answer_to_the_question(stuck, upstream, connect, monkeypatch, answer):
    handle, _, _ = stuck
    replica = handle.replica()
    await turned(lambda: replica.is_barred(WEDGED))
    monkeypatch.setattr(wedged, "ANSWER_S", SAFETY_S)  # from the next question on
    upstream.repeat(answer)
    await turned(lambda: not replica.barred)
    upstream.on_request(OK, path=CHAT)
    assert (await ask(await connect(handle), post())).status == 200


@pytest.mark.parametrize("answer", [DONE, json_response({"error": "no such route"}, 404)])
async def test_an_engine_that_answers_the_question_is_only_slow(gateway, upstream, connect, monkeypatch, answer):
    monkeypatch.setattr(wedged, "ANSWER_S", SAFETY_S)
    upstream.on_request(ReadHead(), SSE_HEAD + EVENT, Stall(), path=CHAT)
    upstream.repeat(answer)
    handle = await started(gateway, upstream)
    client = await connect(handle)
    await client.send(post())
    await client.read_head()
    await turned(lambda: len(questions(upstream)) > 3)
    assert not handle.replica().barred
    assert not said(handle, "nothing any more")


async def test_where_no_stream_shows_what_is_usual_waiting_counts(gateway, upstream, connect):
    upstream.repeat(*SILENT)
    handle = await started(gateway, upstream)
    client = await connect(handle)
    await client.send(post())
    await turned(lambda: handle.replica().is_barred(WEDGED))


async def test_another_replica_takes_over(gateway, make_upstream, connect):
    stuck, well = await make_upstream(), await make_upstream()
    stuck.repeat(*SILENT)
    well.repeat(OK)
    handle = await started(gateway, stuck, well)
    first, second = handle.gateway.providers.replicas
    clients = []
    while not stuck.requests:
        clients.append(await connect(handle))
        await clients[-1].send(post())
        await turned(lambda: len(stuck.requests) + len(well.requests) >= len(clients))
    await turned(lambda: first.is_barred(WEDGED))
    for _ in range(10):
        assert (await ask(await connect(handle), post())).status == 200
    assert (first.barred, second.barred) == (WEDGED, "")


@pytest.fixture
def look(monkeypatch):
    """Looks only when a test says so, so many seconds later; whether that made it ask the only replica."""
    monkeypatch.setattr(wedged, "LOOK_S", 3600.0)

    def looked(handle, later_s=0.0):
        watch = handle.gateway.app._wedged
        watch._look(monotonic() + later_s)
        return watch._seen[handle.replica()].question is not None

    return looked


async def test_who_has_nothing_to_do_is_not_asked(gateway, upstream, connect, look):
    upstream.repeat(OK)
    handle = await started(gateway, upstream)
    assert not look(handle)
    assert (await ask(await connect(handle), post())).status == 200
    assert not look(handle, 3600.0)


async def test_a_request_that_comes_after_a_long_pause_is_given_its_time(gateway, upstream, connect, look, monkeypatch):
    monkeypatch.setattr(wedged, "LEAST_WAITING_S", 300.0)
    upstream.repeat(*SILENT)
    handle = await started(gateway, upstream)
    assert not look(handle)
    handle.gateway.app._wedged._seen[handle.replica()].active_at -= 3600
    client = await connect(handle)
    await client.send(post())
    await upstream.wait_for_request()
    assert not look(handle, 290.0)
    assert look(handle, 310.0)


@pytest.mark.parametrize("state", ["connection_refused", "draining"])
async def test_a_server_that_is_known_not_to_serve_is_not_asked(gateway, upstream, connect, look, state):
    upstream.repeat(*SILENT)
    handle = await started(gateway, upstream)
    client = await connect(handle)
    await client.send(post())
    await upstream.wait_for_request()
    assert not look(handle)
    handle.replica().health.failed(state)
    assert not look(handle, 3600.0)


async def test_a_client_that_does_not_read_is_no_silence_of_the_engines(gateway, upstream, connect, look):
    upstream.repeat(*SILENT)
    handle = await started(gateway, upstream)
    client = await connect(handle)
    await client.send(post())
    await upstream.wait_for_request()
    [record] = handle.gateway.telemetry.running.records
    assert not look(handle)
    record.owner.hold()
    assert not look(handle, 3600.0)
    record.owner.release()
    assert look(handle, 3600.0)


GAPS = [
    ({}, 0.0),
    ({0: 1}, 0.001),
    ({4: 1000}, 0.025),
    ({4: 1000, 13: 1}, 0.025),
    ({4: 100, 13: 1}, 30.0),
    ({4: 2000, 13: 1, 17: 2}, 30.0),
    ({4: 2000, 13: 1, 17: 3}, 600.0),
    ({len(SECONDS): 1}, 600.0),
]


@pytest.mark.parametrize(("counts", "seconds"), GAPS)
def test_a_gap_is_usual_when_one_in_a_thousand_is_not_longer(counts, seconds):
    gaps = Histogram()
    for bucket, count in counts.items():
        gaps.counts[bucket] = count
    assert usual_s(gaps) == seconds
