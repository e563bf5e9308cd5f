"""What an environment comes to, as tests ask for it: its problems and whom they blame, and well-known parts of both."""

from collections.abc import Mapping

import pytest

from gomodel.config.load import from_environ
from gomodel.config.settings import ConfigError, InstanceConfig, Server

QUIET = {"GOMODEL_MASTER_KEY": "sk-master", "VLLM_BASE_URL": "http://gpu:8000/v1"}
LOCAL = InstanceConfig("vllm", (Server("http://localhost:8000/v1"),), None, ())
ADDRESSES = {"VLLM_BASE_URL": "http://a/v1", "VLLM_TEST_BASE_URL": "http://b/v1"}
OPEN = "GOMODEL_MASTER_KEY is not set: every route is open to whoever reaches the listener"
OPEN_HERE = (
    "GOMODEL_MASTER_KEY is not set: every route is open to everybody on this host, "
    "which alone is served unless HOST is set"
)
ASSUMED = "VLLM_BASE_URL is not set: instance vllm is assumed at http://localhost:8000/v1"


def problems(environ: Mapping[str, str]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        from_environ(environ)
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def blamed(environ: Mapping[str, str]) -> list[str]:
    return [problem.partition(":")[0] for problem in problems(environ)]
