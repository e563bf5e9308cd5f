"""What an environment means: instances, defaults, ranges, every problem at once, and no secret in any of it."""

import ast
import copy
import dataclasses
import inspect
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from gomodel.config import load as config_module
from gomodel.config.load import from_environ, load
from gomodel.config.registry import OF_GOMODEL, VARIABLES
from gomodel.config.settings import Certificate, Config, ConfigError, InstanceConfig, Secret, Server

EXAMPLE = Path(__file__).parents[3] / ".env.example"
PLAIN = {each.name for each in OF_GOMODEL if not each.secret}
QUIET = {"GOMODEL_MASTER_KEY": "sk-master", "VLLM_BASE_URL": "http://gpu:8000/v1"}
LOCAL = InstanceConfig("vllm", (Server("http://localhost:8000/v1"),), None, ())


def problems(environ: Mapping[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        from_environ(environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def blamed(environ: Mapping[str, str]) -> list[str]:
    return [problem.partition(":")[0] for problem in problems(environ)]


def setting(config: Config, path: str) -> Any:
    value: Any = config
    for name in path.split("."):
        value = getattr(value, name)
    return value


DEFAULTS = [
    ("instances", (LOCAL,)),
    ("models_mode", "fallback"),
    ("host", "localhost"),
    ("port", 8080),
    ("unix_socket", None),
    ("master_keys", ()),
    ("keys", None),
    ("redis_url", None),
    ("limits_without_redis", "share"),
    ("model_ids", "prefixed"),
    ("model_aliases", ()),
    ("cors_allow_origins", ()),
    ("base_path", ""),
    ("body_limit_bytes", 100 * 1024 * 1024),
    ("header_limit_bytes", 64 * 1024),
    ("passthrough", True),
    ("passthrough_v1_alias", True),
    ("passthrough_types", frozenset({"vllm"})),
    ("passthrough_admin", False),
    ("timeouts.connect_s", 5.0),
    ("timeouts.response_header_s", 600.0),
    ("timeouts.stream_idle_s", 300.0),
    ("timeouts.request_idle_s", 60.0),
    ("timeouts.write_idle_s", 120.0),
    ("timeouts.total_s", None),
    ("timeouts.upstream_keepalive_s", 4.0),
    ("timeouts.client_keepalive_s", 620.0),
    ("retry.max_retries", 2),
    ("retry.initial_backoff_s", 0.1),
    ("retry.max_backoff_s", 2.0),
    ("retry.backoff_factor", 2.0),
    ("retry.jitter_factor", 0.1),
    ("breaker.failure_threshold", 5),
    ("breaker.success_threshold", 1),
    ("breaker.timeout_s", 10.0),
    ("queue_limit", 1000),
    ("queue_timeout_s", 60.0),
    ("models_refresh_s", 60.0),
    ("routing", "affinity"),
    ("session_headers", ()),
    ("strip_request_headers", frozenset()),
    ("forwarded_allow_ips", ()),
    ("metrics_enabled", True),
    ("metrics_path", "/metrics"),
    ("metrics_public", False),
    ("digest", "sampled"),
    ("traces", None),
    ("replica_guard", "warn"),
    ("replica_guard_generates", True),
    ("log_level", "info"),
    ("log_format", "auto"),
    ("workers", 1),
    ("drain_s", 600.0),
    ("watch_s", None),
    ("files", {}),
    ("certificate", None),
    ("batches.data_dir", None),
    ("batches.database_url", None),
    ("batches.file_limit_bytes", 200 * 1024**2),
    ("batches.file_ttl_s", 30 * 86400.0),
    ("batches.concurrency", 16),
    ("batches.priority", 10),
    ("dotenv", False),
    ("dotenv_ended", True),
    ("ended", {}),
    ("former", frozenset()),
]


@pytest.mark.parametrize(("path", "value"), DEFAULTS)
def test_nothing_set_means_these_defaults(path: str, value: object) -> None:
    actual = setting(from_environ({}), path)
    assert actual == value
    assert type(actual) is type(value)


def test_every_field_has_a_default_vector() -> None:
    vectors = {path for path, _ in DEFAULTS} | {"warnings", "said"}
    nested = {"timeouts", "retry", "breaker", "batches"}
    config = from_environ({})
    fields = {field.name for field in dataclasses.fields(config)} - nested
    for group in nested:
        fields |= {f"{group}.{field.name}" for field in dataclasses.fields(getattr(config, group))}
    assert vectors == fields


SETTINGS = [
    ("CONFIGURED_PROVIDER_MODELS_MODE", "AllowList", "models_mode", "allowlist"),
    ("HOST", "127.0.0.1", "host", "127.0.0.1"),
    ("HOST", "[::1]", "host", "::1"),
    ("PORT", "0", "port", 0),
    ("PORT", "65535", "port", 65535),
    ("PORT", " 9000\n", "port", 9000),
    ("GOMODEL_UNIX_SOCKET", "/run/g.sock", "unix_socket", "/run/g.sock"),
    ("GOMODEL_UNIX_SOCKET", "/run/g.sock", "port", None),
    ("MODEL_IDS", "Both", "model_ids", "both"),
    ("LIMITS_WITHOUT_REDIS", "Closed", "limits_without_redis", "closed"),
    ("MODEL_IDS", "bare", "model_ids", "bare"),
    ("CORS_ALLOW_ORIGINS", "*", "cors_allow_origins", ("*",)),
    (
        "CORS_ALLOW_ORIGINS",
        "HTTPS://App.Example, http://localhost:3000,http://[::1]:8080,null,chrome-extension://abc,https://a.b:80",
        "cors_allow_origins",
        (
            "https://app.example",
            "http://localhost:3000",
            "http://[::1]:8080",
            "null",
            "chrome-extension://abc",
            "https://a.b:80",
        ),
    ),
    ("BASE_PATH", "/", "base_path", ""),
    ("BASE_PATH", "/g/", "base_path", "/g"),
    ("BASE_PATH", "/a/b", "base_path", "/a/b"),
    ("BODY_SIZE_LIMIT", "1G", "body_limit_bytes", 1024**3),
    ("BODY_SIZE_LIMIT", "10MB", "body_limit_bytes", 10 * 1024**2),
    ("ENABLE_PASSTHROUGH_ROUTES", "off", "passthrough", False),
    ("ALLOW_PASSTHROUGH_V1_ALIAS", "NO", "passthrough_v1_alias", False),
    ("ENABLED_PASSTHROUGH_PROVIDERS", "OpenAI, vLLM", "passthrough_types", frozenset({"openai", "vllm"})),
    ("PASSTHROUGH_ADMIN_ROUTES", "1", "passthrough_admin", True),
    ("HTTP_CONNECT_TIMEOUT", "500ms", "timeouts.connect_s", 0.5),
    ("HTTP_RESPONSE_HEADER_TIMEOUT", "1h30m", "timeouts.response_header_s", 5400.0),
    ("HTTP_STREAM_IDLE_TIMEOUT", "42", "timeouts.stream_idle_s", 42.0),
    ("HTTP_REQUEST_IDLE_TIMEOUT", "10m", "timeouts.request_idle_s", 600.0),
    ("HTTP_WRITE_IDLE_TIMEOUT", "7s", "timeouts.write_idle_s", 7.0),
    ("HTTP_TIMEOUT", "600", "timeouts.total_s", 600.0),
    ("HTTP_TIMEOUT", "0", "timeouts.total_s", None),
    ("HTTP_TIMEOUT", "none", "timeouts.total_s", None),
    ("HTTP_UPSTREAM_KEEPALIVE", "0", "timeouts.upstream_keepalive_s", 0.0),
    ("HTTP_CLIENT_KEEPALIVE", "75s", "timeouts.client_keepalive_s", 75.0),
    ("HTTP_HEADER_LIMIT", "1K", "header_limit_bytes", 1024),
    ("HTTP_HEADER_LIMIT", "1M", "header_limit_bytes", 1 << 20),
    ("RETRY_MAX_RETRIES", "0", "retry.max_retries", 0),
    ("RETRY_INITIAL_BACKOFF", "0", "retry.initial_backoff_s", 0.0),
    ("RETRY_MAX_BACKOFF", "30s", "retry.max_backoff_s", 30.0),
    ("RETRY_BACKOFF_FACTOR", "1", "retry.backoff_factor", 1.0),
    ("RETRY_JITTER_FACTOR", "1", "retry.jitter_factor", 1.0),
    ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "3", "breaker.failure_threshold", 3),
    ("CIRCUIT_BREAKER_SUCCESS_THRESHOLD", "2", "breaker.success_threshold", 2),
    ("CIRCUIT_BREAKER_TIMEOUT", "1m", "breaker.timeout_s", 60.0),
    ("QUEUE_LIMIT", "0", "queue_limit", 0),
    ("QUEUE_TIMEOUT", "2m", "queue_timeout_s", 120.0),
    ("CACHE_REFRESH_INTERVAL", "3600", "models_refresh_s", 3600.0),
    ("ROUTING", "least", "routing", "least"),
    (
        "MODEL_ALIASES",
        "gpt-4o=vllm/Qwen/Qwen3-32B, claude-* = m=1,*=vllm/m",
        "model_aliases",
        (("gpt-4o", "vllm/Qwen/Qwen3-32B"), ("claude-*", "m=1"), ("*", "vllm/m")),
    ),
    ("SESSION_HEADERS", "X-Chat-Id, x-foo", "session_headers", ("X-Chat-Id", "x-foo")),
    ("STRIP_REQUEST_HEADERS", "X-Session-ID, x-foo", "strip_request_headers", frozenset({"x-session-id", "x-foo"})),
    ("FORWARDED_ALLOW_IPS", "10.0.0.7, fd00::/8,unix", "forwarded_allow_ips", ("10.0.0.7", "fd00::/8", "unix")),
    ("FORWARDED_ALLOW_IPS", "*", "forwarded_allow_ips", ("*",)),
    ("METRICS_ENABLED", "false", "metrics_enabled", False),
    ("METRICS_ENDPOINT", "/internal/metrics/", "metrics_path", "/internal/metrics"),
    ("METRICS_ENDPOINT", "/healthz", "metrics_path", "/healthz"),
    ("METRICS_PUBLIC", "yes", "metrics_public", True),
    ("DIGEST", "all", "digest", "all"),
    ("REPLICA_GUARD", "exclude", "replica_guard", "exclude"),
    ("REPLICA_GUARD_GENERATES", "no", "replica_guard_generates", False),
    ("LOG_LEVEL", "DEBUG", "log_level", "debug"),
    ("LOG_LEVEL", "warn", "log_level", "warning"),
    ("LOG_LEVEL", "Warning", "log_level", "warning"),
    ("LOG_LEVEL", "error", "log_level", "error"),
    ("LOG_FORMAT", "JSON", "log_format", "json"),
    ("LOG_FORMAT", "text", "log_format", "text"),
    ("GOMODEL_WORKERS", "4", "workers", 4),
    ("GOMODEL_DRAIN_TIMEOUT", "0", "drain_s", 0.0),
    ("GOMODEL_WATCH", "5s", "watch_s", 5.0),
    ("GOMODEL_WATCH", "0", "watch_s", None),
    ("GOMODEL_DATA_DIR", "/var/lib/gomodel", "batches.data_dir", "/var/lib/gomodel"),
    ("FILE_SIZE_LIMIT", "1G", "batches.file_limit_bytes", 1024**3),
    ("FILE_TTL", "7d", "batches.file_ttl_s", 604800.0),
    ("BATCH_CONCURRENCY", "1", "batches.concurrency", 1),
    ("BATCH_PRIORITY", "0", "batches.priority", 0),
]


@pytest.mark.parametrize(("name", "text", "path", "value"), SETTINGS)
def test_a_variable_sets_this_field(name: str, text: str, path: str, value: object) -> None:
    actual = setting(from_environ({name: text}), path)
    assert actual == value
    assert type(actual) is type(value)


@pytest.mark.parametrize(("name", "text", "path", "value"), SETTINGS)
def test_a_variable_sets_no_other_field(name: str, text: str, path: str, value: object) -> None:
    def flat(config: Config) -> dict[str, object]:
        return {path: setting(config, path) for path, _ in DEFAULTS}

    changed = {path for path, value in flat(from_environ({name: text})).items() if value != dict(DEFAULTS)[path]}
    assert changed <= ({"port", "unix_socket"} if name == "GOMODEL_UNIX_SOCKET" else {path})


@pytest.mark.parametrize("name", sorted({name for name, *_ in SETTINGS} | {"TLS_CERT_FILE", "TLS_KEY_FILE"}))
def test_an_empty_variable_counts_as_unset(name: str) -> None:
    assert from_environ({name: ""}) == from_environ({})


def test_every_plain_variable_has_a_vector() -> None:
    spans = {name for name in PLAIN if name.startswith("OTEL_")}  # which make a setting together
    assert {name for name, *_ in SETTINGS} | {"TLS_CERT_FILE", "TLS_KEY_FILE", "GOMODEL_KEYS_FILE"} | spans == PLAIN


COLLECTOR = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
TRACES = [
    ({}, None),
    ({**COLLECTOR, "OTEL_TRACES_EXPORTER": "none"}, None),
    ({"OTEL_TRACES_EXPORTER": "otlp"}, None),
    (COLLECTOR, ("http://collector:4318", None, "gomodel", "parentbased_always_on", 1.0)),
    (
        {
            **COLLECTOR,
            "OTEL_EXPORTER_OTLP_HEADERS": "a=b",
            "OTEL_SERVICE_NAME": "front",
            "OTEL_TRACES_SAMPLER": "traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0.25",
        },
        ("http://collector:4318", Secret("a=b"), "front", "traceidratio", 0.25),
    ),
]


@pytest.mark.parametrize(("env", "expected"), TRACES)
def test_spans_are_made_where_a_collector_is_named(env: dict[str, str], expected: object) -> None:
    traces = from_environ(env).traces
    assert (None if traces is None else dataclasses.astuple(traces)) == expected


@pytest.mark.parametrize(
    "url",
    [
        "collector:4318",
        "grpc://collector:4317",
        "http://",
        "http://k:s3cret@collector",
        "http://[",
        "http://a/?k=s3cret",
    ],
)
def test_what_is_no_collector_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as refused:
        from_environ({"OTEL_EXPORTER_OTLP_ENDPOINT": url})
    [problem] = refused.value.problems
    assert problem.startswith("OTEL_EXPORTER_OTLP_ENDPOINT: is no URL such as http://collector:4318")
    assert "s3cret" not in problem


def test_a_collector_needs_the_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    for absent in (lambda name: None, _not_there):
        monkeypatch.setattr("gomodel.config.addresses.find_spec", absent)
        with pytest.raises(ConfigError, match=r"gomodel\[otel\]"):
            from_environ(COLLECTOR)


def _not_there(name: str) -> None:
    raise ModuleNotFoundError(name)


DATABASES = [
    "postgresql://user:s3cret@db.example:5432/gomodel",
    "postgres://db.example/gomodel",
    "postgresql:///gomodel?host=/run/postgresql",
]


@pytest.mark.parametrize("url", DATABASES)
def test_a_database_stands_beside_a_data_directory(url: str) -> None:
    config = from_environ({"GOMODEL_DATA_DIR": "/data", "GOMODEL_DATABASE_URL": url})
    assert config.batches.database_url == Secret(url)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///x",
        "mysql://user:s3cret@db/x",
        "postgresql://user:s3cret@db:port/x",
        "postgresql://user:s3cret@db",
        "db/s3cret",
    ],
)
def test_another_database_is_a_problem_without_its_url(url: str) -> None:
    (problem,) = problems({"GOMODEL_DATA_DIR": "/data", "GOMODEL_DATABASE_URL": url})
    assert problem.startswith("GOMODEL_DATABASE_URL: ")
    assert "s3cret" not in problem


