"""A whole answer is vLLM's to the byte, and so is the request vLLM gets, but for the instance's name."""

import json

import pytest

from .conftest import Tapped
from .processes import INSTANCE_KEY, MODEL, Server
from .questions import CALLER, DIRECT, LONG, PROMPT, QUESTIONS, SELECTOR, every_question
from .wire import get, masked, post, requests_running, wait_for

REQUEST_ID = "one-id.for_both"
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


@every_question
def test_an_answer_equals_the_one_asked_for_directly(vllm: Server, gateway: Server, name: str) -> None:
    question = QUESTIONS[name]
    named = {"X-Request-Id": REQUEST_ID}
    through = post(gateway, question.path, question.body(SELECTOR, 24), {**CALLER, **named})
    directly = post(vllm, question.path, question.body(MODEL, 24), {**DIRECT, **named})
    assert directly.status == through.status == 200
    assert masked(through.body) == masked(directly.body)


@every_question
def test_no_byte_of_an_answer_differs_from_what_vllm_sent(tapped: Tapped, name: str) -> None:
    question = QUESTIONS[name]
    through = post(tapped.gateway, question.path, question.body(SELECTOR, 24), CALLER)
    assert through.status == 200
    assert through.body == tapped.tap.received_body()


@every_question
def test_the_instances_name_is_the_only_thing_cut_from_a_request(tapped: Tapped, name: str) -> None:
    question = QUESTIONS[name]
    body = json.dumps(question.body(SELECTOR, 4), indent=3, ensure_ascii=False).encode()
    assert post(tapped.gateway, question.path, body, CALLER).status == 200
    assert tapped.tap.sent_body() == body.replace(b"vllm/", b"", 1)
    assert f"POST {question.path} HTTP/1.1".encode() in tapped.tap.sent()


def test_headers_of_an_answer_are_vllms_and_two_of_gomodels(vllm: Server, gateway: Server) -> None:
    question = QUESTIONS["chat"]
    through = post(gateway, question.path, question.body(SELECTOR, 4), {**CALLER, "X-Request-Id": REQUEST_ID})
    directly = post(vllm, question.path, question.body(MODEL, 4), {**DIRECT, "X-Request-Id": REQUEST_ID})
    added = {"x-request-id": REQUEST_ID, "x-gomodel-provider": "vllm"}
    assert {name: through.header(name) for name in added} == added
    # The date moves on between the two.
    apart = HOP_BY_HOP | added.keys() | {"date"}
    kept = [(key.lower(), value) for key, value in through.headers if key.lower() not in apart]
    assert kept == [(key.lower(), value) for key, value in directly.headers if key.lower() not in apart]
    assert through.header("date")


