"""OpenTelemetry spans as a collector gets them, over OTLP/HTTP: one for each request, below the caller's own."""

import asyncio
import logging

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gomodel.telemetry import spans

from ..harness.collector import attributes
from ..harness.scripted import SSE_HEAD, Fin, WaitFor, chunked, json_response, request, response
from ..harness.verdicts import CHAT, OK, ask, counted, post, turned
from ..harness.wire import SAFETY_S
from ..unit.telemetry.records import ended

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED, UNSAMPLED = f"00-{TRACE}-{CALLER}-01", f"00-{TRACE}-{CALLER}-00"
USAGE = {"prompt_tokens": 12, "total_tokens": 15, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}


async def exported(handle, requests=1):
    """Once these have ended, all spans have left with the gateway."""
    await counted(handle, requests)
    await handle.gateway.close()
    return handle.gateway.telemetry.spans.counts


async def test_a_request_is_one_span_that_says_what_the_conventions_ask_for(gateway, upstream, connect, collector):
    upstream.on_request(json_response({"usage": USAGE}))
    handle = await gateway({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}, vllm=upstream)
    answer = await ask(await connect(handle), post(headers=[("traceparent", SAMPLED)]))
    assert await exported(handle) == {"made": 1, "exported": 1, "failed": 0}
    [span] = collector.spans
    said = attributes(span)
    assert (span.name, span.kind) == ("chat m", Span.SPAN_KIND_SERVER)
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, CALLER)
    assert (
        said.items()
        >= {
            "http.request.method": "POST",
            "http.route": "/v1/chat/completions",
            "http.response.status_code": 200,
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "vllm",
            "gen_ai.request.model": "m",
            "gen_ai.request.stream": False,
            "gen_ai.usage.input_tokens": 12,
            "gen_ai.usage.output_tokens": 3,
            "gen_ai.usage.cache_read.input_tokens": 8,
            "gomodel.instance": "vllm",
            "gomodel.request_id": answer.get("X-Request-Id"),
            "client.address": "127.0.0.1",
        }.items()
    )
    seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
    assert 0 < said["gen_ai.response.time_to_first_chunk"] <= seconds
    parts = [said[f"gomodel.{who}_ms"] for who in ("engine", "gateway", "client")]
    assert sum(parts) == pytest.approx(seconds * 1000, abs=1)
    assert "error.type" not in said
    assert span.status.code == Status.STATUS_CODE_UNSET
    assert collector.resource["service.name"] == "gomodel"


async def test_the_callers_context_passes_untouched(gateway, upstream, connect, collector):
    upstream.on_request(OK)
    handle = await gateway({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}, vllm=upstream)
    await ask(await connect(handle), post(headers=[("traceparent", SAMPLED), ("tracestate", "a=b")]))
    await exported(handle)
    assert upstream.requests[0].get("traceparent") == SAMPLED
    assert upstream.requests[0].get("tracestate") == "a=b"


async def test_no_models_name_costs_the_spans_of_others(gateway, upstream, collector):
    handle = await gateway({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}, vllm=upstream)
    for name in ("\ud800", "m", "x" * 100_000):
        handle.gateway.telemetry.spans.add(ended(model=name, route=CHAT), 101.0)
    assert await exported(handle, 0) == {"made": 3, "exported": 3, "failed": 0}
    assert [span.name for span in collector.spans] == ["chat ?", "chat m", "chat " + "x" * 200 + "..."]


BROKEN = (SSE_HEAD + chunked(b"data: 1\n\n"), Fin())
FAILURES = {
    "an instance that breaks off": (BROKEN, 200, "connection_terminated", "upstream", Status.STATUS_CODE_ERROR),
    "an instance's own error": ((response(b"", 500),), 500, "500", None, Status.STATUS_CODE_ERROR),
    "a bad request": ((response(b"", 400),), 400, None, None, Status.STATUS_CODE_UNSET),
}


@pytest.mark.parametrize("what", FAILURES)
async def test_a_failure_says_of_which_kind_and_whose_it_is(gateway, upstream, connect, collector, what):
    steps, status, kind, who, code = FAILURES[what]
    upstream.on_request(*steps)
    handle = await gateway({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}, vllm=upstream)
    await ask(await connect(handle))
    await exported(handle)
    [span] = collector.spans
    said = attributes(span)
    assert (said["http.response.status_code"], said.get("error.type"), said.get("gomodel.ended_by")) == (
        status,
        kind,
        who,
    )
    assert span.status.code == code


