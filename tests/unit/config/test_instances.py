"""Which instances an environment describes, what belongs to each, and which addresses cannot be meant."""

from pathlib import Path

import pytest

from gomodel.config.load import from_environ
from gomodel.config.settings import ConfigError, InstanceConfig, Secret, Server

from .outcomes import QUIET, blamed, problems

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


def test_an_instance_has_its_own_limit_and_no_other() -> None:
    instances = from_environ(
        {"VLLM_A_BASE_URL": "http://a/v1", "VLLM_A_MAX_IN_FLIGHT": "1", "VLLM_B_BASE_URL": "http://b/v1"}
    ).instances
    assert [each.max_in_flight for each in instances] == [1, None]
    with pytest.raises(ConfigError, match="VLLM_A_MAX_IN_FLIGHT"):
        from_environ({"VLLM_A_BASE_URL": "http://a/v1", "VLLM_A_MAX_IN_FLIGHT": "0"})
