"""vLLM's own errors pass unchanged; gomodel's own are told apart by their shape."""

import http.client
from typing import Any

import pytest

from . import vllm_setup
from .conftest import Tapped
from .frontend import ROUTES_RUST_LACKS
from .processes import MODEL, Server
from .questions import CALLER, DIRECT, MESSAGES, SELECTOR
from .wire import ask, masked, post

HUNDRED_KB = [{"role": "user", "content": "word " * 20_000}]

# status, path, body without the model
VLLM_REFUSES: dict[str, tuple[int, str, dict[str, Any]]] = {
    "messages missing": (400, "/v1/chat/completions", {}),
    "messages ill-typed": (400, "/v1/chat/completions", {"messages": 1}),
    "temperature out of range": (400, "/v1/chat/completions", {"messages": MESSAGES, "temperature": 9}),
    "prompt too long": (400, "/v1/chat/completions", {"messages": HUNDRED_KB}),
    "prompt too long, streamed": (400, "/v1/chat/completions", {"messages": HUNDRED_KB, "stream": True}),
    "Anthropic body in OpenAI shape": (400, "/v1/messages", {"messages": MESSAGES}),
    "a role that is none": (400, "/v1/responses", {"input": [{"role": "nobody"}]}),
    "a route vLLM does not have": (404, "/v1/images/generations", {"prompt": "a cat"}),
    "a route this model does not have": (404, "/v1/embeddings", {"input": "x"}),
}


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.asks(path)) for case, (_, path, _) in VLLM_REFUSES.items()]
)
def test_a_refusal_of_vllm_passes_to_the_byte(vllm: Server, tapped: Tapped, case: str) -> None:
    status, path, fields = VLLM_REFUSES[case]
    through = post(tapped.gateway, path, {"model": SELECTOR, **fields}, CALLER)
    directly = post(vllm, path, {"model": MODEL, **fields}, DIRECT)
    assert through.status == directly.status == status
    assert through.body == tapped.tap.received_body()
    assert masked(through.body) == masked(directly.body)
    assert through.header("content-type") == directly.header("content-type")
    assert through.header("x-gomodel-provider") == "vllm"


@pytest.mark.skipif(not vllm_setup.rust(), reason="the front end in Python has these routes")
@pytest.mark.parametrize("path", ROUTES_RUST_LACKS)
def test_vllms_own_answer_passes_for_a_route_its_front_end_lacks(vllm: Server, gateway: Server, path: str) -> None:
    through = post(gateway, path, {"model": SELECTOR}, CALLER)
    directly = post(vllm, path, {"model": MODEL}, DIRECT)
    assert directly.status in {404, 501}
    assert (through.status, through.body) == (directly.status, directly.body)
    assert through.header("content-type") == directly.header("content-type")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", pytest.param("/v1/messages", marks=pytest.mark.asks("/v1/messages")), "/tokenize"]
)
def test_a_model_vllm_does_not_serve_gets_vllms_own_404(vllm: Server, gateway: Server, path: str, stream: bool) -> None:
    fields = {"messages": MESSAGES, "max_tokens": 2, "stream": stream}
    through = post(gateway, path, {"model": "vllm/nobody/nothing", **fields}, CALLER)
    directly = post(vllm, path, {"model": "nobody/nothing", **fields}, DIRECT)
    assert directly.status == 404
    assert (through.status, through.body) == (directly.status, directly.body)
    assert b"`nobody/nothing`" in through.body


def test_a_media_type_vllm_refuses_gets_vllms_own_400(vllm: Server, gateway: Server) -> None:
    def refused(server: Server, model: str, key: dict[str, str]) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        body = f'{{"model":"{model}","prompt":"x"}}'
        connection.request("POST", "/v1/completions", body, {"Content-Type": "text/plain", **key})
        response = connection.getresponse()
        answer = response.status, response.read()
        connection.close()
        return answer

    assert refused(gateway, SELECTOR, CALLER) == refused(vllm, MODEL, DIRECT)
    assert refused(gateway, SELECTOR, CALLER)[0] == 400


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_method_vllm_refuses_in_passthrough_gets_vllms_own_405(vllm: Server, gateway: Server, method: str) -> None:
    through = ask(gateway, method, "/p/vllm/v1/chat/completions", None, CALLER)
    directly = ask(vllm, method, "/v1/chat/completions", None, DIRECT)
    assert directly.status == 405
    assert (through.status, through.body) == (directly.status, directly.body)
    assert through.header("allow") == directly.header("allow")


@pytest.mark.parametrize("body", [b"{", b"[1]", b'"x"', b'{"model":7}', b'{"model":""}'])
def test_a_body_without_a_readable_selector_never_reaches_vllm(tapped: Tapped, body: bytes) -> None:
    answer = post(tapped.gateway, "/v1/chat/completions", body, CALLER)
    assert answer.status == 400
    assert answer.json()["error"]["code"] in {"invalid_body", "model_required"}
    assert tapped.tap.sent() == b""


def test_the_same_refusal_has_the_anthropic_shape_on_messages(tapped: Tapped) -> None:
    answer = post(tapped.gateway, "/v1/messages", b"{", CALLER)
    assert (answer.status, answer.json()["type"]) == (400, "error")
    assert answer.json()["error"].keys() == {"type", "message"}
    assert tapped.tap.sent() == b""
