"""What an answer took: the `usage` of each kind of vLLM's, from its beginning and end, and nothing that imitates it."""

import json
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gomodel.telemetry.usage import Usage, usage_of

modest = settings(derandomize=True, deadline=None, database=None, max_examples=150)

CHAT = {"prompt_tokens": 12, "total_tokens": 19, "completion_tokens": 7, "prompt_tokens_details": None}
CACHED = {**CHAT, "prompt_tokens_details": {"cached_tokens": 8}}
RESPONSES = {
    "input_tokens": 12,
    "input_tokens_details": {"cached_tokens": 8, "input_tokens_per_turn": []},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 19,
}
# More than any end of an answer that is remembered.
END_BYTES = 65536
TOOK, TOOK_CACHED = Usage(12, 7), Usage(12, 7, 8)
DECOY = {
    "prompt_tokens": 999,
    "completion_tokens": 999,
    "input_tokens": 999,
    "output_tokens": 999,
    "total_tokens": 1998,
}
IMITATION = json.dumps({"usage": DECOY})


def compact(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def chat(usage: Any = CHAT, content: str = "Hello", **after: Any) -> dict[str, Any]:
    choices = [{"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": "stop"}]
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": choices}
    return {**head, "system_fingerprint": None, "usage": usage, "prompt_logprobs": None, **after}


def message(content: Any, **usage: int) -> dict[str, Any]:
    head = {"id": "chatcmpl-1", "type": "message", "role": "assistant", "content": content, "model": "m"}
    return {**head, "stop_reason": "end_turn", "usage": usage}


def event(document: Any, name: str = "") -> bytes:
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + compact(document) + b"\n\n"


DONE = b"data: [DONE]\n\n"
DELTA = event({"id": "c", "choices": [{"index": 0, "delta": {"content": IMITATION}}], "usage": None})
FINAL = {"id": "c", "object": "chat.completion.chunk", "choices": [], "usage": CACHED}
START = event({"type": "message_start", "message": message([], input_tokens=12, output_tokens=0)}, "message_start")
STOP = event({"type": "message_stop"}, "message_stop")
TOOL = {"type": "tool_use", "id": "t", "name": "n", "input": {"usage": DECOY}}


def message_delta(**usage: int) -> bytes:
    return event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}, "message_delta")


def completed(**more: Any) -> bytes:
    response = {"id": "resp_1", "object": "response", "output": [], **more, "usage": RESPONSES, "user": None}
    return event({"type": "response.completed", "sequence_number": 9, "response": response}, "response.completed")