async def test_a_client_that_leaves_is_no_error(gateway, upstream, connect, collector):
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(asyncio.Event()))
    handle = await gateway({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}, vllm=upstream)
    client = await connect(handle)
    await client.send(post())
    await client.read_until(b"data: 1")
    client.fin()
    await exported(handle)
    [span] = collector.spans
    assert attributes(span)["gomodel.ended_by"] == "client"
    assert span.status.code == Status.STATUS_CODE_UNSET


SAMPLING = {
    "a caller that is not sampled": ({}, UNSAMPLED, 0),
    "nobody's context": ({}, None, 1),
    "no context at all": ({}, "00-what", 1),
    "never of its own": ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, None, 0),
    "but with its caller": ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, SAMPLED, 1),
    "none of nobody's": ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}, None, 0),
    "whatever its caller says": ({"OTEL_TRACES_SAMPLER": "always_on"}, UNSAMPLED, 1),
}


@pytest.mark.parametrize("case", SAMPLING)
async def test_who_is_sampled(gateway, upstream, connect, collector, case):
    env, parent, expected = SAMPLING[case]
    upstream.on_request(OK)
    handle = await gateway({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **env}, vllm=upstream)
    await ask(await connect(handle), post(headers=[("traceparent", parent)] if parent else []))
    await ask(await connect(handle), request("GET", "/health"))  # asked for again and again: never one
    assert (await exported(handle, 2))["made"] == expected
    assert len(collector.spans) == expected


async def test_it_says_what_it_is_told_to_whom_it_is_told_to(gateway, upstream, connect, collector):
    upstream.on_request(OK)
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint + "/",
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20secret-9c1,x-team=search",
        "OTEL_SERVICE_NAME": "front",
    }
    handle = await gateway(env, vllm=upstream)
    await ask(await connect(handle))
    await exported(handle)
    assert collector.resource["service.name"] == "front"
    assert (collector.headers[0]["authorization"], collector.headers[0]["x-team"]) == ("Bearer secret-9c1", "search")


async def test_a_collector_that_is_away_costs_a_counter_and_one_line_without_a_secret(
    gateway, upstream, connect, collector, caplog, monkeypatch
):
    collector.status = 400  # which is not tried again
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setattr(spans, "AGAIN_S", SAFETY_S)
    upstream.repeat(OK)
    env = {"OTEL_EXPORTER_OTLP_HEADERS": "authorization=secret-9c1"}
    handle = await gateway({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, **env}, vllm=upstream)
    exporter = handle.gateway.telemetry.spans
    client = await connect(handle)
    for number in (1, 2):
        assert (await ask(client)).status == 200
        await turned(lambda number=number: exporter.counts["failed"] == number)
    metrics = (await ask(client, request("GET", "/metrics"))).body.decode()
    assert 'gomodel_spans_total{outcome="failed"} 2.0' in metrics
    collector.status = 200
    await ask(client)
    await exported(handle, 4)
    texts = [each.getMessage() for each in handle.logs.records if "collector" in each.getMessage()]
    assert texts == [
        "The collector of spans (OTEL_EXPORTER_OTLP_ENDPOINT) does not take them",
        "The collector of spans takes them again",
    ]
    assert "secret-9c1" not in handle.logs.text + caplog.text
    assert not logging.getLogger("opentelemetry").propagate


async def test_an_end_does_not_wait_for_a_collector_that_is_silent(gateway, upstream, connect, collector, monkeypatch):
    monkeypatch.setattr(spans, "FLUSH_S", 0.02)
    collector.answers.clear()
    upstream.on_request(OK)
    handle = await gateway({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}, vllm=upstream)
    await ask(await connect(handle))
    assert (await exported(handle))["exported"] == 0
    assert "are lost" in handle.logs.text
    collector.answers.set()


async def test_an_end_waits_no_longer_for_a_collector_that_took_nothing_the_last_time(
    gateway, upstream, connect, collector, monkeypatch
):
    monkeypatch.setattr(spans, "FLUSH_S", 10 * SAFETY_S)
    monkeypatch.setattr(spans, "AGAIN_S", 0.02)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    collector.status = 400
    upstream.repeat(OK)
    handle = await gateway({"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}, vllm=upstream)
    client = await connect(handle)
    await ask(client)
    await turned(lambda: handle.gateway.telemetry.spans.counts["failed"] == 1)
    collector.answers.clear()
    await ask(client)
    assert (await exported(handle, 2))["exported"] == 0
    assert "within 0.02s and are lost" in handle.logs.text
    collector.answers.set()


async def test_where_it_is_off_nothing_of_it_is_there(gateway, upstream):
    off = await gateway(vllm=upstream)
    told = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_TRACES_EXPORTER": "none"}
    told_off = await gateway(told, vllm=upstream)
    assert [each.gateway.telemetry.spans for each in (off, told_off)] == [None, None]
