"""A client who leaves frees vLLM's slot at once: vLLM's own gauge is the witness."""

import contextlib
import http.client
import time
from collections.abc import Callable

import pytest

from .processes import Server
from .questions import CALLER, LONG, QUESTIONS, SELECTOR, every_question
from .wire import post, requests_running, reset, send, wait_for

# vLLM itself takes 10 to 70 ms, and nobody else may add much. Seconds in which a full machine gave the two no CPU are
# not counted. A generation that nobody ends runs for twenty.
FREED_S = 1.0


def close(connection: http.client.HTTPConnection) -> None:
    connection.close()


def leave_and_check(vllm: Server, gateway: Server, leave: Callable[[], None], running: int = 1) -> None:
    started = wait_for(lambda: requests_running(vllm) == running)
    assert started, f"{requests_running(vllm)} of {running} generations run"
    before = vllm.waited_for_cpu_s() + gateway.waited_for_cpu_s()
    leave()
    left = time.monotonic()
    assert wait_for(lambda: requests_running(vllm) == 0), "vLLM still works for a client who left"
    freed = time.monotonic() - left
    waited = vllm.waited_for_cpu_s() + gateway.waited_for_cpu_s() - before
    assert freed - waited < FREED_S, f"{freed:.2f} s, {waited:.2f} of them without a CPU"
    answer = post(gateway, "/v1/completions", {"model": SELECTOR, "prompt": "x", "max_tokens": 1}, CALLER)
    assert answer.status == 200


@pytest.fixture(autouse=True)
def idle(vllm: Server) -> None:
    """Nobody else's request may be taken for the one that is left."""
    assert wait_for(lambda: requests_running(vllm) == 0)


@pytest.mark.parametrize("leave", [close, reset])
@pytest.mark.parametrize("stream", [True, False], ids=["streaming", "waiting"])
@every_question
def test_leaving_ends_the_generation(
    vllm: Server, gateway: Server, name: str, stream: bool, leave: Callable[[http.client.HTTPConnection], None]
) -> None:
    question = QUESTIONS[name]
    with contextlib.closing(
        send(gateway, "POST", question.path, question.body(SELECTOR, LONG, stream=stream), CALLER)
    ) as connection:
        leave_and_check(vllm, gateway, lambda: leave(connection))


def test_leaving_after_some_events_ends_the_generation(vllm: Server, gateway: Server) -> None:
    question = QUESTIONS["chat"]
    with contextlib.closing(
        send(gateway, "POST", question.path, question.body(SELECTOR, LONG, stream=True), CALLER)
    ) as connection:
        response = connection.getresponse()
        for _ in range(40):
            response.readline()

        def leave() -> None:
            response.close()
            connection.close()

        leave_and_check(vllm, gateway, leave)


def test_leaving_a_passthrough_ends_the_generation(vllm: Server, gateway: Server) -> None:
    question = QUESTIONS["chat"]
    body = question.body(SELECTOR.removeprefix("vllm/"), LONG)
    with contextlib.closing(send(gateway, "POST", f"/p/vllm{question.path}", body, CALLER)) as connection:
        leave_and_check(vllm, gateway, connection.close)


def test_thirty_two_who_leave_together_free_thirty_two_slots(vllm: Server, gateway: Server) -> None:
    question = QUESTIONS["chat"]
    connections = [
        send(gateway, "POST", question.path, question.body(SELECTOR, LONG, stream=turn % 2 == 0), CALLER)
        for turn in range(32)
    ]

    def leave() -> None:
        for connection in connections:
            connection.close()

    try:
        leave_and_check(vllm, gateway, leave, running=32)
    finally:
        leave()
