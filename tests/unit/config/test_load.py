"""How variables go together: traces, databases, sockets, workers, a file .env; one Config, or all that is wrong."""

import ast
import copy
import dataclasses
import inspect
import os
import pickle
from pathlib import Path

import pytest

from gomodel.config import load as config_module
from gomodel.config.load import from_environ, load
from gomodel.config.settings import ConfigError, Secret

from .outcomes import LOCAL, QUIET, blamed, problems

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


def test_problems_come_out_in_a_fixed_order() -> None:
    environ = {"PORT": "x", "HOST": "*", "VLLM_B_API_KEY": "b", "VLLM_A_API_KEY": "a", "GOMODEL_MASTER_KEY": " "}
    reverse = dict(reversed(environ.items()))
    assert problems(environ) == problems(reverse)
    assert blamed(environ) == ["GOMODEL_MASTER_KEY", "HOST", "PORT", "VLLM_A_API_KEY", "VLLM_B_API_KEY"]


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
