"""The metrics as a scraper reads them: names, labels, sums over workers, and nothing that must not be there."""

import json
import re
from typing import Any

import pytest
from prometheus_client import openmetrics
from prometheus_client.parser import text_string_to_metric_families

from gomodel.operations import handlers
from gomodel.operations.families import FAMILIES
from gomodel.operations.metrics import expose, lasting, snapshot
from gomodel.telemetry.histogram import SECONDS
from gomodel.upstream.health import DRAINING
from gomodel.version import VERSION

from ...harness.leaks import nothing_left
from ...harness.scripted import SSE_HEAD, Fin, ReadHead, Stall, chunked, json_response, request, response, sse
from ...harness.verdicts import CANARY, OK, ask, counted, own_error, post, shows

# Contract section 8; where it names no labels, those that its cardinality rule allows.
CONTRACT = {
    "gomodel_requests_total": ("upstream", "route", "model", "code"),
    "gomodel_requests_in_flight": ("upstream",),
    "gomodel_key_requests_total": ("key", "code"),
    "gomodel_key_requests_in_flight": ("key",),
    "gomodel_key_refused_total": ("key", "limit"),
    "gomodel_redis_up": (),
    "gomodel_keys_file_broken": (),
    "gomodel_request_duration_seconds": ("upstream", "route"),
    "gomodel_time_to_first_byte_seconds": ("upstream", "route", "stream"),
    "gomodel_chunk_gap_seconds": ("upstream",),
    "gomodel_gap_seconds": ("where",),
    "gomodel_byte_mismatch_total": ("direction",),
    "gomodel_wasted_seconds_total": ("upstream", "key"),
    "gomodel_wasted_events_total": ("upstream", "key"),
    "gomodel_cancel_seconds": ("upstream",),
    "gomodel_request_bytes_total": ("upstream",),
    "gomodel_response_bytes_total": ("upstream",),
    "gomodel_aborted_total": ("by", "phase"),
    "gomodel_upstream_connects_total": ("upstream", "result"),
    "gomodel_upstream_retries_total": ("upstream",),
    "gomodel_affinity_total": ("by", "result"),
    "gomodel_queue_waiting": ("upstream",),
    "gomodel_queue_wait_seconds": ("upstream",),
    "gomodel_queue_requests_total": ("upstream", "outcome"),
    "gomodel_tokens_total": ("upstream", "model", "key", "kind"),
    "gomodel_usage_requests_total": ("upstream", "model", "key", "usage"),
    "gomodel_generation_seconds_total": ("upstream", "model", "key"),
    "gomodel_audio_seconds_total": ("upstream", "model", "key"),
    "gomodel_prompt_tokens_total": ("upstream", "source"),
    "gomodel_breaker_open": ("upstream",),
    "gomodel_instance_up": ("upstream",),
    "gomodel_instance_key_refused": ("upstream",),
    "gomodel_replica_up": ("upstream", "replica"),
    "gomodel_replica_breaker_open": ("upstream", "replica"),
    "gomodel_replica_requests_in_flight": ("upstream", "replica"),
    "gomodel_replicas_kept_out": ("upstream", "why"),
    "gomodel_replicas_differing": ("upstream", "what"),
    "gomodel_guard_requests_total": ("upstream", "what"),
    "gomodel_replica_set_age_seconds": ("upstream",),
    "gomodel_model_list_age_seconds": ("upstream",),
    "gomodel_event_loop_lag_seconds": (),
    "gomodel_batch_lines_total": ("state",),
    "gomodel_batches": ("status",),
    "gomodel_spans_total": ("outcome",),
    "gomodel_build_info": ("version",),
}
# Prometheus' own names for what every process has.
CONTRACT |= dict.fromkeys(
    (
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
    ),
    (),
)
Key = tuple[str, frozenset[tuple[str, str]]]


