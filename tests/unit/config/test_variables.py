"""What each variable sets: its default, values that it takes, and those that it refuses."""

import dataclasses
from typing import Any

import pytest

from gomodel.config.load import from_environ
from gomodel.config.registry import OF_GOMODEL, VARIABLES
from gomodel.config.settings import Config

from .outcomes import LOCAL, blamed, problems

PLAIN = {each.name for each in OF_GOMODEL if not each.secret}


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
