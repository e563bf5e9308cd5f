"""`gomodel doctor` over real sockets: proxies that spoil one thing each are found, who spoils nothing is not accused.

What needs real time, a buffer's or a limit's, is in tests/doctor.
"""

from itertools import chain, repeat

import pytest
from aiohttp import web

from gomodel.config.settings import Secret
from gomodel.doctor.client import Connection, request
from gomodel.doctor.command import Refused, with_model
from gomodel.doctor.diagnosis import Diagnosis, diagnose
from gomodel.doctor.examination import Effort, Examination
from gomodel.doctor.exchange import Exchange
from gomodel.doctor.models import entries_of, name_through
from gomodel.doctor.observed import Left
from gomodel.doctor.places import Place, place_of
from gomodel.simulator import build_app

from ..harness import bad_paths
from ..harness.scripted import Stall, head, json_response

MODEL = "org/m"
# With so much patience the engine, which makes no pauses, is too fast for its cancellation to be seen.
QUICK = Effort(events=6, most_events=6, large_bytes=(1 << 20) + 1, patience_s=60.0, limit_s=60.0)
# What a machine that stands still may look like.
TIMED = {"slow", "buffered"}


@pytest.fixture
async def engine(no_leaks):
    """A simulated vLLM's port, which wants a key and names itself in a field of its own."""
    app = build_app(model=MODEL, tokens_per_s=0, api_key="instance")

    async def sign(request, response):
        response.headers["X-Engine"] = "7"

    app.on_response_prepare.append(sign)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def at(port: int, key: str = "instance", model: str = MODEL) -> Place:
    place = place_of(f"http://127.0.0.1:{port}", Secret(key))
    return Place(place.shown, place.host, place.port, key=place.key, model=model)


async def examined(engine: int, *gateways: Place, effort: Effort = QUICK) -> Diagnosis:
    direct = at(engine)
    return diagnose("vllm", "0.33.0", await Examination(direct, [direct], gateways, effort, lambda what: None).run())


def found(diagnosis: Diagnosis) -> set[str]:
    return {fault.finding.kind for fault in diagnosis.faults} - TIMED


@pytest.mark.parametrize(
    ("path", "kinds"),
    [
        (bad_paths.Path, set()),
        (bad_paths.SetsTemperature, {"fields"}),
        (bad_paths.CapsTokens, {"fields", "body", "events", "lost_events"}),
        (bad_paths.AddsSystemPrompt, {"fields", "body", "events"}),
        (bad_paths.DropsUnknownFields, {"fields"}),
        (bad_paths.DropsLastEvent, {"last_event"}),
        (bad_paths.DropsEvents, {"lost_events"}),
        (bad_paths.DropsHeaders, {"dropped_headers"}),
        (bad_paths.RewritesErrors, {"error_body"}),
        (bad_paths.HidesErrors, {"error_status"}),
        (bad_paths.LimitsBodies, {"large"}),
        (bad_paths.WantsLength, {"chunked"}),
        (bad_paths.RefusesUpgrades, {"websocket"}),
        (bad_paths.SaysTooMuch, {"extra_bytes"}),
        (bad_paths.Reserialises, {"respelled"}),
    ],
)
async def test_each_bad_path_is_found_and_the_good_one_is_not_accused(engine, path, kinds):
    async with bad_paths.serving(path(engine)) as port:
        diagnosis = await examined(engine, at(port))
    assert found(diagnosis) <= kinds
    assert bool(found(diagnosis)) == bool(kinds)


async def test_the_gateway_is_not_accused_and_the_proxy_before_it_is(engine, gateway):
    handle = await gateway(vllm=f"http://127.0.0.1:{engine}/v1", VLLM_API_KEY="instance", GOMODEL_MASTER_KEY="k")
    inner = at(handle.port, "k", f"vllm/{MODEL}")
    async with bad_paths.serving(bad_paths.DropsLastEvent(handle.port)) as port:
        diagnosis = await examined(engine, inner, at(port, "k", f"vllm/{MODEL}"))
    assert found(diagnosis) == {"last_event"}
    assert {fault.at for fault in diagnosis.faults if fault.finding.kind == "last_event"} == {1}
    assert diagnosis.products == ("gomodel", "")


async def test_the_list_of_a_gateway_names_the_model(engine, gateway):
    handle = await gateway(vllm=f"http://127.0.0.1:{engine}/v1", VLLM_API_KEY="instance", GOMODEL_MASTER_KEY="k")
    exchange, entries = await entries_of(at(handle.port, "k"))
    assert (exchange.status, name_through([each["id"] for each in entries], "vllm", MODEL)) == (200, f"vllm/{MODEL}")
    exchange, entries = await entries_of(at(handle.port, "wrong"))
    assert (exchange.status, entries) == (401, [])