def parsed(text: bytes) -> dict[Key, float]:
    """Every sample by name and labels, as prometheus_client's own parser reads them."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def key(name: str, **labels: str) -> Key:
    return name, frozenset(labels.items())


def samples(*entries: tuple[str, tuple[str, ...], Any]) -> dict[str, Any]:
    """A snapshot as it comes from another worker: through JSON."""
    snapshot: dict[str, Any] = {family.name: [] for family in FAMILIES}
    for name, values, number in entries:
        snapshot[name].append((values, number))
    decoded: dict[str, Any] = json.loads(json.dumps(snapshot))
    return decoded


async def scrape(client: Any, accept: str = "", target: str = "/metrics") -> dict[Key, float]:
    answer = await ask(client, request("GET", target, [("Accept", accept)] if accept else []))
    assert (answer.status, answer.complete) == (200, True)
    return parsed(answer.body)


def test_the_families_are_those_of_the_contract():
    assert {family.name: family.labels for family in FAMILIES} == CONTRACT


def test_what_only_grows_is_what_is_no_gauge():
    gauges = {name for name in CONTRACT if not name.endswith("_total")} - {
        name for name in CONTRACT if re.search("duration|first_byte|gap|lag|wait_seconds|cancel", name)
    }
    assert "process_cpu_seconds_total" not in gauges
    assert set(lasting([])) == (set(CONTRACT) - gauges) | {"process_start_time_seconds"}


class TestSumsOverWorkers:
    def test_counters_add_up(self):
        labels = ("vllm", "/v1/completions", "m", "200")
        one = samples(("gomodel_requests_total", labels, 3), ("gomodel_requests_in_flight", ("vllm",), 1))
        two = samples(("gomodel_requests_total", labels, 4), ("gomodel_requests_in_flight", ("vllm",), 5))
        found = parsed(expose([one, two])[0])
        expected = key("gomodel_requests_total", upstream="vllm", route="/v1/completions", model="m", code="200")
        assert found[expected] == 7
        assert found[key("gomodel_requests_in_flight", upstream="vllm")] == 6

    def test_histograms_add_up_bucket_by_bucket_and_are_cumulative(self):
        counts = [0] * (len(SECONDS) + 1)
        low, high = [2, *counts[1:]], [*counts[1:], 3]
        name = "gomodel_event_loop_lag_seconds"
        found = parsed(expose([samples((name, (), [low, 0.5])), samples((name, (), [high, 2000.0]))])[0])
        assert found[key(f"{name}_bucket", le="0.001")] == 2
        assert found[key(f"{name}_bucket", le="600.0")] == 2
        assert found[key(f"{name}_bucket", le="+Inf")] == 5
        assert found[key(f"{name}_count")] == 5
        assert found[key(f"{name}_sum")] == 2000.5

    @pytest.mark.parametrize(
        ("known", "up"),
        [((1, 1), 1), ((1, 0), 0), ((0, 0), 0), ((None, 1), 1), ((1, None), 1), ((None, 0), 0), ((None, None), 0)],
    )
    def test_an_instance_is_up_when_every_worker_that_knows_says_so(self, known, up):
        each = [samples(("gomodel_instance_up", ("vllm",), number)) for number in known]
        assert parsed(expose(each)[0])[key("gomodel_instance_up", upstream="vllm")] == up

    def test_a_breaker_is_open_when_it_is_in_any_worker(self):
        each = [samples(("gomodel_breaker_open", ("vllm",), number)) for number in (0, 1)]
        assert parsed(expose(each)[0])[key("gomodel_breaker_open", upstream="vllm")] == 1

    def test_the_oldest_model_list_counts(self):
        each = [samples(("gomodel_model_list_age_seconds", ("vllm",), number)) for number in (5.5, 3)]
        assert parsed(expose(each)[0])[key("gomodel_model_list_age_seconds", upstream="vllm")] == 5.5

    def test_processes_add_up_where_that_means_something(self):
        each = [
            samples(
                ("process_cpu_seconds_total", (), cpu),
                ("process_resident_memory_bytes", (), memory),
                ("process_open_fds", (), descriptors),
                ("process_max_fds", (), 1024),
                ("process_start_time_seconds", (), started),
            )
            for cpu, memory, descriptors, started in ((1.5, 100, 900, 2000.0), (2.0, 50, 12, 1000.0))
        ]
        found = parsed(expose(each)[0])
        assert found[key("process_cpu_seconds_total")] == 3.5
        assert found[key("process_resident_memory_bytes")] == 150
        # The limit is one worker's, and so is what counts against it.
        assert found[key("process_open_fds")] / found[key("process_max_fds")] == 900 / 1024
        assert found[key("process_start_time_seconds")] == 1000.0

    def test_a_worker_that_lacks_a_family_is_no_error(self):
        assert parsed(expose([{}])[0]) == {}


@pytest.mark.parametrize("model", ['"', "\\", "\n", "}", "\u2028", "模型", "a" * 3000, "\ud800"])
def test_a_model_of_any_name_is_one_label(model):
    text, _ = expose([samples(("gomodel_requests_total", ("vllm", "/x", model, "200"), 1))])
    [(_, labels)] = parsed(text)
    assert dict(labels)["model"] == model.replace("\ud800", "?")


class TestTheRoute:
    async def test_has_every_family_from_the_first_scrape_on(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream)
        answer = await ask(await connect(handle), request("GET", "/metrics"))
        typed = dict(re.findall(r"^# TYPE (\S+) (\S+)$", answer.body.decode(), re.MULTILINE))
        assert typed == {family.name: family.kind for family in FAMILIES}
        found = parsed(answer.body)
        assert found[key("gomodel_build_info", version=VERSION)] == 1
        assert found[key("gomodel_instance_up", upstream="vllm")] == 0
        assert found[key("gomodel_breaker_open", upstream="vllm")] == 0
        # Counters that an alert watches must be there before they first count.
        assert found[key("gomodel_aborted_total", by="upstream", phase="data")] == 0
        assert found[key("gomodel_upstream_connects_total", upstream="vllm", result="ok")] == 0
        assert found[key("gomodel_upstream_retries_total", upstream="vllm")] == 0
        assert found[key("gomodel_response_bytes_total", upstream="vllm")] == 0

    async def test_counts_requests_bytes_and_times(self, gateway, upstream, connect):
        upstream.on_request(sse(["1", "2", "[DONE]"]))
        handle = await gateway(vllm=upstream, VLLM_MODELS="m")
        client = await connect(handle)
        answer = await ask(client)
        await counted(handle, 1)
        found = await scrape(client)
        where = {"upstream": "vllm", "route": "/v1/chat/completions"}
        assert found[key("gomodel_requests_total", **where, model="m", code="200")] == 1
        assert found[key("gomodel_request_duration_seconds_count", **where)] == 1
        assert found[key("gomodel_time_to_first_byte_seconds_count", **where, stream="true")] == 1
        upstream.on_request(OK)
        await ask(client)
        await counted(handle, 3)
        found_later = await scrape(client)
        for stream in ("true", "false"):
            assert found_later[key("gomodel_time_to_first_byte_seconds_count", **where, stream=stream)] == 1
        assert found[key("gomodel_upstream_connects_total", upstream="vllm", result="ok")] == 1
        assert found[key("gomodel_response_bytes_total", upstream="vllm")] == len(answer.body)
        assert found[key("gomodel_request_bytes_total", upstream="vllm")] == len(post().partition(b"\r\n\r\n")[2])

    async def test_counts_gaps_between_pieces(self, gateway, upstream, connect):
        upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Stall(), chunked(b"data: 2\n\n"), b"0\r\n\r\n")
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        await client.send(post())
        await client.read_head()
        await client.read_chunk()
        upstream.release()
        await client.read_rest()
        found = await scrape(await connect(handle))
        assert found[key("gomodel_chunk_gap_seconds_count", upstream="vllm")] >= 1

    async def test_counts_who_broke_off_and_what_failed(self, gateway, upstream, connect):
        upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Fin())
        handle = await gateway(vllm=upstream, RETRY_MAX_RETRIES="1")
        await ask(await connect(handle))
        upstream.stop_listening()
        await ask(await connect(handle))
        await counted(handle, 2)
        found = await scrape(await connect(handle))
        assert found[key("gomodel_aborted_total", by="upstream", phase="data")] == 1
        assert found[key("gomodel_aborted_total", by="upstream", phase="connect")] == 1
        assert found[key("gomodel_upstream_connects_total", upstream="vllm", result="connection_refused")] == 2
        assert found[key("gomodel_upstream_retries_total", upstream="vllm")] == 1

    async def test_shows_what_runs_without_the_scrape_itself(self, gateway, upstream, connect):
        upstream.on_request(ReadHead(), Stall())
        handle = await gateway(vllm=upstream)
        busy = await connect(handle)
        await busy.send(post())
        await upstream.wait_for_request()
        found = await scrape(await connect(handle))
        assert found[key("gomodel_requests_in_flight", upstream="vllm")] == 1
        assert found[key("gomodel_requests_in_flight", upstream="")] == 0

    async def test_shows_breakers_and_health(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, vllm_b=upstream, CIRCUIT_BREAKER_FAILURE_THRESHOLD="1")
        upstream.on_request(response(b"{}", 503))
        await ask(await connect(handle))
        first, second = handle.gateway.providers.replicas
        first.health.ok(first.health.failures)
        second.health.failed(DRAINING)
        found = await scrape(await connect(handle))
        assert found[key("gomodel_breaker_open", upstream="vllm")] == 1
        assert found[key("gomodel_breaker_open", upstream="vllm-b")] == 0
        assert found[key("gomodel_instance_up", upstream="vllm")] == 1
        assert found[key("gomodel_instance_up", upstream="vllm-b")] == 0

    async def test_shows_the_age_of_lists_from_the_start_on_when_they_were_never_read(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, vllm_b="http://127.0.0.1:9/v1")
        client = await connect(handle)
        await ask(client, request("GET", "/v1/models"))
        for each in handle.gateway.app.models.lists:
            each.since -= 1000
        found = await scrape(client)
        assert 0 <= found[key("gomodel_model_list_age_seconds", upstream="vllm")] < 60
        assert 1000 <= found[key("gomodel_model_list_age_seconds", upstream="vllm-b")] < 1060

    async def test_shows_no_age_of_a_list_that_the_operator_wrote(self, gateway, upstream, connect):
        settings = {"VLLM_MODELS": "m", "CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"}
        found = await scrape(await connect(await gateway(vllm=upstream, **settings)))
        assert key("gomodel_model_list_age_seconds", upstream="vllm") not in found

    async def test_shows_the_lag_of_the_loop(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, HTTP_REQUEST_IDLE_TIMEOUT="80ms")
        lag = handle.gateway.telemetry.lag
        await nothing_left(lambda: [] if sum(lag.counts) else ["a first look"])
        found = await scrape(await connect(handle))
        assert found[key("gomodel_event_loop_lag_seconds_count")] >= 1

    async def test_answers_head_like_get_without_a_body(self, gateway, upstream, connect):
        client = await connect(await gateway(vllm=upstream))
        answer = await ask(client, request("HEAD", "/metrics"), "HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.get("Content-Length") or 0) > 1000

    @pytest.mark.parametrize(
        ("accept", "media_type"),
        [
            ("", "text/plain; version=0.0.4; charset=utf-8"),
            ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
            ("text/plain;version=nonsense", "text/plain; version=0.0.4; charset=utf-8"),
            ("application/json", "text/plain; version=0.0.4; charset=utf-8"),
            ("application/openmetrics-text", openmetrics.exposition.CONTENT_TYPE_LATEST),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=1.0.0;q=0.4",
                openmetrics.exposition.CONTENT_TYPE_LATEST,
            ),
        ],
    )
    async def test_speaks_what_the_scraper_asks_for(self, gateway, upstream, connect, accept, media_type):
        upstream.on_request(sse(["1"]))
        client = await connect(await gateway(vllm=upstream))
        await ask(client)
        answer = await ask(client, request("GET", "/metrics", [("Accept", accept)] if accept else []))
        assert answer.get("Content-Type") == media_type
        if "openmetrics" in media_type:
            from prometheus_client.openmetrics.parser import text_string_to_metric_families as strictly

            names = {family.name for family in strictly(answer.body.decode())}
        else:
            names = {family.name for family in text_string_to_metric_families(answer.body.decode())}
        assert names == {family.name.removesuffix("_total") for family in FAMILIES}

    async def test_needs_the_key(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY="k")
        own_error(
            await ask(await connect(handle), request("GET", "/metrics")), 401, "invalid_api_key", "authentication_error"
        )
        answer = await ask(await connect(handle), request("GET", "/metrics", [("Authorization", "Bearer k")]))
        assert answer.status == 200

    async def test_is_open_when_the_operator_says_so(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY="k", METRICS_PUBLIC="true", METRICS_ENDPOINT="/m")
        assert key("gomodel_build_info", version=VERSION) in await scrape(await connect(handle), target="/m")

    async def test_is_not_there_when_metrics_are_off(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream, METRICS_ENABLED="false")
        assert (await ask(await connect(handle), request("GET", "/metrics"))).status == 404

    async def test_tells_no_secret_and_nothing_that_a_client_made_up(self, gateway, upstream, connect):
        upstream.repeat(OK)
        handle = await gateway(
            vllm=upstream, GOMODEL_MASTER_KEY=CANARY + "master", VLLM_API_KEY=CANARY + "instance", RETRY_MAX_RETRIES="0"
        )
        key_field = ("Authorization", f"Bearer {CANARY}master")
        client = await connect(handle)
        for raw in (
            post(f"/v1/{CANARY}?k={CANARY}", model=f"vllm/{CANARY}", headers=[key_field, ("X-Request-Id", CANARY)]),
            request("GET", f"/p/vllm/{CANARY}?k={CANARY}", [key_field]),
            request("GET", f"/{CANARY}", [key_field]),
            request("GET", f"/v1/models/{CANARY}", [key_field]),
            request("PURGE", "/metrics", [key_field]),
        ):
            await ask(client if not client.closed.done else await connect(handle), raw)
        answer = await ask(await connect(handle), request("GET", "/metrics", [key_field]))
        assert answer.status == 200
        assert CANARY not in answer.body.decode()
        assert not shows(answer.body.decode(), upstream.port)

    async def test_adds_up_what_the_workers_say(self, gateway, upstream, connect, monkeypatch):
        labels = ("vllm", "/v1/completions", "m", "200")
        theirs = samples(("gomodel_requests_total", labels, 40), ("gomodel_requests_in_flight", ("vllm",), 2))
        asked: list[Any] = []

        async def ask_siblings(kind: str, argument: Any = None) -> list[Any]:
            asked.append(kind)
            return [argument, theirs]

        monkeypatch.setattr(handlers, "ask_siblings", ask_siblings)
        found = await scrape(await connect(await gateway(vllm=upstream)))
        total = key("gomodel_requests_total", upstream="vllm", route="/v1/completions", model="m", code="200")
        assert (found[total], found[key("gomodel_requests_in_flight", upstream="vllm")]) == (40, 2)
        assert found[key("gomodel_build_info", version=VERSION)] == 1
        assert asked == ["metrics"]


async def test_an_instance_of_which_nothing_is_known_says_nothing_to_other_workers(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    app = handle.gateway.app
    found = snapshot(handle.gateway.telemetry, app.providers, app.models)
    assert found["gomodel_instance_up"] == [(("vllm",), None)]
    app.providers.replicas[0].health.failed("connection_refused")
    found = snapshot(handle.gateway.telemetry, app.providers, app.models)
    assert found["gomodel_instance_up"] == [(("vllm",), 0)]


async def test_a_list_of_hostile_names_breaks_no_scrape(gateway, make_upstream, connect):
    upstream = await make_upstream()
    model = 'm"\n\\ud800}'
    upstream.on_request(json_response({"data": [{"id": model}]}), path="/v1/models")
    upstream.on_request(OK)
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    await ask(client, request("GET", "/v1/models"))
    await ask(client, post(model=f"vllm/{model}"))
    found = await scrape(client)
    labels = {"upstream": "vllm", "route": "/v1/chat/completions", "code": "200"}
    assert found[key("gomodel_requests_total", **labels, model=model)] == 1
