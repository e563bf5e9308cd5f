"""A stream reaches the client event by event, to the byte, and ends as vLLM ended it."""

import pytest

from .conftest import Tapped
from .processes import MODEL, Server
from .questions import CALLER, DIRECT, LONG, QUESTIONS, SELECTOR, every_question
from .wire import cut_events, first_event_with, post, requests_running, streaming, wait_for

TOKENS = 200


@every_question
def test_no_byte_of_a_stream_differs_from_what_vllm_sent(tapped: Tapped, name: str) -> None:
    question = QUESTIONS[name]
    through = post(tapped.gateway, question.path, question.body(SELECTOR, TOKENS, stream=True), CALLER)
    assert through.status == 200
    assert through.body == tapped.tap.received_body()


@every_question
def test_a_greedy_stream_says_what_it_says_when_asked_for_directly(vllm: Server, gateway: Server, name: str) -> None:
    question = QUESTIONS[name]
    through = post(gateway, question.path, question.body(SELECTOR, TOKENS, stream=True), CALLER)
    directly = post(vllm, question.path, question.body(MODEL, TOKENS, stream=True), DIRECT)
    # vLLM merges tokens into one event when a reader lags, so the texts are compared and not the events.
    assert question.text(cut_events(through.body)) == question.text(cut_events(directly.body)) != ""


@every_question
def test_a_stream_ends_as_its_route_ends_streams(gateway: Server, name: str) -> None:
    question = QUESTIONS[name]
    events = cut_events(post(gateway, question.path, question.body(SELECTOR, 8, stream=True), CALLER).body)
    dones = [position for position, event in enumerate(events) if event.data == "[DONE]"]
    if question.last_data:
        assert dones == [len(events) - 1]
        assert {event.name for event in events} == {None}
    else:
        assert dones == []
        assert events[-1].name == question.last_name
        assert all(event.name == event.json()["type"] for event in events)


@pytest.mark.asks("/v1/responses")
def test_the_events_of_a_response_are_numbered_without_a_gap(gateway: Server) -> None:
    question = QUESTIONS["responses"]
    events = cut_events(post(gateway, question.path, question.body(SELECTOR, TOKENS, stream=True), CALLER).body)
    assert [event.json()["sequence_number"] for event in events] == list(range(len(events)))
    assert events[0].name == "response.created"


def test_every_event_of_a_chat_carries_the_callers_request_id(gateway: Server) -> None:
    question = QUESTIONS["chat"]
    headers = {**CALLER, "X-Request-Id": "abc.1_2-3"}
    events = cut_events(post(gateway, question.path, question.body(SELECTOR, 8, stream=True), headers).body)
    assert {event.json()["id"] for event in events[:-1]} == {"chatcmpl-abc.1_2-3"}


def test_the_head_forbids_buffering_and_names_the_instance(vllm: Server, gateway: Server) -> None:
    question = QUESTIONS["chat"]
    answer = post(gateway, question.path, question.body(SELECTOR, 2, stream=True), CALLER)
    directly = post(vllm, question.path, question.body(MODEL, 2, stream=True), DIRECT)
    assert answer.header("content-type") == directly.header("content-type")
    assert (answer.header("content-type") or "").partition(";")[0] == "text/event-stream"
    assert answer.header("cache-control") == "no-cache"
    assert answer.header("x-accel-buffering") == "no"
    assert answer.header("x-gomodel-provider") == "vllm"
    assert answer.header("x-request-id")


@pytest.mark.parametrize("asked", [True, False])
def test_usage_is_in_a_stream_when_and_only_when_the_caller_asked(gateway: Server, asked: bool) -> None:
    question = QUESTIONS["chat"]
    body = question.body(SELECTOR, 8, stream=True)
    if asked:
        body["stream_options"] = {"include_usage": True}
    events = cut_events(post(gateway, question.path, body, CALLER).body)
    counts = [event.json()["usage"]["completion_tokens"] for event in events[:-1] if event.json().get("usage")]
    assert counts == ([8] if asked else [])


@every_question
def test_the_first_words_arrive_while_vllm_still_writes_the_rest(vllm: Server, gateway: Server, name: str) -> None:
    question = QUESTIONS[name]
    with streaming(gateway, question.path, question.body(SELECTOR, LONG, stream=True), CALLER) as response:
        first_event_with(response, b"delta" if name != "completions" else b'"text"')
        # One and not more: the request of the test before may take a moment to be noticed as gone.
        assert wait_for(lambda: requests_running(vllm) == 1, 2)


def test_comments_that_keep_a_silent_stream_alive_arrive_during_the_silence(vllm: Server, gateway: Server) -> None:
    question = QUESTIONS["chat"]
    assert post(vllm, "/pause?mode=keep", None).status == 200
    try:
        with streaming(gateway, question.path, question.body(SELECTOR, 4, stream=True), CALLER) as response:
            assert response.status == 200
            assert response.readline() == b": keep-alive\n"
            assert post(vllm, "/resume", None).status == 200
            rest = response.read()
    finally:
        post(vllm, "/resume", None)
    assert cut_events(rest.removeprefix(b"\n"))[-1].data == "[DONE]"
