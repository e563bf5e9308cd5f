"""vLLM closes a connection after five idle seconds without a word: no request may die of that."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from . import processes
from .conftest import settings
from .processes import Server
from .questions import CALLER, SELECTOR
from .wire import post

pytestmark = pytest.mark.slow

AT_ONCE = 8
# Around the moment of the close, so that some requests are on their way while it happens.
PAUSES_S = (3.99, 4.98, 4.995, 5.0, 5.005, 5.02)


@pytest.fixture(params=["4s", "1m"], ids=["default", "longer than vLLM's"])
def keeper(request: pytest.FixtureRequest, directory: Path, vllm: Server) -> Iterator[Server]:
    server = processes.start_gateway(directory, settings(vllm.port, HTTP_UPSTREAM_KEEPALIVE=request.param))
    yield server
    server.stop()


def test_requests_at_the_moment_of_the_close_all_succeed(keeper: Server) -> None:
    def one(_: int) -> int:
        return post(keeper, "/v1/completions", {"model": SELECTOR, "prompt": "x", "max_tokens": 1}, CALLER).status

    with ThreadPoolExecutor(AT_ONCE) as threads:
        for pause in PAUSES_S:
            assert list(threads.map(one, range(AT_ONCE))) == [200] * AT_ONCE
            time.sleep(pause)
        assert list(threads.map(one, range(AT_ONCE))) == [200] * AT_ONCE
