"""vLLM dies in the middle of an answer: the client must never mistake what it got for the whole."""

import contextlib
import http.client
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from . import processes
from .conftest import Tapped, settings
from .processes import INSTANCE_KEY, Server
from .questions import CALLER, LONG, QUESTIONS, SELECTOR
from .tap import Tap
from .wire import cut_events, first_event_with, get, post, requests_running, send, streaming, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def mortal(directory: Path) -> Iterator[Server]:
    server = processes.start_vllm(directory / "mortal", VLLM_API_KEY=INSTANCE_KEY)
    yield server
    server.kill()


@pytest.fixture
def front(directory: Path, mortal: Server) -> Iterator[Tapped]:
    tap = Tap(mortal.port)
    try:
        gateway = processes.start_gateway(directory, settings(tap.port, CACHE_REFRESH_INTERVAL="1h"))
        assert get(gateway, "/v1/models", CALLER).status == 200
        tap.forget()
        yield Tapped(gateway, tap)
        gateway.stop()
    finally:
        tap.close()


def read_what_comes(response: http.client.HTTPResponse) -> tuple[bytes, bool]:
    """The rest of a body, and whether it ended cleanly."""
    rest = b""
    try:
        while piece := response.read1(65536):
            rest += piece
    except (http.client.HTTPException, OSError):
        return rest, False
    return rest, True


def engine_of(server: Server) -> list[int]:
    """The engine's own processes, which vLLM runs beside its HTTP server."""
    listed = subprocess.run(
        ["pgrep", "-g", str(server.process.pid), "VLLM::"], capture_output=True, text=True, check=True
    )
    return [int(pid) for pid in listed.stdout.split()]


def kill_engine(server: Server) -> None:
    for pid in engine_of(server):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("death", [Server.kill, kill_engine], ids=["server", "engine"])
@pytest.mark.parametrize("name", ["chat", pytest.param("responses", marks=pytest.mark.asks("/v1/responses"))])
def test_a_stream_ends_as_broken_or_whole_as_vllm_left_it(
    front: Tapped, mortal: Server, name: str, death: Callable[[Server], None]
) -> None:
    question = QUESTIONS[name]
    with streaming(front.gateway, question.path, question.body(SELECTOR, LONG, stream=True), CALLER) as response:
        read = first_event_with(response, b"delta")
        death(mortal)
        rest, clean = read_what_comes(response)
    received = front.tap.received()
    sent_whole = received.endswith(b"\r\n0\r\n\r\n")
    assert clean == sent_whole
    if death is Server.kill:
        assert not sent_whole
    if sent_whole:
        assert read + rest == front.tap.received_body()
        return
    # Whatever gomodel appends is one event that says so.
    events = cut_events(read + rest)
    assert [event.name for event in events if event.data == "[DONE]"] == []
    last = events[-1].json()
    if "error" in last:
        assert last["error"]["code"] == "stream_interrupted"


def test_a_waiting_client_gets_an_error_and_not_silence(front: Tapped, mortal: Server) -> None:
    question = QUESTIONS["chat"]
    with contextlib.closing(
        send(front.gateway, "POST", question.path, question.body(SELECTOR, LONG), CALLER)
    ) as connection:
        assert wait_for(lambda: requests_running(mortal) == 1)
        mortal.kill()
        response = connection.getresponse()
        assert response.status == 502
        assert b"upstream_error" in response.read()


def test_gomodel_finds_back_to_a_vllm_that_was_started_again(directory: Path) -> None:
    question = QUESTIONS["chat"]
    first = processes.start_vllm(directory / "mortal", VLLM_API_KEY=INSTANCE_KEY)
    gateway = processes.start_gateway(directory, settings(first.port, CIRCUIT_BREAKER_TIMEOUT="1s"))
    second = None

    def answer() -> tuple[int, str | None]:
        answered = post(gateway, question.path, question.body(SELECTOR, 1), CALLER)
        return answered.status, None if answered.status == 200 else answered.json()["error"]["code"]

    try:
        assert answer() == (200, None)
        first.kill()
        assert answer() == (502, "connection_refused")
        assert wait_for(lambda: answer() == (503, "circuit_open"))
        second = processes.start_vllm(directory / "mortal", port=first.port, VLLM_API_KEY=INSTANCE_KEY)
        assert wait_for(lambda: answer() == (200, None), 5)
    finally:
        first.kill()
        gateway.kill()
        if second:
            second.kill()
