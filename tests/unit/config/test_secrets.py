"""Keys and certificates, in variables and in files: which are of use, and that none is ever shown."""

import dataclasses
from pathlib import Path

import pytest

from gomodel.config.load import from_environ
from gomodel.config.settings import Certificate, Config, Secret

from .outcomes import ADDRESSES, LOCAL, blamed, problems

UNUSABLE_KEYS = ["a b", " ", " k", "k ", "k\n", "k\t", "k\x00", "k\x7f", "clé", "k\u00a0", "ключ", "k\udc80", "${KEY}"]

SECRETS = ["GOMODEL_MASTER_KEY", "VLLM_API_KEY", "VLLM_TEST_API_KEY"]


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


def test_the_master_keys_file_may_hold_several_and_an_instances_key_is_one(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_bytes(b"old\r\nnew\n")
    config = from_environ({"GOMODEL_MASTER_KEY_FILE": str(path)})
    assert [each.reveal() for each in config.master_keys] == ["old", "new"]
    assert blamed({**ADDRESSES, "VLLM_API_KEY_FILE": str(path)}) == ["VLLM_API_KEY_FILE"]
    path.write_text("key\n" * 9)
    (problem,) = problems({"GOMODEL_MASTER_KEY_FILE": str(path)})
    assert problem.endswith("holds more than 8 keys")


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