def test_a_database_without_a_data_directory_is_a_problem() -> None:
    assert blamed({"GOMODEL_DATABASE_URL": DATABASES[0]}) == ["GOMODEL_DATABASE_URL"]


def test_what_batches_need_and_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gomodel.config.load.find_spec", lambda name: None if name == "alembic" else True)
    (problem,) = problems({"GOMODEL_DATA_DIR": "/data"})
    assert problem == "GOMODEL_DATA_DIR: needs pip install 'gomodel[batch]': alembic is missing"
    assert from_environ({}).batches.data_dir is None


@pytest.mark.parametrize("cpus", [{0}, {2, 5, 7}])
def test_auto_workers_are_one_per_cpu_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch, cpus: set[int]) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: cpus, raising=False)
    assert from_environ({"GOMODEL_WORKERS": "Auto"}).workers == len(cpus)


@pytest.mark.parametrize(("cpus", "workers"), [(8, 8), (1, 1), (None, 1)])
def test_auto_workers_are_one_per_cpu_where_no_more_is_known(
    monkeypatch: pytest.MonkeyPatch, cpus: int | None, workers: int
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    assert from_environ({"GOMODEL_WORKERS": "Auto"}).workers == workers


@pytest.mark.parametrize("port", ["8080", "0", "9000"])
def test_a_unix_socket_with_a_port_listens_on_both(port: str) -> None:
    config = from_environ({"GOMODEL_UNIX_SOCKET": "/run/g.sock", "PORT": port})
    assert (config.unix_socket, config.port) == ("/run/g.sock", int(port))


REFUSED = [
    *[("CONFIGURED_PROVIDER_MODELS_MODE", text) for text in ("both", "allow", "1")],
    *[("HOST", text) for text in ("*", "http://0.0.0.0", "0.0.0.0:80", "a b", "999.0.0.1")],
    *[("PORT", text) for text in ("65536", "-1", "http", "8080.0", "tcp://10.0.0.1:8080", " ")],
    *[("GOMODEL_UNIX_SOCKET", text) for text in ("g.sock", "/", "/run/", "/" + "a" * 107)],
    *[("MODEL_IDS", text) for text in ("none", "prefixed,bare")],
    *[
        ("CORS_ALLOW_ORIGINS", text)
        for text in ("app.example", "https://app.example/", "https://*.example", "https://a:443", "http://a:80", "a://")
    ],
    *[("BASE_PATH", text) for text in ("g", "//", "/a//b", "/a/../b", "/a/.", "/a?b", "/a#b", "/a%20b", "/a b")],
    *[("GOMODEL_DATA_DIR", text) for text in ("data", "./data", "~/data")],
    *[("FILE_SIZE_LIMIT", text) for text in ("0", "much")],
    *[("FILE_TTL", text) for text in ("0", "59m", "3651d", "month")],
    *[("BATCH_CONCURRENCY", text) for text in ("0", "10001", "many")],
    *[("BATCH_PRIORITY", text) for text in ("-1", "low")],
    *[("BODY_SIZE_LIMIT", text) for text in ("0", "-1", "1.5M", "ten", "10T")],
    *[
        (name, text)
        for name in (
            *("ENABLE_PASSTHROUGH_ROUTES", "ALLOW_PASSTHROUGH_V1_ALIAS", "PASSTHROUGH_ADMIN_ROUTES"),
            *("METRICS_ENABLED", "METRICS_PUBLIC"),
        )
        for text in ("maybe", "2", "t")
    ],
    ("ENABLED_PASSTHROUGH_PROVIDERS", ","),
    *[
        (name, text)
        for name in (
            *(
                "HTTP_CONNECT_TIMEOUT",
                "HTTP_RESPONSE_HEADER_TIMEOUT",
                "HTTP_STREAM_IDLE_TIMEOUT",
                "CACHE_REFRESH_INTERVAL",
            ),
            *("HTTP_REQUEST_IDLE_TIMEOUT", "HTTP_WRITE_IDLE_TIMEOUT", "CIRCUIT_BREAKER_TIMEOUT"),
            "HTTP_CLIENT_KEEPALIVE",
        )
        for text in ("0", "0s", "-1", "5 s", "forever", "1e9")
    ],
    *[
        (name, text)
        for name in (
            *("HTTP_UPSTREAM_KEEPALIVE", "RETRY_INITIAL_BACKOFF", "RETRY_MAX_BACKOFF", "GOMODEL_DRAIN_TIMEOUT"),
            "HTTP_TIMEOUT",
        )
        for text in ("-1", "-1s", "5 s", "forever")
    ],
    *[("HTTP_HEADER_LIMIT", text) for text in ("0", "1023", "2M", "-1", "8 K", "much")],
    *[("RETRY_MAX_RETRIES", text) for text in ("-1", "101", "2.0", "two")],
    *[("RETRY_BACKOFF_FACTOR", text) for text in ("0.9", "0", "-2", "nan", "inf", "1001")],
    *[("RETRY_JITTER_FACTOR", text) for text in ("1.1", "-0.1", "10%", "nan")],
    *[("CIRCUIT_BREAKER_FAILURE_THRESHOLD", text) for text in ("0", "-1", "1.5")],
    *[("CIRCUIT_BREAKER_SUCCESS_THRESHOLD", text) for text in ("0", "-1", "one")],
    *[
        ("MODEL_ALIASES", text)
        for text in (
            "gpt-4o",
            "=vllm/m",
            "gpt-4o=",
            "a*b*=vllm/m",
            "a=vllm/*",
            "a=vllm/m,a=vllm/n",
            "a=a",
            "a=b,b=vllm/m",
            "a=vllm/m\x01",
            "a=vllm-b/m",
            "a=vllm",
            "a=vllm/",
            "vllm/a=vllm/m",
        )
    ],
    *[("ROUTING", text) for text in ("round-robin", "Affinity ,")],
    *[("SESSION_HEADERS", text) for text in ("X Foo", "X-Foo:", "Content-Length", "x-chat,Authorization", "Cookie")],
    *[("STRIP_REQUEST_HEADERS", text) for text in ("X Foo", "X-Foo:", "Content-Length", "a,transfer-encoding")],
    *[
        ("METRICS_ENDPOINT", text)
        for text in (
            *(
                "metrics",
                "/",
                "//",
                "/health",
                "/health/",
                "/health/ready",
                "/health/x",
                "/v1/models",
                "/v1",
                "/v2/x",
                "/p/x",
            ),
            *("/inference/v1", "/m?x", "/m/../x", "/%6d"),
            *("/admin", "/admin/requests", "/admin/requests/x", "/cohere/v2/chat", "/cohere/x", "/score/", "/p"),
            *("/tokenize", "/detokenize", "/pooling", "/classify", "/score", "/rerank", "/invocations"),
            "/generative_scoring",
        )
    ],
    *[
        ("FORWARDED_ALLOW_IPS", text)
        for text in ("localhost", "10.0.0.256", "10.0.0.1/8", "10.0.0.0/33", "**", "1.2.3.4:80")
    ],
    *[("LOG_LEVEL", text) for text in ("trace", "critical", "10", "warnings")],
    *[("LOG_FORMAT", text) for text in ("xml", "logfmt", "1")],
    *[("GOMODEL_WORKERS", text) for text in ("0", "-1", "cpu", "1.5", "1025")],
]


@pytest.mark.parametrize(("name", "text"), REFUSED)
def test_a_value_outside_its_range_is_a_problem_naming_the_variable(name: str, text: str) -> None:
    assert blamed({name: text}) == [name]


def test_all_problems_are_reported_at_once() -> None:
    environ = dict.fromkeys(PLAIN, "${X}") | {
        "GOMODEL_MASTER_KEY": "a b",
        "VLLM_BASE_URL": "gpu",
        "VLLM_API_KEY": "a b",
        "VLLM_MODELS": ",",
        "VLLM_A_API_KEY": "k",
        "VLLM_B_BASE_URL": "ftp://gpu",
    }
    assert sorted(blamed(environ)) == sorted(environ)


def test_problems_come_out_in_a_fixed_order() -> None:
    environ = {"PORT": "x", "HOST": "*", "VLLM_B_API_KEY": "b", "VLLM_A_API_KEY": "a", "GOMODEL_MASTER_KEY": " "}
    reverse = dict(reversed(environ.items()))
    assert problems(environ) == problems(reverse)
    assert blamed(environ) == ["GOMODEL_MASTER_KEY", "HOST", "PORT", "VLLM_A_API_KEY", "VLLM_B_API_KEY"]


@pytest.mark.parametrize(
    "name",
    [
        *VARIABLES,
        "VLLM_API_KEY_FILE",
        "VLLM_TEST_MODELS",
    ],
)
@pytest.mark.parametrize("text", ["${SECRET_NAME}", "http://${GPU}:8000/v1", "${A:-b}"])
def test_an_unresolved_reference_is_a_problem_whatever_the_variable(name: str, text: str) -> None:
    assert problems({name: text})[0] == f"{name}: holds an unresolved ${{...}}; write out what it stands for"


INSTANCES = [
    ({}, [("vllm", "http://localhost:8000/v1")]),
    ({"VLLM_BASE_URL": "http://gpu:8000/v1"}, [("vllm", "http://gpu:8000/v1")]),
    ({"VLLM_BASE_URL": "http://gpu:8000/v1/"}, [("vllm", "http://gpu:8000/v1")]),
    ({"VLLM_BASE_URL": " http://gpu:8000/v1\n"}, [("vllm", "http://gpu:8000/v1")]),
    ({"VLLM_BASE_URL": ""}, [("vllm", "http://localhost:8000/v1")]),
    ({"VLLM_API_KEY": "k"}, [("vllm", "http://localhost:8000/v1")]),
    ({"VLLM_MODELS": "m"}, [("vllm", "http://localhost:8000/v1")]),
    ({"VLLM_TEST_BASE_URL": "http://gpu/v1"}, [("vllm-test", "http://gpu/v1")]),
    ({"VLLM_TEST_BASE_URL": "http://gpu/v1", "VLLM_BASE_URL": ""}, [("vllm-test", "http://gpu/v1")]),
    ({"VLLM_TEST_BASE_URL": "http://gpu/v1", "VLLM_API_KEY": ""}, [("vllm-test", "http://gpu/v1")]),
    (
        {"VLLM_TEST_BASE_URL": "http://gpu/v1", "VLLM_API_KEY": "k"},
        [("vllm", "http://localhost:8000/v1"), ("vllm-test", "http://gpu/v1")],
    ),
    (
        {"VLLM_TEST_BASE_URL": "http://gpu/v1", "VLLM_MODELS": "m"},
        [("vllm", "http://localhost:8000/v1"), ("vllm-test", "http://gpu/v1")],
    ),
    ({"VLLM_EU_WEST_2_BASE_URL": "http://gpu/v1"}, [("vllm-eu-west-2", "http://gpu/v1")]),
    ({"VLLM_Test_BASE_URL": "http://gpu/v1"}, [("vllm-test", "http://gpu/v1")]),
    ({"VLLM_test_BASE_URL": "http://gpu/v1"}, [("vllm-test", "http://gpu/v1")]),
    ({"VLLM_2_BASE_URL": "http://gpu/v1"}, [("vllm-2", "http://gpu/v1")]),
    ({"VLLM_eu-west_BASE_URL": "http://gpu/v1"}, [("vllm-eu-west", "http://gpu/v1")]),
    ({"VLLM_V1.5_BASE_URL": "http://gpu/v1"}, [("vllm-v1.5", "http://gpu/v1")]),
    ({"VLLM_MODELS_BASE_URL": "http://gpu/v1"}, [("vllm-models", "http://gpu/v1")]),
    ({"VLLM_API_KEY_BASE_URL": "http://gpu/v1"}, [("vllm-api-key", "http://gpu/v1")]),
    ({"VLLM_API_KEY_FILE_BASE_URL": "http://gpu/v1"}, [("vllm-api-key-file", "http://gpu/v1")]),
    ({"VLLM_BASE_URL_BASE_URL": "http://gpu/v1"}, [("vllm-base-url", "http://gpu/v1")]),
    ({"VLLM_API_BASE_URL": "http://gpu/v1"}, [("vllm-api", "http://gpu/v1")]),
    (
        {"VLLM_A_B_BASE_URL": "http://one/v1", "VLLM_A__B_BASE_URL": "http://two/v1"},
        [("vllm-a--b", "http://two/v1"), ("vllm-a-b", "http://one/v1")],
    ),
    (
        {"VLLM_ZETA_BASE_URL": "http://z/v1", "VLLM_BASE_URL": "http://x/v1", "VLLM_ALPHA_BASE_URL": "http://a/v1"},
        [("vllm", "http://x/v1"), ("vllm-alpha", "http://a/v1"), ("vllm-zeta", "http://z/v1")],
    ),
    (
        {"VLLM_b_BASE_URL": "http://b/v1", "VLLM_C_BASE_URL": "http://c/v1", "VLLM_A_BASE_URL": "http://a/v1"},
        [("vllm-a", "http://a/v1"), ("vllm-b", "http://b/v1"), ("vllm-c", "http://c/v1")],
    ),
    (
        {"VLLM_10_BASE_URL": "http://ten/v1", "VLLM_2_BASE_URL": "http://two/v1"},
        [("vllm-10", "http://ten/v1"), ("vllm-2", "http://two/v1")],
    ),
]


@pytest.mark.parametrize(("environ", "instances"), INSTANCES)
def test_an_environment_registers_these_instances(environ: dict[str, str], instances: list[tuple[str, str]]) -> None:
    assert [
        (each.name, *(server.base_url for server in each.servers)) for each in from_environ(environ).instances
    ] == instances


@pytest.mark.parametrize(
    "name",
    [
        *("VLLM_USE_V1", "VLLM_HOST_IP", "VLLM_PORT", "VLLM_HTTP_TIMEOUT_KEEP_ALIVE", "VLLM_SERVER_DEV_MODE"),
        *("VLLM_USE_MODELSCOPE", "VLLM_BUILD_URL", "VLLM_MEDIA_URL_ALLOW_REDIRECTS", "VLLM_LOGGING_CONFIG_PATH"),
        *("VLLM_SERVICE_HOST", "VLLM_SERVICE_PORT", "VLLM_PORT_8000_TCP_ADDR", "VLLM", "VLLM_", "XVLLM_BASE_URL"),
        *("MY_VLLM_BASE_URL", "VLLM_MODEL", "VLLM_TEST_MODELS_DIR", "VLLM_CACHE_ROOT", "VLLM_BASE_URL_"),
    ],
)
def test_other_variables_of_vllm_and_of_the_platform_are_ignored(name: str) -> None:
    assert from_environ({**QUIET, name: "x"}) == from_environ(QUIET)


FIELDS = [
    ("VLLM_", "vllm"),
    ("VLLM_TEST_", "vllm-test"),
    ("VLLM_EU_WEST_2_", "vllm-eu-west-2"),
    ("VLLM_MODELS_", "vllm-models"),
    ("VLLM_API_KEY_", "vllm-api-key"),
    ("VLLM_API_KEY_FILE_", "vllm-api-key-file"),
    ("VLLM_FILE_", "vllm-file"),
    ("VLLM_BASE_URL_", "vllm-base-url"),
    ("VLLM_VLLM_", "vllm-vllm"),
]


@pytest.mark.parametrize(("prefix", "name"), FIELDS)
def test_the_fields_of_an_instance_belong_together(prefix: str, name: str) -> None:
    environ = {f"{prefix}BASE_URL": "http://gpu/v1", f"{prefix}API_KEY": "sk-1", f"{prefix}MODELS": "b, a,b"}
    assert from_environ(environ).instances == (
        InstanceConfig(name, (Server("http://gpu/v1"),), Secret("sk-1"), ("b", "a")),
    )


@pytest.mark.parametrize(("prefix", "name"), FIELDS)
def test_the_key_of_an_instance_can_be_in_a_file(tmp_path: Path, prefix: str, name: str) -> None:
    (tmp_path / "key").write_text("sk-1\n")
    environ = {f"{prefix}BASE_URL": "http://gpu/v1", f"{prefix}API_KEY_FILE": str(tmp_path / "key")}
    assert from_environ(environ).instances == (InstanceConfig(name, (Server("http://gpu/v1"),), Secret("sk-1"), ()),)


def test_keys_of_one_instance_do_not_reach_another() -> None:
    environ = {"VLLM_BASE_URL": "http://a/v1", "VLLM_API_KEY": "k", "VLLM_TEST_BASE_URL": "http://b/v1"}
    assert [instance.api_key for instance in from_environ(environ).instances] == [Secret("k"), None]


def test_a_unix_base_url_gives_socket_and_placeholder_host() -> None:
    (instance,) = from_environ({"VLLM_BASE_URL": "unix:///run/vllm.sock:/v1"}).instances
    assert instance.servers == (Server("http://localhost/v1", "/run/vllm.sock"),)


def test_the_assumed_default_instance_keeps_key_and_models() -> None:
    (instance,) = from_environ({"VLLM_API_KEY": "k", "VLLM_MODELS": "m"}).instances
    assert instance == InstanceConfig("vllm", (Server("http://localhost:8000/v1"),), Secret("k"), ("m",))


BAD_INSTANCES: list[tuple[dict[str, str], list[str]]] = [
    ({"VLLM_TEST_API_KEY": "k"}, ["VLLM_TEST_API_KEY"]),
    ({"VLLM_TEST_MODELS": "m"}, ["VLLM_TEST_MODELS"]),
    ({"VLLM_TEST_MODELS": "m", "VLLM_TEST_API_KEY": "k"}, ["VLLM_TEST_API_KEY", "VLLM_TEST_MODELS"]),
    ({"VLLM_TEST_API_KEY": "k", "VLLM_TEST_BASE_URL": ""}, ["VLLM_TEST_API_KEY"]),
    ({"VLLM_TEST_API_KEY": "k", "VLLM_BASE_URL": "http://a/v1"}, ["VLLM_TEST_API_KEY"]),
    ({"VLLM_API_KEY_MODELS": "m"}, ["VLLM_API_KEY_MODELS"]),
    ({"VLLM_TEST_BASE_URL": "http://a/v1", "VLLM_Test_BASE_URL": "http://b/v1"}, ["VLLM_Test_BASE_URL"]),
    ({"VLLM_TEST_BASE_URL": "http://a/v1", "VLLM_Test_API_KEY": "k"}, ["VLLM_Test_API_KEY"]),
    ({"VLLM_A_B_BASE_URL": "http://a/v1", "VLLM_A-B_BASE_URL": "http://b/v1"}, ["VLLM_A_B_BASE_URL"]),
    (
        {"VLLM_X_BASE_URL": "http://a/v1", "VLLM_x_BASE_URL": "http://b/v1", "VLLM_x_MODELS": "m"},
        ["VLLM_x_BASE_URL"],
    ),
    ({"VLLM__BASE_URL": "http://a/v1"}, ["VLLM__BASE_URL"]),
    ({"VLLM__API_KEY": "k", "VLLM_BASE_URL": "http://a/v1"}, ["VLLM__API_KEY"]),
    ({"VLLM_a/b_BASE_URL": "http://a/v1"}, ["VLLM_a/b_BASE_URL"]),
    ({"VLLM_a b_BASE_URL": "http://a/v1"}, ["VLLM_a b_BASE_URL"]),
    ({"VLLM_ä_BASE_URL": "http://a/v1"}, ["VLLM_\\xe4_BASE_URL"]),
    ({"VLLM_a\nb_BASE_URL": "http://a/v1"}, ["VLLM_a\\nb_BASE_URL"]),
    ({"VLLM_MODELS": " , "}, ["VLLM_MODELS"]),
    *[
        ({"VLLM_BASE_URL": text}, ["VLLM_BASE_URL"])
        for text in (
            *(
                "gpu:8000",
                "ftp://gpu/v1",
                "http://",
                "http:///v1",
                "http://u:pw@gpu/v1",
                "http://gpu/v1?a=b",
                "http://gpu/v1#a",
            ),
            *(
                "http://gpu/${X}",
                "http://gpu:0/v1",
                "http://gpu:99999/v1",
                "unix://run/x.sock",
                " ",
                "http://gpu/../v1",
            ),
        )
    ],
]


@pytest.mark.parametrize(("environ", "names"), BAD_INSTANCES)
def test_a_bad_instance_is_a_problem_naming_its_variables(environ: dict[str, str], names: list[str]) -> None:
    assert blamed(environ) == names


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"VLLM_TEST_BASE_URL": "http://a/v1", "VLLM_Test_BASE_URL": "http://b/v1"},
            "VLLM_Test_BASE_URL: and VLLM_TEST_BASE_URL both describe the instance vllm-test; keep one spelling",
        ),
        (
            {"VLLM_TEST_API_KEY": "k"},
            "VLLM_TEST_API_KEY: is set but VLLM_TEST_BASE_URL is not; the instance vllm-test has no address",
        ),
        (
            {"VLLM__BASE_URL": "http://a/v1"},
            "VLLM__BASE_URL: has no usable instance name; use letters, digits and _ between VLLM_ and _BASE_URL",
        ),
    ],
)
def test_a_bad_instance_is_explained(environ: dict[str, str], expected: str) -> None:
    assert problems(environ) == (expected,)


