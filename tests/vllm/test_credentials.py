"""The caller's key ends at gomodel, the instance's key begins there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from . import processes
from .conftest import Tapped, settings
from .processes import INSTANCE_KEY, MASTER_KEY, Server
from .questions import QUESTIONS, SELECTOR, every_question
from .wire import cut_events, get, post

PRESENTED = {
    "bearer": {"Authorization": f"Bearer {MASTER_KEY}"},
    "bearer in lower case": {"authorization": f"bearer {MASTER_KEY}"},
    "x-api-key": {"x-api-key": MASTER_KEY, "anthropic-version": "2023-06-01"},
}


@pytest.mark.parametrize("how", PRESENTED)
@every_question
def test_the_callers_key_never_reaches_vllm_and_the_instances_does(tapped: Tapped, name: str, how: str) -> None:
    question = QUESTIONS[name]
    headers = {**PRESENTED[how], "Cookie": "session=1", "Proxy-Authorization": "Basic eDp5"}
    assert post(tapped.gateway, question.path, question.body(SELECTOR, 2), headers).status == 200
    head = tapped.tap.sent().partition(b"\r\n\r\n")[0]
    assert MASTER_KEY.encode() not in tapped.tap.sent()
    assert head.lower().count(b"authorization:") == 1
    assert f"Authorization: Bearer {INSTANCE_KEY}".encode() in head.split(b"\r\n")
    for name_of_secret in (b"x-api-key", b"cookie", b"proxy-authorization"):
        assert name_of_secret + b":" not in head.lower()


@pytest.mark.asks("/v1/messages")
def test_an_anthropic_client_can_stream_with_x_api_key(tapped: Tapped) -> None:
    question = QUESTIONS["messages"]
    body = question.body(SELECTOR, 8, stream=True)
    answer = post(tapped.gateway, question.path, body, PRESENTED["x-api-key"])
    assert answer.status == 200
    assert [event.name for event in cut_events(answer.body)][-1] == "message_stop"


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Bearer {INSTANCE_KEY}"}, {"x-api-key": "wrong"}],
    ids=["none", "wrong", "the instance's", "wrong x-api-key"],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize", "/p/vllm/tokenize", "/p/vllm/v1/completions"])
def test_without_the_master_key_nothing_reaches_vllm(tapped: Tapped, path: str, headers: dict[str, str]) -> None:
    answer = post(tapped.gateway, path, QUESTIONS["chat"].body(SELECTOR, 2), headers)
    assert answer.problem() == (401, "invalid_api_key")
    assert answer.header("www-authenticate") == "Bearer"
    assert tapped.tap.sent() == b""


@pytest.fixture(scope="module")
def misconfigured(directory: Path, vllm: Server) -> Iterator[Server]:
    """A gomodel that has the wrong key for its vLLM."""
    server = processes.start_gateway(directory, settings(vllm.port, VLLM_API_KEY="not-the-key"))
    yield server
    server.stop()


@pytest.mark.parametrize("name", QUESTIONS)
@pytest.mark.parametrize("stream", [False, True])
def test_when_the_instances_key_is_wrong_the_caller_reads_whose_it_was(
    misconfigured: Server, name: str, stream: bool
) -> None:
    question = QUESTIONS[name]
    answer = post(misconfigured, question.path, question.body(SELECTOR, 2, stream=stream), PRESENTED["bearer"])
    assert answer.status == 502
    assert b"Instance 'vllm' refuses the gateway's key for it." in answer.body
    assert answer.header("www-authenticate") is None


def test_routes_vllm_leaves_open_are_still_closed_to_strangers(gateway: Server) -> None:
    for path in ("/p/vllm/metrics", "/p/vllm/version", "/p/vllm/load"):
        assert get(gateway, path).problem() == (401, "invalid_api_key")
        assert get(gateway, path, PRESENTED["bearer"]).status == 200
