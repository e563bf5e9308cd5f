"""/p/... and the routes vLLM has at the root."""

import pytest

from .conftest import Tapped
from .processes import MODEL, Server
from .questions import CALLER, DIRECT, PROMPT, QUESTIONS, SELECTOR
from .wire import ask, get, post


@pytest.mark.parametrize("path", ["/p/vllm/tokenize", "/p/vllm/v1/tokenize"])
def test_tokenize_below_p_takes_vllms_own_model_name(vllm: Server, gateway: Server, path: str) -> None:
    through = post(gateway, path, {"model": MODEL, "prompt": PROMPT}, CALLER)
    directly = post(vllm, "/tokenize", {"model": MODEL, "prompt": PROMPT}, DIRECT)
    assert through.status == 200
    assert through.body == directly.body


def test_tokenize_at_the_root_goes_where_its_selector_says_and_back(gateway: Server) -> None:
    tokens = post(gateway, "/tokenize", {"model": SELECTOR, "prompt": PROMPT}, CALLER)
    assert (tokens.status, tokens.header("x-gomodel-provider")) == (200, "vllm")
    text = post(gateway, "/detokenize", {"model": SELECTOR, "tokens": tokens.json()["tokens"]}, CALLER)
    assert text.json() == {"prompt": PROMPT}


@pytest.mark.parametrize("path", ["/p/vllm/v1/chat/completions", "/p/vllm/chat/completions"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_body_below_p_is_forwarded_without_a_look(tapped: Tapped, path: str, stream: bool) -> None:
    body = QUESTIONS["chat"].body(MODEL, 16, stream=stream)
    answer = post(tapped.gateway, path, body, CALLER)
    assert answer.status == 200
    assert answer.body == tapped.tap.received_body()
    assert b"POST /v1/chat/completions HTTP/1.1\r\n" in tapped.tap.sent()


def test_a_selector_below_p_is_not_understood(vllm: Server, gateway: Server) -> None:
    body = QUESTIONS["chat"].body(SELECTOR, 2)
    through = post(gateway, "/p/vllm/v1/chat/completions", body, CALLER)
    assert through.status == 404
    assert through.body == post(vllm, "/v1/chat/completions", body, DIRECT).body


@pytest.mark.parametrize("path", ["/version", "/load"])
def test_routes_at_vllms_root_answer_below_p(vllm: Server, gateway: Server, path: str) -> None:
    assert get(gateway, f"/p/vllm{path}", CALLER).body == get(vllm, path).body


def test_vllms_metrics_come_through_whole(tapped: Tapped, vllm: Server) -> None:
    answer = get(tapped.gateway, "/p/vllm/metrics", CALLER)
    directly = get(vllm, "/metrics")
    assert answer.status == directly.status == 200
    assert answer.header("content-type") == directly.header("content-type")
    assert answer.body == tapped.tap.received_body()
    assert len(answer.body) > 50_000
    assert b"vllm:num_requests_running" in answer.body


def test_health_below_p_is_vllms_and_at_the_root_gomodels(gateway: Server) -> None:
    below = get(gateway, "/p/vllm/health", CALLER)
    assert (below.status, below.body) == (200, b"")
    assert get(gateway, "/health").json() == {"status": "ok"}
    assert get(gateway, "/health/ready").status == 200


ADMINISTRATIVE = [
    "/pause", "/sleep?level=1", "/wake_up", "/collective_rpc", "/reset_prefix_cache", "/scale_elastic_ep",
    "/abort_requests", "/adapters", "/start_profile", "/v1/load_lora_adapter", "/load_lora_adapter",
    "/v1/unload_lora_adapter", "/%70ause", "//pause", "/v1/pause",
]  # fmt: skip


@pytest.mark.parametrize("path", ADMINISTRATIVE)
def test_administrative_routes_stay_closed_and_name_their_switch(tapped: Tapped, path: str) -> None:
    answer = post(tapped.gateway, f"/p/vllm{path}", {}, CALLER)
    assert answer.status in {400, 403}
    if answer.status == 403:
        assert "PASSTHROUGH_ADMIN_ROUTES" in answer.json()["error"]["message"]
    assert tapped.tap.sent() == b""


@pytest.mark.parametrize("path", ["/pause", "/sleep", "/abort_requests", "/v1/load_lora_adapter", "/server_info"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_administrative_routes_do_not_exist_outside_p(tapped: Tapped, method: str, path: str) -> None:
    assert ask(tapped.gateway, method, path, {"model": SELECTOR}, CALLER).status in {403, 404, 405}
    assert tapped.tap.sent() == b""


@pytest.mark.asks("redirects")
def test_a_redirect_of_vllm_is_not_followed_and_leads_to_the_gateway(gateway: Server) -> None:
    answer = get(gateway, "/p/vllm/v1/models/", CALLER)
    assert (answer.status, answer.header("location")) == (307, "/p/vllm/v1/models")


def test_a_query_arrives_as_it_was_sent(tapped: Tapped) -> None:
    answer = get(tapped.gateway, "/p/vllm/models?stream=false&x=%2F%41%20+", CALLER)
    assert answer.status == 200
    assert answer.body == tapped.tap.received_body()
    assert b"GET /v1/models?stream=false&x=%2F%41%20+ HTTP/1.1\r\n" in tapped.tap.sent()