OWN_LISTENER = [
    ({"VLLM_BASE_URL": "http://localhost:8080/v1"}, True),
    ({"VLLM_BASE_URL": "http://LOCALHOST.:8080/v1"}, True),
    ({"VLLM_BASE_URL": "http://gateway.localhost:8080/v1"}, True),
    ({"VLLM_BASE_URL": "http://127.0.0.1:8080/v1"}, True),
    ({"VLLM_BASE_URL": "http://127.1.2.3:8080/v1"}, True),
    ({"VLLM_BASE_URL": "http://0.0.0.0:8080/v1"}, True),
    ({"VLLM_BASE_URL": "http://[::1]:8080/v1"}, True),
    ({"VLLM_BASE_URL": "http://[::]:8080/v1"}, True),
    ({"VLLM_BASE_URL": "http://[::ffff:127.0.0.1]:8080/v1"}, True),
    ({"VLLM_BASE_URL": "https://localhost:8080/v1"}, True),
    ({"VLLM_BASE_URL": "http://localhost/v1", "PORT": "80"}, True),
    ({"VLLM_BASE_URL": "https://localhost/v1", "PORT": "443"}, True),
    ({"VLLM_BASE_URL": "http://localhost:9000/v1", "PORT": "9000", "HOST": "127.0.0.1"}, True),
    ({"VLLM_BASE_URL": "http://127.0.0.1:9000/v1", "PORT": "9000", "HOST": "localhost"}, True),
    ({"VLLM_BASE_URL": "http://0.0.0.0:9000/v1", "PORT": "9000", "HOST": "127.0.0.1"}, True),
    ({"VLLM_BASE_URL": "http://10.0.0.5:9000/v1", "PORT": "9000", "HOST": "10.0.0.5"}, True),
    ({"VLLM_BASE_URL": "http://gpu:9000/v1", "PORT": "9000", "HOST": "GPU"}, True),
    ({"VLLM_TEST_BASE_URL": "http://localhost:8080/v1"}, True),
    ({"PORT": "8000"}, True),
    ({"PORT": "8000", "VLLM_API_KEY": "k"}, True),
    ({"GOMODEL_UNIX_SOCKET": "/run/g.sock", "VLLM_BASE_URL": "unix:///run/g.sock:/v1"}, True),
    ({"GOMODEL_UNIX_SOCKET": "/run/g.sock", "PORT": "80", "VLLM_BASE_URL": "http://localhost/v1"}, True),
    ({"VLLM_BASE_URL": "http://localhost:8081/v1"}, False),
    ({"VLLM_BASE_URL": "http://gpu:8080/v1"}, False),
    ({"VLLM_BASE_URL": "http://10.0.0.5:8080/v1"}, False),
    ({"VLLM_BASE_URL": "http://localhost.example:8080/v1"}, False),
    ({"VLLM_BASE_URL": "http://localhost:8080/v1", "HOST": "10.0.0.5"}, False),
    ({"VLLM_BASE_URL": "http://127.0.0.1:8080/v1", "HOST": "127.0.0.2"}, False),
    ({"VLLM_BASE_URL": "http://127.0.0.1:8080/v1", "HOST": "::1"}, False),
    ({"VLLM_BASE_URL": "http://localhost/v1"}, False),
    ({"VLLM_BASE_URL": "http://localhost:8000/v1", "PORT": "0"}, False),
    ({"VLLM_BASE_URL": "unix:///run/vllm.sock:/v1", "PORT": "80"}, False),
    ({"VLLM_BASE_URL": "unix:///run/vllm.sock:/v1", "GOMODEL_UNIX_SOCKET": "/run/g.sock"}, False),
    ({"VLLM_BASE_URL": "http://localhost:8080/v1", "GOMODEL_UNIX_SOCKET": "/run/g.sock"}, False),
]


