"""SIGTERM to gomodel lets what runs finish and takes nothing new."""

import http.client
import signal
import time
from pathlib import Path

import pytest

from gomodel.host.signals import DUPLICATE_S

from . import processes
from .conftest import settings
from .processes import Server
from .questions import CALLER, LONG, QUESTIONS, SELECTOR
from .wire import cut_events, first_event_with, get, requests_running, streaming, wait_for

TOKENS = 400


def test_a_stream_that_runs_at_sigterm_ends_whole_and_gomodel_with_status_0(directory: Path, vllm: Server) -> None:
    gateway = processes.start_gateway(directory, settings(vllm.port, GOMODEL_DRAIN_TIMEOUT="1m"))
    question = QUESTIONS["chat"]
    body = {**question.body(SELECTOR, TOKENS, stream=True), "stream_options": {"include_usage": True}}
    try:
        with streaming(gateway, question.path, body, CALLER) as response:
            read = first_event_with(response, b'"delta"')
            gateway.process.send_signal(signal.SIGTERM)
            events = cut_events(read + response.read())
        assert events[-1].data == "[DONE]"
        assert events[-2].json()["usage"]["completion_tokens"] == TOKENS
        assert gateway.process.wait(processes.STOP_S) == 0
        with pytest.raises(ConnectionRefusedError):
            get(gateway, "/health")
    finally:
        gateway.kill()


def test_a_second_sigterm_ends_the_stream_as_broken_and_frees_vllm(directory: Path, vllm: Server) -> None:
    gateway = processes.start_gateway(directory, settings(vllm.port, GOMODEL_DRAIN_TIMEOUT="10m"))
    question = QUESTIONS["chat"]
    try:
        with streaming(gateway, question.path, question.body(SELECTOR, LONG, stream=True), CALLER) as response:
            first_event_with(response, b'"delta"')
            gateway.process.send_signal(signal.SIGTERM)
            assert wait_for(lambda: refuses(gateway))
            # Sooner it would be taken for the first one, delivered twice.
            time.sleep(2 * DUPLICATE_S)
            gateway.process.send_signal(signal.SIGTERM)
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                response.read()
        assert gateway.process.wait(processes.STOP_S) == 128 + signal.SIGTERM
        assert wait_for(lambda: requests_running(vllm) == 0, 1.0)
    finally:
        gateway.kill()


def refuses(server: Server) -> bool:
    try:
        get(server, "/health")
    except OSError:
        return True
    return False
