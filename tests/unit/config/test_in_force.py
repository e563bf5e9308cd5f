"""What operators see of the configuration: everything but the secrets."""

import pytest

from gomodel.config.in_force import in_force
from gomodel.config.load import from_environ


@pytest.mark.parametrize(
    ("variable", "value", "shown"),
    [
        ("VLLM_BASE_URL", "http://gpu:8000/v1", "http://gpu:8000/v1"),
        ("VLLM_EU_WEST_BASE_URL", "http://gpu:8000/v1", "http://gpu:8000/v1"),
        ("VLLM_API_KEY", "sk-secret", "(set)"),
        ("VLLM_EU_API_KEY", "sk-secret", "(set)"),
        ("VLLM_EU_API_KEY_FILE", "/run/key", "/run/key"),
        ("GOMODEL_MASTER_KEY", "sk-secret", "(set)"),
        ("GOMODEL_MASTER_KEY_FILE", "/run/key", "/run/key"),
        ("GOMODEL_KEYS_FILE", "keys.toml", "keys.toml"),
        ("GOMODEL_REDIS_URL", "redis://:secret@redis/0", "(set)"),
        ("VLLM_BASE_URL", "http://me:secret@gpu/v1, http://b/v1", "http://(set)@gpu/v1, http://b/v1"),
        ("VLLM_HEADERS", "X-Team: secret|X-Key:secret:more", "X-Team: (set) | X-Key: (set)"),
        ("VLLM_EU_HEADERS", "secret", "(set)"),
        ("STRIP_REQUEST_HEADERS", "X-Foo,X-Bar", "X-Foo,X-Bar"),
        ("SESSION_HEADERS", "X-Chat-Id", "X-Chat-Id"),
        ("PORT", "9000", "9000"),
    ],
)
def test_what_is_set_is_shown_without_its_secret(variable: str, value: str, shown: str):
    rows = {name: (text, is_set) for _, name, text, is_set in in_force({variable: value})}
    assert rows[variable] == (shown, True)


def test_every_other_variable_is_shown_with_its_default():
    rows = {name: (text, is_set) for _, name, text, is_set in in_force({"GOMODEL_MASTER_KEY_FILE": "/k", "PORT": ""})}
    assert rows["PORT"] == ("8080", False)
    assert rows["VLLM_BASE_URL"] == ("http://localhost:8000/v1", False)
    assert rows["GOMODEL_REDIS_URL"] == ("none", False)
    assert "GOMODEL_MASTER_KEY" not in rows


def test_a_configuration_knows_it():
    environ = {"PORT": "9000"}
    assert from_environ(environ).said == in_force(environ)