@pytest.mark.parametrize(("environ", "own"), OWN_LISTENER)
def test_a_base_url_at_our_own_listener_is_a_problem(environ: dict[str, str], own: bool) -> None:
    if own:
        (problem,) = problems(environ)
        assert "points at gomodel's own listener" in problem
        assert problem.startswith("VLLM_")
    else:
        assert from_environ(environ).instances


def test_a_refused_port_accuses_no_base_url() -> None:
    assert blamed({"PORT": "80800", "VLLM_BASE_URL": "http://localhost:8080/v1"}) == ["PORT"]


UNUSABLE_KEYS = ["a b", " ", " k", "k ", "k\n", "k\t", "k\x00", "k\x7f", "clé", "k\u00a0", "ключ", "k\udc80", "${KEY}"]
SECRETS = ["GOMODEL_MASTER_KEY", "VLLM_API_KEY", "VLLM_TEST_API_KEY"]
ADDRESSES = {"VLLM_BASE_URL": "http://a/v1", "VLLM_TEST_BASE_URL": "http://b/v1"}


def the_secret(config: Config, name: str) -> Secret | None:
    keys = {"GOMODEL_MASTER_KEY": next(iter(config.master_keys), None)}
    keys["VLLM_API_KEY"], keys["VLLM_TEST_API_KEY"] = (instance.api_key for instance in config.instances)
    return keys[name]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("key", UNUSABLE_KEYS)