DOCUMENTS: dict[str, tuple[bytes, Usage | None]] = {
    "chat": (compact(chat()), TOOK),
    "chat, spaced": (json.dumps(chat(), indent=2).encode(), TOOK),
    "chat, cached": (compact(chat(CACHED)), TOOK_CACHED),
    "chat, cached, with other details": (
        compact(
            chat(
                {
                    **CHAT,
                    "prompt_tokens_details": {"cached_tokens": 8, "created_cache_tokens": None},
                    "completion_tokens_details": None,
                },
                metrics=None,
            )
        ),
        TOOK_CACHED,
    ),
    "chat, with how much was thought": (
        compact(chat({**CACHED, "completion_tokens_details": {"reasoning_tokens": 3}})),
        TOOK_CACHED,
    ),
    "more cached than there was": (compact(chat({**CACHED, "prompt_tokens": 7})), Usage(7, 7)),
    "more cached than there was, spaced": (json.dumps(chat({**CACHED, "prompt_tokens": 7})).encode(), Usage(7, 7)),
    "chat, transferred": (compact(chat(kv_transfer_params={"usage": DECOY})), TOOK),
    "chat, prompt logprobs behind": (compact(chat(prompt_logprobs=[None, {"5": {"rank": 1}}] * 500)), TOOK),
    "chat that imitates": (compact(chat(content=IMITATION * 3 + '\\"usage"')), TOOK),
    "embeddings": (compact({"data": [0.1], "usage": {"prompt_tokens": 12, "total_tokens": 12}}), Usage(12)),
    "embeddings, completion null": (
        compact({"data": [], "usage": {"prompt_tokens": 5, "total_tokens": 5, "completion_tokens": None}}),
        Usage(5),
    ),
    "rerank": (compact({"id": "r", "usage": {"total_tokens": 12}, "results": [{"text": IMITATION}]}), Usage(12)),
    "responses": (compact({"output": [], "tools": [{"usage": DECOY}], "usage": RESPONSES, "user": None}), TOOK_CACHED),
    "messages": (compact(message([TOOL], input_tokens=12, output_tokens=7)), TOOK),
    "messages, cached": (
        compact(message([], input_tokens=3, output_tokens=7, cache_creation_input_tokens=1, cache_read_input_tokens=8)),
        TOOK_CACHED,
    ),
    "decisions": (compact({"answers": [], "usage": {"input_tokens": 12, "output_tokens": 7}}), TOOK),
    "cohere": (
        compact({"usage": {"tokens": {"input_tokens": 12.0, "output_tokens": 7.0}, "cached_tokens": 8.0}, "x": None}),
        TOOK_CACHED,
    ),
    "transcription": (compact({"text": "a", "usage": {"type": "duration", "seconds": 3}}), Usage(audio_s=3.0)),
    "another encoding of a name": (b'{"\\u0075sage":{"prompt_tokens":1,"total_tokens":1}}', None),
    "no usage": (compact({"tokens": [1, 2]}), None),
    "null": (compact(chat(None)), None),
    "a list": (compact(chat([CHAT])), None),
    "a text": (compact(chat(IMITATION)), None),
    "only deeper": (compact({"a": {"usage": CHAT}}), None),
    "only deeper, in a list": (compact({"a": [{"usage": CHAT}]}), None),
    "only a value": (compact({"a": "usage", "b": ["usage"]}), None),
    "only in a string": (compact({"text": IMITATION}), None),
    "only a longer name": (rb'{"\"usage":{"prompt_tokens":1,"total_tokens":1}}', None),
    "only a longer name, of the usual numbers": (
        rb'{"\"usage":{"prompt_tokens":1,"total_tokens":1,"completion_tokens":0}}',
        None,
    ),
    "usual numbers, only deeper": (b'{"a":{"usage":{"prompt_tokens":1,"total_tokens":1}}}', None),
    "negative": (compact(chat({**CHAT, "prompt_tokens": -1})), None),
    "a fraction": (compact(chat({**CHAT, "prompt_tokens": 1.5})), None),
    "a boolean": (compact(chat({**CHAT, "prompt_tokens": True})), None),
    "huge": (compact(chat({**CHAT, "prompt_tokens": 1 << 60})), None),
    "infinite": (b'{"usage":{"prompt_tokens":1e999,"total_tokens":1}}', None),
    "no numbers": (compact(chat({})), None),
    "less in all than made": (compact(chat({"total_tokens": 1, "completion_tokens": 2})), None),
    "no output": (compact({"usage": {"input_tokens": 1}}), None),
    "odd details": (compact(chat({**CHAT, "prompt_tokens_details": {"cached_tokens": "8"}})), None),
    "a duration of no number": (compact({"usage": {"type": "duration", "seconds": "3"}}), None),
    "cut short behind it": (compact(chat())[:-1], TOOK),
    "cut short in it": (compact(chat())[:-60], None),
    "two documents": (compact(chat()) * 2, TOOK),
    "too deep": (b'{"a":' + b"[" * 5000 + b'"usage":{' + b"]" * 5000, None),
    "many names": (b'{"a":[' + b'"usage",' * 3000 + b'"usage"]}', None),
    "bytes of another kind": (b'\x00\xff"usage"\x00' * 20, None),
    "empty": (b"", None),
}
STREAMS: dict[str, tuple[bytes, Usage | None]] = {
    "chat": (DELTA * 3 + event(FINAL) + DONE, TOOK_CACHED),
    "chat, usage in each event": (
        DELTA + event({**FINAL, "choices": [{"delta": {"content": "a"}}], "usage": CHAT}) + DONE,
        TOOK,
    ),
    "the last one counts": (event({**FINAL, "usage": DECOY}) + event(FINAL) + DONE, TOOK_CACHED),
    "with carriage returns": ((DELTA + event(FINAL) + DONE).replace(b"\n", b"\r\n"), TOOK_CACHED),
    "without a space": (event(FINAL).replace(b"data: ", b"data:") + DONE, TOOK_CACHED),
    "kept alive": (DELTA + event(FINAL) + DONE + b": keep-alive\n\n", TOOK_CACHED),
    "an event that ends with the stream": (DELTA + event(FINAL).strip(), TOOK_CACHED),
    "chat without usage": (DELTA * 3 + DONE, None),
    "responses": (completed(), TOOK_CACHED),
    "responses with a tool that imitates": (completed(tools=[{"parameters": {"usage": DECOY}}]), TOOK_CACHED),
    "messages": (START + message_delta(input_tokens=12, output_tokens=7) + STOP, TOOK),
    "messages, input at the start": (START + message_delta(output_tokens=7) + STOP, TOOK),
    "messages, input nowhere": (message_delta(output_tokens=7) + STOP, None),
    "cohere": (
        event({"type": "message-end", "delta": {"usage": {"tokens": {"input_tokens": 12, "output_tokens": 7}}}}),
        TOOK,
    ),
    "a comment that imitates": (DELTA + b": " + compact(FINAL) + b"\n\n", None),
    "a field that imitates": (DELTA + b"id: " + compact(FINAL) + b"\n\n", None),
    "no object": (b'data: ["usage"]\n\ndata: "usage"\n\n', None),
    "deeper": (event({"a": {"b": {"usage": CHAT}}}) + event({"response": {"a": {"usage": CHAT}}}), None),
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_usage_of_a_document(name: str) -> None:
    body, expected = DOCUMENTS[name]
    for _ in range(2):  # how it ends is known the second time
        assert usage_of(body, body, events=False) == expected


@pytest.mark.parametrize(("prompt", "known"), [(12, True), (0, True), (10**14, True), (10**16, False)])
def test_behind_an_end_that_came_before_the_counts_are_its_own(prompt: int, known: bool) -> None:
    for usage in CHAT, {**CHAT, "prompt_tokens": prompt, "completion_tokens": 8}:
        body = compact(chat(usage))
        found = usage_of(body, body, events=False)
    assert found == (Usage(prompt, 8) if known else None)


@pytest.mark.parametrize("name", STREAMS)
def test_usage_of_a_stream(name: str) -> None:
    body, expected = STREAMS[name]
    assert usage_of(body, body, events=True) == expected


@pytest.mark.parametrize(("body", "events"), [(compact(chat(CACHED)), False), (DELTA * 3 + event(FINAL) + DONE, True)])
def test_of_any_end_that_holds_it_the_usage_is_the_same_and_of_a_shorter_one_none(body: bytes, events: bool) -> None:
    begins = body.rindex(b'"usage"')
    for at in range(len(body)):
        assert usage_of(body[:10], body[at:], events=events) == (TOOK_CACHED if at <= begins else None), at


def test_a_usage_before_documents_is_found_in_the_beginning() -> None:
    body = compact({"id": "r", "model": "m", "usage": {"total_tokens": 12}, "results": ["x" * END_BYTES] * 2})
    assert usage_of(body[:4096], body[-END_BYTES:], events=False) == Usage(12)
    assert usage_of(body[:40], body[-END_BYTES:], events=False) is None, "cut within it"


def test_a_decoy_in_the_beginning_does_not_count() -> None:
    body = compact({"id": "r", "content": [TOOL, "x" * END_BYTES], "results": []})
    assert usage_of(body[:4096], body[-4096:], events=False) is None


def test_a_response_longer_than_what_is_remembered_is_known_by_its_end() -> None:
    body = completed(instructions="x" * 2 * END_BYTES)
    assert usage_of(body[:4096], body[-4096:], events=True) == TOOK_CACHED


def test_the_first_piece_alone_says_nothing_of_a_stream() -> None:
    assert usage_of(START, DELTA, events=True) is None


leaves = st.none() | st.booleans() | st.integers(0, 9) | st.sampled_from([IMITATION, '"usage":', "\\", '\\"', "usage"])
names = st.sampled_from(["usage", "a", '"usage', "usage\\", "response", '\\"usage'])
content = st.recursive(leaves, lambda each: st.lists(each, max_size=3) | st.dictionaries(names, each, max_size=3))
usages = st.builds(
    lambda prompt, completion: {"prompt_tokens": prompt, "completion_tokens": completion},
    st.integers(0, 1000),
    st.integers(0, 1000),
)


@modest
@given(content, content, usages, st.booleans(), st.sampled_from([None, 2]))
def test_content_never_counts(before: Any, after: Any, usage: dict[str, int], real: bool, indent: int | None) -> None:
    document = {"choices": before, **({"usage": usage} if real else {}), "kv_transfer_params": after}
    expected = Usage(usage["prompt_tokens"], usage["completion_tokens"]) if real else None
    body = json.dumps(document, indent=indent).encode()
    found = usage_of(body, body, events=False)
    # Beyond so many imitations none is looked at, and the usage is unknown.
    assert found == expected or (found is None and body.count(b'"usage"') > 4)
    line = b"data: " + json.dumps(document).encode() + b"\n\n"
    found = usage_of(line, line, events=True)
    assert found == expected or (found is None and line.count(b'"usage"') > 4)


@modest
@given(st.lists(st.sampled_from([DELTA, event(FINAL), START, STOP, completed(), b"\n", b'"usage"']), max_size=6))
def test_any_mixture_is_read_without_a_failure(events: Iterable[bytes]) -> None:
    body = b"".join(events)
    for at in range(0, len(body), 7):
        usage_of(body[:at], body[at:], events=True)
        usage_of(body[:at], body[at:], events=False)


def test_all_of_a_prompt_may_come_from_the_cache_and_no_more() -> None:
    for cached, known in ((7, 7), (8, None)):
        body = (
            b'{"usage":{"prompt_tokens":7,"completion_tokens":1,"prompt_tokens_details":{"cached_tokens":%d}}}' % cached
        )
        assert usage_of(body, body, events=False) == Usage(7, 1, known)


def test_no_time_at_all_is_a_time() -> None:
    body = b'{"text":"","usage":{"type":"duration","seconds":0}}'
    assert usage_of(body, body, events=False) == Usage(audio_s=0)


def test_what_is_no_event_between_events_hides_none_before_it() -> None:
    piece = b'data: {"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n: "usage" was said\n\ndata: [DONE]\n\n'
    assert usage_of(piece, piece, events=True) == Usage(7, 1)


def test_an_event_that_the_piece_ends_in_is_read_as_far_as_it_goes() -> None:
    piece = b'"usage":{"prompt_tokens":7,"completion_tokens":1}}'
    assert usage_of(piece, piece, events=True) == Usage(7, 1)


def test_of_many_names_that_are_none_few_are_tried() -> None:
    for decoys, found in ((3, Usage(7, 1)), (4, None)):
        piece = b'data: {"usage":{"prompt_tokens":7,"completion_tokens":1}}\n\n' + b': "usage"\n\n' * decoys
        assert usage_of(piece, piece, events=True) == found


def test_an_end_that_is_too_long_to_be_remembered_is_read_each_time() -> None:
    body = b'{"usage":{"prompt_tokens":7,"total_tokens":8,"completion_tokens":1%b}}' % (b',"abc":null' * 60)
    for _ in "once", "again":
        assert usage_of(body, body, events=False) == Usage(7, 1)