def test_the_head_vllm_gets_is_the_callers_with_the_key_swapped(tapped: Tapped) -> None:
    question = QUESTIONS["chat"]
    callers = {
        "X-Odd-CASE": "1",
        "Authorization": CALLER["Authorization"],
        "X-Request-Id": REQUEST_ID,
        "Connection": "X-For-Gomodel-Only",
        "X-For-Gomodel-Only": "1",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    assert post(tapped.gateway, question.path, question.body(SELECTOR, 2), callers).status == 200
    head, _, body = tapped.tap.sent().partition(b"\r\n\r\n")
    request_line, *lines = head.decode().split("\r\n")
    assert request_line == f"POST {question.path} HTTP/1.1"
    assert sorted(lines, key=str.lower) == [
        f"Authorization: Bearer {INSTANCE_KEY}",
        f"Content-Length: {len(body)}",
        "Content-Type: application/json",
        f"Host: 127.0.0.1:{tapped.tap.port}",
        f"traceparent: {callers['traceparent']}",
        "X-Odd-CASE: 1",
        f"X-Request-Id: {REQUEST_ID}",
    ]


def test_the_callers_request_id_becomes_vllms(gateway: Server) -> None:
    question = QUESTIONS["chat"]
    answer = post(gateway, question.path, question.body(SELECTOR, 2), {**CALLER, "X-Request-Id": REQUEST_ID})
    assert answer.json()["id"] == f"chatcmpl-{REQUEST_ID}"
    assert answer.header("x-request-id") == REQUEST_ID


@pytest.mark.parametrize("model", [{"model": MODEL}, {}], ids=["bare id", "no model"])
def test_the_only_instance_takes_requests_that_name_none(gateway: Server, model: dict[str, str]) -> None:
    answer = post(gateway, "/v1/completions", {**model, "prompt": PROMPT, "max_tokens": 2}, CALLER)
    assert (answer.status, answer.json()["model"]) == (200, MODEL)
    assert answer.header("x-gomodel-provider") == "vllm"


@pytest.mark.asks("/v1/messages/count_tokens")
def test_token_counts_of_messages_come_through(vllm: Server, gateway: Server) -> None:
    fields = QUESTIONS["messages"].fields
    through = post(gateway, "/v1/messages/count_tokens", {"model": SELECTOR, **fields}, CALLER)
    directly = post(vllm, "/v1/messages/count_tokens", {"model": MODEL, **fields}, DIRECT)
    assert through.body == directly.body
    assert through.json()["input_tokens"] > 0


def test_an_answer_larger_than_one_read_comes_through_whole(tapped: Tapped) -> None:
    fields = {"prompt": PROMPT, "logprobs": 5, "max_tokens": 1024, "ignore_eos": True, "seed": 1}
    through = post(tapped.gateway, "/v1/completions", {"model": SELECTOR, **fields}, CALLER)
    assert through.status == 200
    assert len(through.json()["choices"][0]["logprobs"]["tokens"]) == 1024
    assert len(through.body) > 65536
    assert through.body == tapped.tap.received_body()


@pytest.mark.asks("several choices")
def test_several_prompts_and_log_probabilities_come_through_whole(vllm: Server, gateway: Server) -> None:
    fields = {"prompt": [PROMPT, "import os"], "n": 2, "logprobs": 5, "echo": True, "max_tokens": 64, "seed": 1}
    named = {"X-Request-Id": REQUEST_ID}
    through = post(gateway, "/v1/completions", {"model": SELECTOR, **fields}, {**CALLER, **named})
    assert len(through.json()["choices"]) == 4
    assert len(through.body) > 65536, "meant to be larger than one read"
    directly = post(vllm, "/v1/completions", {"model": MODEL, **fields}, {**DIRECT, **named})
    assert [choice["text"] for choice in through.json()["choices"]] == [
        choice["text"] for choice in directly.json()["choices"]
    ]


@pytest.mark.asks("/v1/responses")
def test_a_stored_response_is_found_again(gateway: Server) -> None:
    question = QUESTIONS["responses"]
    made = post(gateway, question.path, question.body(SELECTOR, 4), CALLER).json()
    found = get(gateway, f"/v1/responses/{made['id']}?stream=false", CALLER)
    assert found.status == 200
    assert found.json()["output"] == made["output"]


@pytest.mark.asks("/v1/responses")
def test_a_background_response_is_cancelled_where_it_runs(vllm: Server, gateway: Server) -> None:
    question = QUESTIONS["responses"]
    made = post(gateway, question.path, {**question.body(SELECTOR, LONG), "background": True}, CALLER).json()
    try:
        # vLLM forgets to stop a response that is cancelled before its engine has begun.
        assert wait_for(lambda: requests_running(vllm) == 1)
        cancelled = post(gateway, f"/v1/responses/{made['id']}/cancel", None, CALLER)
        assert (cancelled.status, cancelled.json()["status"]) == (200, "cancelled")
    finally:
        post(vllm, f"/v1/responses/{made['id']}/cancel", None, DIRECT)
        assert wait_for(lambda: requests_running(vllm) == 0)


def test_an_unknown_response_gets_vllms_own_404(vllm: Server, gateway: Server) -> None:
    through = get(gateway, "/v1/responses/resp_0123456789abcdef", CALLER)
    directly = get(vllm, "/v1/responses/resp_0123456789abcdef", DIRECT)
    assert directly.status == 404
    assert (through.status, through.body) == (directly.status, directly.body)
