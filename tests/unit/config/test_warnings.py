"""What an environment is warned of: what it opens or leaves out, names that nearly are a variable, stray quotes."""

import re
from pathlib import Path

import pytest

from gomodel.config.load import from_environ, load

from .outcomes import ASSUMED, OPEN, OPEN_HERE, QUIET

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