def test_a_key_that_cannot_be_a_bearer_token_is_a_problem_without_the_key(name: str, key: str) -> None:
    (problem,) = problems({**ADDRESSES, name: f"hunter2{key}"})
    assert problem.startswith(f"{name}: holds ")
    assert "hunter2" not in problem


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("key", UNUSABLE_KEYS[:3])
def test_a_blank_key_is_never_taken_for_none(name: str, key: str) -> None:
    assert blamed({**ADDRESSES, name: key}) == [name]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    ("content", "key"),
    [
        (b"sk-1", "sk-1"),
        (b"sk-1\n", "sk-1"),
        (b"sk-1\r\n", "sk-1"),
        (b"a${b}c\n", "a${b}c"),
        (b"!~", "!~"),
        (b"k" * 8000, "k" * 8000),
    ],
)
def test_a_key_file_gives_the_key_without_one_newline(tmp_path: Path, name: str, content: bytes, key: str) -> None:
    (tmp_path / "key").write_bytes(content)
    config = from_environ({**ADDRESSES, f"{name}_FILE": str(tmp_path / "key")})
    assert the_secret(config, name) == Secret(key)


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"\r\n", "is empty"),
        (b"hunter2\n\n", "holds whitespace"),
        (b"hunter2\r", "holds whitespace"),
        (b" hunter2", "holds whitespace"),
        (b"hunter2 x\n", "holds whitespace"),
        (b"hunter2\x00", "holds whitespace"),
        (b"hunter2\xff", "holds whitespace"),
        (b"\xef\xbb\xbfhunter2", "holds whitespace"),
        (b"hunter2" * 1200, "cannot be read: it holds more than 8000 bytes"),
    ],
)
def test_an_unusable_key_file_is_a_problem_without_the_key(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    (problem,) = problems({**ADDRESSES, f"{name}_FILE": str(path)})
    assert problem.startswith(f"{name}_FILE: '{path}' {message}")
    assert "hunter2" not in problem


@pytest.mark.parametrize("name", [*(f"{name}_FILE" for name in SECRETS), "TLS_CERT_FILE"])
@pytest.mark.parametrize(("place", "reason"), [("missing", "No such file or directory"), ("", "Is a directory")])
def test_an_unreadable_file_is_a_problem_naming_variable_and_path(
    tmp_path: Path, name: str, place: str, reason: str
) -> None:
    (tmp_path / "key.pem").write_text("x")
    path = tmp_path / place
    tls = {"TLS_KEY_FILE": str(tmp_path / "key.pem")} if name == "TLS_CERT_FILE" else {}
    assert problems({**ADDRESSES, **tls, name: str(path)}) == (f"{name}: '{path}' cannot be read: {reason}",)


@pytest.mark.parametrize("name", [*(f"{name}_FILE" for name in SECRETS), "TLS_CERT_FILE"])
def test_a_path_that_is_none_is_a_problem(name: str) -> None:
    assert name in blamed({**ADDRESSES, name: "/run/a\x00b"})


@pytest.mark.parametrize("name", SECRETS)
def test_a_key_and_its_file_together_are_a_problem(tmp_path: Path, name: str) -> None:
    (tmp_path / "key").write_text("hunter2")
    (problem,) = problems({**ADDRESSES, name: "hunter3", f"{name}_FILE": str(tmp_path / "key")})
    assert problem == f"{name}: is set and so is {name}_FILE; keep one of the two"


@pytest.mark.parametrize("name", SECRETS)
def test_an_empty_file_variable_leaves_the_key_alone(name: str) -> None:
    assert the_secret(from_environ({**ADDRESSES, name: "k", f"{name}_FILE": ""}), name) == Secret("k")


def test_a_key_file_alone_registers_the_default_instance(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("k")
    (instance,) = from_environ({"VLLM_API_KEY_FILE": str(tmp_path / "key")}).instances
    assert instance == dataclasses.replace(LOCAL, api_key=Secret("k"))


def test_tls_takes_both_files(tmp_path: Path) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_text("c")
    key.write_text("k")
    config = from_environ({"TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key)})
    assert config.certificate == Certificate(b"c", b"k")


@pytest.mark.parametrize(("name", "other"), [("TLS_CERT_FILE", "TLS_KEY_FILE"), ("TLS_KEY_FILE", "TLS_CERT_FILE")])
def test_tls_with_one_file_is_a_problem(tmp_path: Path, name: str, other: str) -> None:
    (tmp_path / "pem").write_text("x")
    assert problems({name: str(tmp_path / "pem")}) == (f"{name}: is set but {other} is not; TLS needs both",)


OPEN = "GOMODEL_MASTER_KEY is not set: every route is open to whoever reaches the listener"
OPEN_HERE = (
    "GOMODEL_MASTER_KEY is not set: every route is open to everybody on this host, "
    "which alone is served unless HOST is set"
)
ASSUMED = "VLLM_BASE_URL is not set: instance vllm is assumed at http://localhost:8000/v1"
NO_V1 = "VLLM_BASE_URL does not end in /v1; it is used as given"
WARNINGS: list[tuple[dict[str, str], list[str]]] = [
    ({}, []),
    ({"VLLM_BASE_URL": ""}, [ASSUMED]),
    ({"VLLM_BASE_URL": "", "VLLM_API_KEY": "k"}, [ASSUMED]),
    ({"VLLM_BASE_URL": "", "VLLM_A_BASE_URL": "http://a/v1"}, []),
    ({"VLLM_BASE_URL": "", "VLLM_A_BASE_URL": "http://a/v1", "VLLM_MODELS": "m"}, [ASSUMED]),
    ({"GOMODEL_MASTER_KEY": ""}, [OPEN_HERE]),
    ({"GOMODEL_MASTER_KEY": "", "HOST": "0.0.0.0"}, [OPEN]),
    ({"GOMODEL_MASTER_KEY": "", "GOMODEL_UNIX_SOCKET": "/run/g.sock"}, [OPEN]),
    (
        {"GOMODEL_MASTER_KEY": "", "CORS_ALLOW_ORIGINS": "*"},
        [
            OPEN_HERE,
            "CORS_ALLOW_ORIGINS is * without a key: every web page may use the gateway that its reader can reach",
        ],
    ),
    ({"VLLM_BASE_URL": "http://gpu:8000"}, [NO_V1]),
    ({"VLLM_BASE_URL": "http://gpu:8000/"}, [NO_V1]),
    ({"VLLM_BASE_URL": "http://v1"}, [NO_V1]),
    ({"VLLM_BASE_URL": "http://gpu/xv1"}, [NO_V1]),
    ({"VLLM_BASE_URL": "http://gpu/V1"}, [NO_V1]),
    ({"VLLM_BASE_URL": "http://gpu/v1/chat/completions"}, [NO_V1]),
    ({"VLLM_BASE_URL": "unix:///run/vllm.sock"}, [NO_V1]),
    ({"VLLM_BASE_URL": "http://gpu/team/v1"}, []),
    ({"VLLM_BASE_URL": "unix:///run/vllm.sock:/v1"}, []),
    ({"VLLM_A_BASE_URL": "http://a"}, [NO_V1.replace("VLLM_", "VLLM_A_")]),
    (
        {"GOMODEL_UNIX_SOCKET": "/run/g.sock", "HOST": "::"},
        ["HOST has no effect: with GOMODEL_UNIX_SOCKET, TCP is listened on only when PORT is set"],
    ),
    ({"GOMODEL_UNIX_SOCKET": "/run/g.sock", "HOST": "::", "PORT": "80"}, []),
    (
        {"ENABLED_PASSTHROUGH_PROVIDERS": "openai"},
        ["ENABLED_PASSTHROUGH_PROVIDERS does not name vllm: every /p/ route answers 404"],
    ),
    ({"ENABLED_PASSTHROUGH_PROVIDERS": "openai", "ENABLE_PASSTHROUGH_ROUTES": "no"}, []),
    (
        {"RETRY_INITIAL_BACKOFF": "3s"},
        ["RETRY_INITIAL_BACKOFF is longer than RETRY_MAX_BACKOFF, which limits every wait"],
    ),
    ({"RETRY_INITIAL_BACKOFF": "2s"}, []),
    (
        {"HTTP_UPSTREAM_KEEPALIVE": "5s"},
        ["HTTP_UPSTREAM_KEEPALIVE is not below the 5s after which vLLM's server closes idle connections"],
    ),
    ({"HTTP_UPSTREAM_KEEPALIVE": "4.9s"}, []),
    (
        {"GOMODEL_REDIS_URL": "redis://redis"},
        ["GOMODEL_REDIS_URL has no effect without GOMODEL_KEYS_FILE: there are no limits to share"],
    ),
]


@pytest.mark.parametrize(("environ", "warnings"), WARNINGS)
def test_an_environment_is_worth_these_warnings(environ: dict[str, str], warnings: list[str]) -> None:
    assert list(from_environ({**QUIET, **environ}).warnings) == warnings


NEAR_MISSES = [
    ("GOMODEL_WORKER", "4", "GOMODEL_WORKERS"),
    ("GOMODEL_MASTERKEY", "hunter2", "GOMODEL_MASTER_KEY"),
    ("GOMODEL_MASTER_KEYFILE", "/x", "GOMODEL_MASTER_KEY_FILE"),
    ("MASTER_KEY", "hunter2", "GOMODEL_MASTER_KEY"),
    ("GOMODEL_PORT", "9000", "PORT"),
    ("GOMODEL_HOST", "::", "HOST"),
    ("GOMODEL_LOG_LEVEL", "debug", "LOG_LEVEL"),
    ("GOMODEL_VLLM_BASE_URL", "http://gpu/v1", "VLLM_BASE_URL"),
    ("GOMODEL_DRAIN", "1", "GOMODEL_DRAIN_TIMEOUT"),
    ("gomodel_workers", "4", "GOMODEL_WORKERS"),
    ("log_level", "debug", "LOG_LEVEL"),
    ("vllm_base_url", "http://gpu/v1", "VLLM_BASE_URL"),
    ("VLLM_test_base_url", "http://gpu/v1", "VLLM_TEST_BASE_URL"),
    ("VLLM_API_BASE", "http://gpu/v1", "VLLM_BASE_URL"),
    ("VLLM_BASEURL", "http://gpu/v1", "VLLM_BASE_URL"),
    ("VLLM_EU_BASE_URLS", "http://gpu/v1", "VLLM_EU_BASE_URL"),
    ("VLLM_EU_API_KEYS", "hunter2", "VLLM_EU_API_KEY"),
    ("VLLM_APIKEY", "hunter2", "VLLM_API_KEY"),
    ("VLLM_KEY", "hunter2", "VLLM_API_KEY"),
    ("VLLM_EU_URL", "http://gpu/v1", "VLLM_EU_BASE_URL"),
    ("VLLM_EU_WEST_2_URL", "http://gpu/v1", "VLLM_EU_WEST_2_BASE_URL"),
    ("VLLM_URL", "http://gpu/v1", "VLLM_BASE_URL"),
    ("VLLM_EU_ENDPOINT", "http://gpu/v1", "VLLM_EU_BASE_URL"),
    ("VLLM_BASE_URL_2", "http://gpu/v1", "VLLM_2_BASE_URL"),
    ("VLLM_EU_BASE_URL_WEST", "http://gpu/v1", "VLLM_EU_WEST_BASE_URL"),
    ("VLLM_API_KEY_2", "hunter2", "VLLM_2_API_KEY"),
    ("VLLM_BASE_URL_FILE", "/x", "VLLM_BASE_URL"),
    ("HTTP_STREAM_IDLE_TIMOUT", "1", "HTTP_STREAM_IDLE_TIMEOUT"),
    ("HTTP_CONNECTION_TIMEOUT", "1", "HTTP_CONNECT_TIMEOUT"),
    ("CIRCUIT_BREAKER_TIMEOUT_S", "1", "CIRCUIT_BREAKER_TIMEOUT"),
    ("BODY_SIZE_LIMITS", "1", "BODY_SIZE_LIMIT"),
    ("TLS_KEYFILE", "/x", "TLS_KEY_FILE"),
    ("PASSTHROUGH_ADMIN_ROUTE", "1", "PASSTHROUGH_ADMIN_ROUTES"),
]


@pytest.mark.parametrize(("name", "value", "nearest"), NEAR_MISSES)
def test_a_near_miss_is_worth_a_warning_without_its_value(name: str, value: str, nearest: str) -> None:
    expected = f"{name} is not a variable of gomodel; the nearest is {nearest}"
    assert from_environ({**QUIET, name: value}).warnings == (expected,)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("HTTP_STREAM_TIMEOUT=1s\n", ["HTTP_STREAM_TIMEOUT is not a variable of gomodel; the nearest is {}"]),
        ("VLM_BASE_URL=http://a/v1\n", ["VLM_BASE_URL is not a variable of gomodel; the nearest is {}"]),
        ("VLLM_USE_V1=1\nVLLM_HOST_IP=10.0.0.1\n", []),
        ("HF_TOKEN=t\nSSL_CERT_FILE=/x\n", [".env sets HF_TOKEN, SSL_CERT_FILE, which gomodel does not read"]),
        ("GPU=gpu-7\nVLLM_A_BASE_URL=http://${GPU}:8000/v1\n", []),
        ("PORT=1\nLOG_LEVEL=info\n\nPORT=2\n", ["{path} line 4: PORT is set again; line 1 has no effect"]),
        ("HF_TOKEN=\n", []),
        (
            "".join(f"X_{number}=1\n" for number in range(100, 115)),
            [
                f".env sets {', '.join(f'X_{number}' for number in range(100, 110))} and 5 more, "
                "which gomodel does not read"
            ],
        ),
    ],
)
def test_what_a_file_sets_for_nobody_is_worth_a_warning(tmp_path: Path, lines: str, expected: list[str]) -> None:
    path = tmp_path / ".env"
    path.write_text(lines)
    nearest = "HTTP_STREAM_IDLE_TIMEOUT" if "HTTP" in lines else "VLLM_BASE_URL"
    assert list(load(QUIET, path).warnings) == [each.format(nearest, path=path) for each in expected]


def test_what_the_environment_sets_for_others_is_not_a_name_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("HF_TOKEN=t\n")
    assert load({**QUIET, "HF_TOKEN": "t", "HTTP_STREAM_TIMEOUT": "1"}, path).warnings == ()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://gpu:8000/v1", "http://GPU:8000/v1/", True),
        ("http://gpu/v1", "http://gpu:80/v1", True),
        ("https://gpu/v1", "https://gpu:443/v1", True),
        ("unix:///run/v.sock:/v1", "unix:///run/v.sock:/v1", True),
        ("http://localhost:9000/v1/", "http://127.0.0.1:9000/v1", True),
        ("http://127.0.0.1:9000/v1", "http://LOCALHOST.:9000/v1", True),
        ("http://localhost/v1", "http://127.0.0.1:80/v1", True),
        ("http://localhost:9000/v1", "http://127.0.0.1:9001/v1", False),
        ("http://localhost:9000/v1", "http://127.0.0.2:9000/v1", False),
        ("http://gpu:8000/v1", "http://gpu:8001/v1", False),
        ("http://gpu/a/v1", "http://gpu/b/v1", False),
        ("http://gpu/v1", "https://gpu/v1", False),
        ("unix:///run/v.sock:/v1", "unix:///run/w.sock:/v1", False),
    ],
)
def test_two_instances_at_one_address_are_worth_a_warning(one: str, other: str, same: bool) -> None:
    environ = {"GOMODEL_MASTER_KEY": "k", "VLLM_A_BASE_URL": one, "VLLM_B_BASE_URL": other}
    expected = ["VLLM_A_BASE_URL and VLLM_B_BASE_URL name the same server"] if same else []
    assert list(from_environ(environ).warnings) == expected