@pytest.mark.parametrize("status", [404, 500, 503])
async def test_a_gateway_that_refuses_its_list_cannot_be_asked_unless_the_model_is_named(upstream, status):
    for _ in range(2):
        upstream.on_request(json_response({"detail": "no"}, status), path="/v1/models")
    place = at(upstream.port)
    with pytest.raises(Refused, match=f"cannot be asked: GET /v1/models: {status}$"):
        await with_model(place, "vllm", MODEL, None)
    assert (await with_model(place, "vllm", MODEL, "vllm/m")).model == "vllm/m"


async def test_an_answer_to_head_is_over_with_its_head(upstream):
    upstream.repeat(head(200, [("Content-Length", "500")]))
    place = at(upstream.port)
    async with await Connection.to(place) as connection:
        exchange = await connection.ask(request(place, "HEAD", "/x"), 5.0)
    assert (exchange.status, exchange.end) == (200, "complete")


async def test_a_websocket_names_a_model_whatever_its_letters(upstream):
    upstream.on_request(json_response({}, 404))
    place = at(upstream.port, model="org/m \u6771")
    examination = Examination(place, [place], [], QUICK, lambda what: None)
    assert (await examination._upgrade(place)).status == 404
    assert upstream.requests[0].target == "/v1/realtime?model=org/m%20%E6%9D%B1"


async def test_who_is_not_there_breaks_every_check_that_can_be_made(engine, unused_tcp_port):
    diagnosis = await examined(engine, at(unused_tcp_port))
    assert not diagnosis.well
    assert {row.name for row in diagnosis.rows if row.outcomes[0].state.value == "BROKEN"} >= {
        "answer",
        "stream",
        "large",
    }


def paced(interval_s: float) -> Exchange:
    """A stream of that pace, from which the length of a long answer is reckoned."""
    events = [(interval_s * number, b"data: {}\n\n") for number in range(8)]
    return Exchange(status=200, end="complete", arrivals=events)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("path", "freed"), [(bad_paths.Path, True), (bad_paths.NeverCancels, False)])
async def test_an_engine_that_works_on_for_who_left_is_seen_by_its_counters(path, freed, stream, no_leaks):
    app = build_app(model=MODEL, tokens_per_s=1)
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        engine = runner.addresses[0][1]
        async with bad_paths.serving(path(engine)) as port:
            direct, through = at(engine), at(port)
            # A minute's work: it does not end by itself while it is watched.
            effort = Effort(patience_s=15.0 if freed else 0.2)
            examination = Examination(direct, [direct], [through], effort, lambda what: None)
            examination.seen[0].streams.append(paced(1.0))
            left = await examination.leave(through, stream=stream)
            assert left.unknown == ""
            assert (left.freed_s is not None) == freed
    finally:
        await runner.cleanup()


async def test_who_leaves_while_others_come_is_no_reason_to_accuse(upstream, monkeypatch):
    """The doctor's own request runs, then one of somebody else's beside it, which goes on."""
    upstream.repeat(Stall())
    place = at(upstream.port)
    examination = Examination(place, [place], [place], Effort(patience_s=0.02), lambda what: None)
    examination.seen[0].streams.append(paced(1.0))
    counts = chain([0.0, 1.0], repeat(2.0))

    async def counted():
        return next(counts)

    monkeypatch.setattr(examination, "_counted", counted)
    assert await examination.leave(place, stream=True) == Left(unknown="others use it now")


GOES_ON, FREED, OTHERS = Left(None, 3.0), Left(0.1), Left(unknown="others use it now")


@pytest.mark.parametrize(
    ("through", "directly", "said"),
    [
        (GOES_ON, FREED, GOES_ON),
        (GOES_ON, GOES_ON, OTHERS),
        (GOES_ON, OTHERS, OTHERS),
        (FREED, None, FREED),
    ],
)
async def test_work_goes_on_only_where_it_stops_directly_right_after(monkeypatch, through, directly, said):
    direct, gateway = at(1), at(2)
    examination = Examination(direct, [direct], [gateway], QUICK, lambda what: None)

    async def leave(place, *, stream):
        return directly if place is direct else through

    monkeypatch.setattr(examination, "leave", leave)
    assert await examination.confirmed(gateway, stream=True) == said
