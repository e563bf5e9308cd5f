"""Many streams at once, each of them whole."""

from concurrent.futures import ThreadPoolExecutor

from .processes import Server
from .questions import CALLER, QUESTIONS, SELECTOR
from .wire import cut_events, get, post

STREAMS, TOKENS = 64, 100


def test_sixty_four_streams_at_once_all_end_whole_with_every_token(vllm: Server, gateway: Server) -> None:
    question = QUESTIONS["chat"]
    body = {**question.body(SELECTOR, TOKENS, stream=True), "stream_options": {"include_usage": True}}

    def one(number: int) -> None:
        answer = post(gateway, question.path, body, {**CALLER, "X-Request-Id": f"stream-{number}"})
        *events, usage, done = cut_events(answer.body)
        assert done.data == "[DONE]"
        assert usage.json()["usage"]["completion_tokens"] == TOKENS
        assert {event.json()["id"] for event in events} == {f"chatcmpl-stream-{number}"}
        assert question.text(events)

    with ThreadPoolExecutor(STREAMS) as threads:
        assert len(list(threads.map(one, range(STREAMS)))) == STREAMS


def test_gomodel_counts_what_vllm_counted(vllm: Server, gateway: Server) -> None:
    def counted() -> float:
        wanted = "gomodel_requests_total{"
        lines = get(gateway, "/metrics", CALLER).body.decode().splitlines()
        return sum(
            float(line.rpartition(" ")[2]) for line in lines if line.startswith(wanted) and 'upstream="vllm"' in line
        )

    before = counted()
    for _ in range(5):
        post(gateway, "/v1/completions", {"model": SELECTOR, "prompt": "x", "max_tokens": 1}, CALLER)
    assert counted() - before == 5