QUOTED = "{} begins and ends with a quote, which is part of the value; " + (
    "docker's and kubectl's env files take quotes as they stand"
)


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize("name", ["GOMODEL_MASTER_KEY", "VLLM_API_KEY", "VLLM_TEST_API_KEY", "VLLM_MODELS"])
def test_a_value_with_quotes_around_it_is_worth_a_warning(tmp_path: Path, name: str, quote: str) -> None:
    environ = {**QUIET, "VLLM_TEST_BASE_URL": "http://b/v1", name: f"{quote}hunter2{quote}"}
    assert from_environ(environ).warnings == (QUOTED.format(name),)
    (tmp_path / ".env").write_text(f"{name}={quote}hunter2{quote}\n")
    environ.pop(name)
    assert load(environ, tmp_path / ".env").warnings == ()


@pytest.mark.parametrize("value", ["a", '"', '"a', "a'", "\"a'", 'a"b"'])
def test_a_value_that_merely_holds_a_quote_is_not(value: str) -> None:
    assert from_environ({**QUIET, "VLLM_API_KEY": value}).warnings == ()


def test_a_key_file_with_quotes_around_the_key_is_worth_a_warning(tmp_path: Path) -> None:
    (tmp_path / "key").write_text('"hunter2"\n')
    config = from_environ({**QUIET, "VLLM_API_KEY_FILE": str(tmp_path / "key")})
    assert config.warnings == ("VLLM_API_KEY_FILE: the key begins and ends with a quote, which is part of it",)


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({}, "localhost"),
        ({"GOMODEL_MASTER_KEY": "k"}, "::"),
        ({"GOMODEL_MASTER_KEY": "k", "HOST": "127.0.0.1"}, "127.0.0.1"),
        ({"HOST": "0.0.0.0"}, "0.0.0.0"),
        ({"HOST": ""}, "localhost"),
    ],
)
def test_without_a_key_only_this_host_is_served_unless_host_is_set(environ: dict[str, str], host: str) -> None:
    assert from_environ(environ).host == host


