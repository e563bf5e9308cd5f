""".env.example: every variable with its default and its meaning, and nothing changed by it."""

import dataclasses
import re
from pathlib import Path

import pytest

from gomodel.config.load import from_environ, load
from gomodel.config.registry import VARIABLES
from gomodel.config.settings import InstanceConfig, Secret, Server

from .outcomes import LOCAL, OPEN_HERE

EXAMPLE = Path(__file__).parents[3] / ".env.example"

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


def test_every_documented_variable_has_a_line_of_meaning() -> None:
    lines = EXAMPLE.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"# [A-Z][A-Z0-9_]*=", line):
            assert re.match(r"# [A-Z/].{10,}\.$|# [a-z].{10,}\.$", lines[number - 1]), line
