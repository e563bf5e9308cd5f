"""What a start leaves undone: who asks first waits for all that it does."""

import json
import subprocess
import sys

import pytest

# A configuration is read and all is imported that serves; nobody has asked for anything yet.
_START = """
import json, re, sys

compiled, compile = [], re.compile
re.compile = lambda pattern, flags=0: compiled.append(pattern) or compile(pattern, flags)
from gomodel.config.load import from_environ
config = from_environ({"VLLM_BASE_URL": "http://127.0.0.1:9/v1"})
import gomodel.process.start
assert config.instances
# Those with whole JSON values in them.
long = [each.decode() for each in compiled if isinstance(each, bytes) and len(each) > 900]
print(json.dumps([sorted(sys.modules), long]))
"""


@pytest.fixture(scope="module")
def started() -> tuple[set[str], list[str]]:
    """The modules, and the long patterns that were compiled."""
    done = subprocess.run([sys.executable, "-c", _START], check=True, capture_output=True)
    modules, patterns = json.loads(done.stdout)
    return set(modules), patterns


@pytest.mark.parametrize(
    "name",
    [
        "aiohttp.web",  # of which the low-level server is enough
        "gomodel.batches.batcher",
        "gomodel.demo",
        "gomodel.doctor",
        "gomodel.process.supervisor",  # several workers
        "gomodel.recording",
        "gomodel.simulator",
        "opentelemetry",
        "prometheus_client",
        "redis",
        "sqlalchemy",
        "tomllib",  # a keys file
    ],
)
def test_what_only_some_need_is_not_imported(started: tuple[set[str], list[str]], name: str) -> None:
    assert name not in started[0]


def test_of_the_patterns_that_take_long_only_the_one_for_the_usual_body_is_compiled(
    started: tuple[set[str], list[str]],
) -> None:
    (pattern,) = started[1]
    assert '"model"' in pattern