def test_root_certificates_that_are_a_pipe_are_a_problem(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "roots")
    environ = {**QUIET, "SSL_CERT_FILE": str(tmp_path / "roots")}
    assert from_environ(environ).warnings == ()
    environ["VLLM_BASE_URL"] = "https://gpu/v1"
    assert problems(environ) == (f"SSL_CERT_FILE: '{tmp_path}/roots' is no file",)


@pytest.mark.parametrize(
    "name", ["GOMODEL_FOO", "GOMODEL_", "CIRCUIT_BREAKER_ENABLED", "GOMODEL_VERSION_CHECK_ENABLED"]
)
def test_an_unknown_variable_in_our_name_is_worth_a_warning(name: str) -> None:
    (warning,) = from_environ({**QUIET, name: "x"}).warnings
    assert re.fullmatch(f"{name} is not a variable of gomodel; the nearest is [A-Z_]+", warning)


def test_a_near_miss_with_a_line_break_in_its_name_stays_on_one_line() -> None:
    (warning,) = from_environ({**QUIET, "GOMODEL_\nX\udc80": "x"}).warnings
    assert warning.startswith("GOMODEL_\\nX\\udc80 is not a variable of gomodel")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GOMODEL_SERVICE_HOST", "10.0.0.1"),
        ("GOMODEL_SERVICE_PORT", "8080"),
        ("GOMODEL_SERVICE_PORT_HTTP", "8080"),
        ("GOMODEL_PORT", "tcp://10.0.0.1:8080"),
        ("GOMODEL_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
        ("GOMODEL_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ("GOMODEL_METRICS_SERVICE_HOST", "10.0.0.1"),
        ("GOMODEL_METRICS_PORT", "tcp://10.0.0.1:9090"),
        ("GOMODEL_WORKER", ""),
        *[
            (name, "x")
            for name in ("PATH", "HOME", "HOSTNAME", "HOSTS", "SPORT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
        ],
        *[
            (name, "x")
            for name in ("LANG", "PWD", "SHLVL", "LOG_DIR", "METRICS_PORT", "OPENAI_API_KEY", "OPENAI_BASE_URL")
        ],
        *[(name, "x") for name in ("REDIS_URL", "STORAGE_TYPE", "USER_PATH_HEADER", "LOGGING_ENABLED", "RETRY_COUNT")],
    ],
)
def test_a_variable_of_somebody_else_is_not_worth_a_warning(name: str, value: str) -> None:
    assert from_environ({**QUIET, name: value}) == from_environ(QUIET)


def test_no_secret_is_in_a_repr_a_problem_or_a_warning(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2-file")
    environ = {
        **ADDRESSES,
        "GOMODEL_MASTER_KEY": "hunter2-master",
        "VLLM_API_KEY": "hunter2-vllm",
        "VLLM_TEST_API_KEY_FILE": str(tmp_path / "key"),
        "GOMODEL_MASTERKEY": "hunter2-typo",
    }
    config = from_environ(environ)
    assert "hunter2" not in f"{config!r} {config} {config.warnings} {dataclasses.asdict(config)}"
    assert "hunter2" not in "".join(problems({**environ, "PORT": "x", "VLLM_BASE_URL": "http://hunter2:hunter2@a/v1"}))


def test_a_secret_shows_itself_to_reveal_alone() -> None:
    secret = Secret("hunter2")
    assert secret.reveal() == "hunter2"
    shown = [repr(secret), str(secret), f"{secret}", f"{secret!r:>20}", f"{[secret]}", f"%s {secret}"]
    assert not any("hunter2" in text for text in shown)
    assert str(secret) == repr(secret) == "Secret(***)"
    assert not hasattr(secret, "__dict__")


@pytest.mark.parametrize(
    ("other", "equal"),
    [
        (Secret("hunter2"), True),
        (Secret("hunter"), False),
        (Secret("hunter22"), False),
        (Secret(""), False),
        (Secret("hünter2"), False),
        (Secret("\udc80"), False),
        ("hunter2", False),
        (None, False),
    ],
)
def test_a_secret_equals_a_secret_of_the_same_value_only(other: object, equal: bool) -> None:
    assert (Secret("hunter2") == other) is equal
    assert (Secret("hunter2") != other) is not equal


def test_secrets_outside_ascii_do_not_collapse() -> None:
    assert Secret("\udc80") != Secret("\udc81")
    assert Secret("é") != Secret("?")


def test_a_config_is_frozen_and_can_be_copied_to_another_process() -> None:
    config = from_environ({**QUIET, "VLLM_API_KEY": "k"})
    for part in (config, config.timeouts, config.retry, config.breaker, config.instances[0]):
        field = dataclasses.fields(part)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(part, field, None)
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == config


def test_equal_environments_give_equal_configs_and_unequal_ones_do_not() -> None:
    assert from_environ(QUIET) == from_environ(dict(QUIET))
    assert from_environ(QUIET) != from_environ({**QUIET, "GOMODEL_MASTER_KEY": "other"})


def test_from_environ_looks_at_its_argument_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "not a port")
    monkeypatch.setenv("VLLM_BASE_URL", "http://from-the-process/v1")
    assert from_environ({}).instances == (LOCAL,)


def test_the_environment_lies_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("PORT=9000\nHOST=127.0.0.1\nLOG_LEVEL=debug\nVLLM_BASE_URL=http://${GPU}:${P:-8000}/v1\n")
    config = load({"PORT": "9001", "GPU": "gpu-7", "LOG_LEVEL": ""}, path)
    assert (config.port, config.host, config.log_level) == (9001, "127.0.0.1", "info")
    assert config.instances[0].servers[0].base_url == "http://gpu-7:8000/v1"


def test_load_leaves_the_environment_as_it_was(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PORT=9000\n")
    environ = {"HOST": "::"}
    before = dict(os.environ)
    load(environ, tmp_path / ".env")
    assert environ == {"HOST": "::"}
    assert dict(os.environ) == before


def test_a_changed_file_counts_at_the_next_load(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("PORT=9000\n")
    assert load({}, path).port == 9000
    path.write_text("VLLM_A_BASE_URL=http://a/v1\n")
    config = load({}, path)
    assert (config.port, config.instances[0].name) == (8080, "vllm-a")


def test_load_reads_the_working_directory_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("PORT=9000\n")
    monkeypatch.chdir(tmp_path)
    assert load({}).port == 9000
    assert load({}, tmp_path / "missing").port == 8080


def test_problems_of_file_and_environment_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(
        "PORT 9000\nVLLM_BASE_URL=http://${GPU}/v1\nLOG_LEVEL=loud\nVLLM_A_BASE_URL=${A}\nVLLM_A_API_KEY=k\n"
    )
    with pytest.raises(ConfigError) as caught:
        load({"HOST": "*"}, path)
    where = [problem.partition(" is ")[0] for problem in caught.value.problems]
    assert where == [
        f"{path} line 1:",
        f"{path} line 2: VLLM_BASE_URL: ${{GPU}}",
        f"{path} line 4: VLLM_A_BASE_URL: ${{A}}",
        "HOST: '*'",
        "LOG_LEVEL: 'loud'",
    ]


def test_a_broken_file_is_a_problem_even_when_the_rest_is_sound(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("nonsense\n")
    with pytest.raises(ConfigError, match="line 1: is not NAME=value"):
        load(QUIET, tmp_path / ".env")


CONTRACT = re.findall(
    r"\w+",
    """
    VLLM_BASE_URL VLLM_API_KEY VLLM_MODELS VLLM_API_KEY_FILE CONFIGURED_PROVIDER_MODELS_MODE
    VLLM_TEST_BASE_URL VLLM_TEST_API_KEY VLLM_TEST_MODELS VLLM_TEST_API_KEY_FILE VLLM_CA_FILE VLLM_TEST_CA_FILE
    VLLM_MAX_IN_FLIGHT VLLM_TEST_MAX_IN_FLIGHT QUEUE_LIMIT QUEUE_TIMEOUT
    VLLM_DP_RANKS VLLM_HEADERS VLLM_TEST_DP_RANKS VLLM_TEST_HEADERS
    HOST PORT GOMODEL_UNIX_SOCKET GOMODEL_MASTER_KEY GOMODEL_MASTER_KEY_FILE BASE_PATH BODY_SIZE_LIMIT
    CORS_ALLOW_ORIGINS MODEL_IDS MODEL_ALIASES
    GOMODEL_KEYS_FILE GOMODEL_REDIS_URL GOMODEL_REDIS_URL_FILE LIMITS_WITHOUT_REDIS
    ENABLE_PASSTHROUGH_ROUTES ALLOW_PASSTHROUGH_V1_ALIAS ENABLED_PASSTHROUGH_PROVIDERS PASSTHROUGH_ADMIN_ROUTES
    HTTP_CONNECT_TIMEOUT HTTP_RESPONSE_HEADER_TIMEOUT HTTP_STREAM_IDLE_TIMEOUT HTTP_REQUEST_IDLE_TIMEOUT
    HTTP_WRITE_IDLE_TIMEOUT HTTP_TIMEOUT HTTP_UPSTREAM_KEEPALIVE HTTP_CLIENT_KEEPALIVE HTTP_HEADER_LIMIT
    RETRY_MAX_RETRIES RETRY_INITIAL_BACKOFF RETRY_MAX_BACKOFF RETRY_BACKOFF_FACTOR RETRY_JITTER_FACTOR
    CIRCUIT_BREAKER_FAILURE_THRESHOLD CIRCUIT_BREAKER_SUCCESS_THRESHOLD CIRCUIT_BREAKER_TIMEOUT
    CACHE_REFRESH_INTERVAL STRIP_REQUEST_HEADERS ROUTING SESSION_HEADERS METRICS_ENABLED METRICS_ENDPOINT METRICS_PUBLIC
    GOMODEL_DATA_DIR GOMODEL_DATABASE_URL GOMODEL_DATABASE_URL_FILE FILE_SIZE_LIMIT FILE_TTL BATCH_CONCURRENCY
    BATCH_PRIORITY DIGEST REPLICA_GUARD REPLICA_GUARD_GENERATES
    OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_HEADERS OTEL_EXPORTER_OTLP_HEADERS_FILE OTEL_TRACES_EXPORTER
    OTEL_SERVICE_NAME OTEL_TRACES_SAMPLER OTEL_TRACES_SAMPLER_ARG
    FORWARDED_ALLOW_IPS LOG_LEVEL LOG_FORMAT GOMODEL_WORKERS GOMODEL_WATCH GOMODEL_DRAIN_TIMEOUT
    TLS_CERT_FILE TLS_KEY_FILE
    """,
)


def documented() -> dict[str, str]:
    lines = re.findall(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", EXAMPLE.read_text(), re.MULTILINE)
    assert len(lines) == len(dict(lines))
    return dict(lines)


def test_the_example_names_every_variable_and_no_other() -> None:
    assert sorted(documented()) == sorted(CONTRACT)


def test_the_master_keys_file_may_hold_several_and_an_instances_key_is_one(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"old\r\nnew\n")
    config = from_environ({"GOMODEL_MASTER_KEY_FILE": str(path)})
    assert [each.reveal() for each in config.master_keys] == ["old", "new"]
    assert blamed({**ADDRESSES, "VLLM_API_KEY_FILE": str(path)}) == ["VLLM_API_KEY_FILE"]
    path.write_text("key\n" * 9)
    (problem,) = problems({"GOMODEL_MASTER_KEY_FILE": str(path)})
    assert problem.endswith("holds more than 8 keys")


def test_the_contract_and_the_table_name_the_same_variables() -> None:
    names = {name for each in VARIABLES.values() for name in each.names}
    assert {name for name in CONTRACT if not name.startswith("VLLM_TEST_")} == names


@pytest.mark.parametrize("name", VARIABLES)
def test_the_example_shows_the_real_default(name: str) -> None:
    assert documented()[name] == VARIABLES[name].default


def test_the_example_as_it_stands_changes_nothing() -> None:
    assert load({}, EXAMPLE) == from_environ({})


def test_the_example_uncommented_changes_nothing_but_the_second_instance(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text(re.sub(r"^# (?=[A-Z][A-Z0-9_]*=)", "", EXAMPLE.read_text(), flags=re.MULTILINE))
    key = tmp_path / "key"
    key.write_text("k")
    config = load({"VLLM_TEST_API_KEY_FILE": str(key)}, path)
    models = ("org/model-a", "org/model-b")
    second = InstanceConfig("vllm-test", (Server("http://gpu-2:8000/v1"),), Secret("k"), models, max_in_flight=64)
    assert config == dataclasses.replace(from_environ({}), instances=(LOCAL, second), warnings=(OPEN_HERE,))


def test_an_instance_has_its_own_limit_and_no_other() -> None:
    instances = from_environ(
        {"VLLM_A_BASE_URL": "http://a/v1", "VLLM_A_MAX_IN_FLIGHT": "1", "VLLM_B_BASE_URL": "http://b/v1"}
    ).instances
    assert [each.max_in_flight for each in instances] == [1, None]
    with pytest.raises(ConfigError, match="VLLM_A_MAX_IN_FLIGHT"):
        from_environ({"VLLM_A_BASE_URL": "http://a/v1", "VLLM_A_MAX_IN_FLIGHT": "0"})


def test_every_documented_variable_has_a_line_of_meaning() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"# [A-Z][A-Z0-9_]*=", line):
            assert re.match(r"# [A-Z/].{10,}\.$|# [a-z].{10,}\.$", lines[number - 1]), line


@pytest.mark.parametrize("module", ["load", "registry", "instances", "reader", "values", "addresses", "dotenv_file"])
def test_configuration_is_read_without_asyncio_or_aiohttp(module: str) -> None:
    source = (Path(inspect.getfile(config_module)).parent / f"{module}.py").read_text()
    imported = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported.isdisjoint({"asyncio", "aiohttp", "logging", "socket"})
