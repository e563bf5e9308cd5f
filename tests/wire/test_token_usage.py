"""What answers say that they took is counted, however they arrive; what they do not say is counted as unknown."""

import gzip
import json
from hashlib import sha256
from secrets import token_hex
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gomodel.app import App

from ..harness.scripted import (
    LAST_CHUNK,
    SSE_HEAD,
    Fin,
    Reset,
    SendByteByByte,
    SendPieces,
    Stall,
    chunked,
    head,
    json_response,
    request,
    response,
    sse_event,
)
from ..harness.verdicts import CHAT, KEPT, ask, counted, post

USAGE = {"prompt_tokens": 12, "total_tokens": 19, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 8}}
TOOK = (1, 0, 12, 8, 7)
UNKNOWN = (0, 1, 0, 0, 0)
DOCUMENT = json.dumps({"id": "c", "choices": [{"message": {"content": "x" * 500}}], "usage": USAGE}).encode()
JSON = [("Content-Type", "application/json")]
CHUNKED = head(200, [*JSON, ("Transfer-Encoding", "chunked")])
DELTA = sse_event({"id": "c", "choices": [{"index": 0, "delta": {"content": "word"}}], "usage": None})
EVENTS = [*[DELTA] * 5, sse_event({"id": "c", "choices": [], "usage": USAGE}), sse_event("[DONE]")]
FRAMES = [chunked(each) for each in EVENTS]
HALVES = [piece for each in EVENTS for piece in (each[: len(each) // 2], each[len(each) // 2 :])]
LONG = json.dumps({"id": "c", "choices": "x" * 200_000, "usage": USAGE}).encode()
RERANK = json.dumps({"id": "c", "usage": USAGE, "results": ["x" * 9000] * 20}).encode()


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


ANSWERS = {
    "a document": response(DOCUMENT, 200, JSON),
    "a document, byte by byte": SendByteByByte(response(DOCUMENT, 200, JSON)),
    "a document in chunks": SendPieces((CHUNKED, *map(chunked, pieces(DOCUMENT, 50)), LAST_CHUNK)),
    "a document in one chunk": CHUNKED + chunked(DOCUMENT) + LAST_CHUNK,
    "a document until the end": SendPieces((head(200, JSON) + DOCUMENT[:99], DOCUMENT[99:])),
    "a long document": response(LONG, 200, JSON),
    "a long document whose end comes late": SendPieces((response(LONG, 200, JSON)[:-70], LONG[-70:])),
    "a usage before long documents": response(RERANK, 200, JSON),
    "a usage before long documents, cut": SendPieces(
        (response(RERANK, 200, JSON)[:150], response(RERANK, 200, JSON)[150:])
    ),
    "a stream, event by event": SendPieces((SSE_HEAD, *FRAMES, LAST_CHUNK)),
    "a stream whose last event comes with its end": SendPieces((SSE_HEAD, *FRAMES[:-1], FRAMES[-1] + LAST_CHUNK)),
    "a stream whose usage comes with its end": SendPieces((SSE_HEAD, *FRAMES[:-2], b"".join(FRAMES[-2:]) + LAST_CHUNK)),
    "a stream in one": SSE_HEAD + b"".join(FRAMES) + LAST_CHUNK,
    "a stream whose events are cut into chunks": SendPieces((SSE_HEAD, *map(chunked, HALVES), LAST_CHUNK)),
    "a stream whose chunks are cut": SendPieces((*pieces(SSE_HEAD + b"".join(FRAMES) + LAST_CHUNK, 41),)),
    "a stream, byte by byte": SendByteByByte(SSE_HEAD + b"".join(FRAMES[-3:]) + LAST_CHUNK),
    "a stream of chunks of one byte": SendPieces((SSE_HEAD, *map(chunked, pieces(EVENTS[-2], 1)), LAST_CHUNK)),
    "a stream that ends with its connection": SendPieces(
        (head(200, [("Content-Type", "text/event-stream")]), *EVENTS[-3:])
    ),
}

UNTIL_CLOSE = {"a document until the end", "a stream that ends with its connection"}


@pytest.fixture(params=[True, False], ids=["at once", "in its turn"])
def at_once(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(App, "begin", lambda app, asked: False)
    return request.param


def taken(handle: Any) -> dict[tuple[str, str, str], tuple[int, ...]]:
    return {
        key: (each.known, each.unknown, each.prompt, each.cached, each.completion)
        for key, each in handle.gateway.telemetry.spending.items()
    }


@pytest.mark.transports("tcp", "tcp>tls")
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_counts_however_it_arrives(at_once, gateway, make_upstream, connect, transports, name):
    upstream = await make_upstream()
    answer = ANSWERS[name]
    listed = {"VLLM_MODELS": "m", "CONFIGURED_PROVIDER_MODELS_MODE": "allowlist"}
    handle = await gateway({**KEPT, **listed}, vllm=upstream)
    client = await connect(handle)
    upstream.on_request(response(b"{}", 400, JSON))
    await ask(client)  # from here on there is a connection to begin on
    upstream.on_request(answer, *([Fin()] if name in UNTIL_CLOSE else []))
    assert (await ask(client)).status == 200
    await counted(handle, 2)
    assert taken(handle) == {("vllm", "m", ""): TOOK}
    (spending,) = handle.gateway.telemetry.spending.values()
    assert spending.measured == 12
    assert spending.seconds > 0


def named(name: str, **fields: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps({'type': name, **fields})}\n\n".encode()


MESSAGE = [
    named("message_start", message={"id": "m", "content": [], "usage": {"input_tokens": 12, "output_tokens": 0}}),
    *[named("content_block_delta", index=0, delta={"type": "text_delta", "text": "word"})] * 400,
    named("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 7}),
    named("message_stop"),
]
START, REST = MESSAGE[0], b"".join(map(chunked, MESSAGE[1:]))
CUT = {
    "event by event": [SSE_HEAD + chunked(START)],
    "behind the head": [SSE_HEAD, chunked(START)],
    "its name apart": [SSE_HEAD + chunked(START[:21]), chunked(START[21:])],
    "its usage apart": [SSE_HEAD, chunked(START[:80]), chunked(START[80:])],
    "its last byte apart": [SSE_HEAD, chunked(START[:-1]), chunked(START[-1:])],
    "chunks of a byte": [SSE_HEAD, *map(chunked, pieces(START, 1))],
    "behind a comment": [SSE_HEAD, chunked(b": ping\n\n"), chunked(START)],
    "a chunk cut": [SSE_HEAD + chunked(START)[:30], chunked(START)[30:]],
}


@pytest.mark.transports("tcp", "tcp>tls")
@pytest.mark.parametrize("prefix", ["", "/p/vllm"])
@pytest.mark.parametrize("cut", CUT.values(), ids=CUT.keys())
async def test_an_anthropic_stream_counts_however_its_first_event_is_cut(
    at_once, gateway, make_upstream, connect, prefix, cut
):
    upstream = await make_upstream()
    handle = await gateway(KEPT, vllm=upstream)
    upstream.on_request(SendPieces((*cut, REST + LAST_CHUNK)))
    answer = await ask(await connect(handle), post(f"{prefix}/v1/messages"))
    assert answer.body.endswith(b"".join(MESSAGE))
    await counted(handle, 1)
    assert list(taken(handle).values()) == [(1, 0, 12, 0, 7)]


@pytest.mark.parametrize(
    ("target", "answer", "expected"),
    [
        (CHAT, response(gzip.compress(DOCUMENT), 200, [*JSON, ("Content-Encoding", "gzip")]), UNKNOWN),
        (CHAT, SSE_HEAD + b"".join(map(chunked, [DELTA, EVENTS[-1]])) + LAST_CHUNK, UNKNOWN),
        (CHAT, response(b"text", 200, [("Content-Type", "text/plain")]), UNKNOWN),
        (CHAT, json_response({"error": {}, "usage": USAGE}, 400), None),
        (CHAT, json_response({"error": {}}, 500), None),
        ("/tokenize", json_response({"count": 3, "tokens": [1, 2, 3]}), None),
        ("/v1/messages/count_tokens", json_response({"input_tokens": 3}), None),
        (
            "/v1/embeddings",
            json_response({"data": [], "usage": {"prompt_tokens": 12, "total_tokens": 12}}),
            (1, 0, 12, 0, 0),
        ),
        (
            "/v1/audio/transcriptions",
            json_response({"text": "a", "usage": {"type": "duration", "seconds": 3}}),
            (1, 0, 0, 0, 0),
        ),
    ],
)
async def test_what_is_known_of_other_answers(gateway, upstream, connect, target, answer, expected):
    handle = await gateway(vllm=upstream)
    upstream.on_request(answer)
    await ask(await connect(handle), post(target))
    await counted(handle, 1)
    assert taken(handle) == ({} if expected is None else {("vllm", "other", ""): expected})


@pytest.mark.parametrize("prefix", ["", "/p/vllm"])
async def test_a_stored_response_counts_when_it_is_made_and_never_again(at_once, gateway, upstream, connect, prefix):
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    used = {"input_tokens": 12, "output_tokens": 7, "input_tokens_details": {"cached_tokens": 8}}
    upstream.repeat(json_response({"id": "resp_1", "object": "response", "status": "completed", "usage": used}))
    assert (await ask(client, post(f"{prefix}/v1/responses"))).status == 200
    stored = f"{prefix}/v1/responses/resp_1"
    for again in (request("GET", stored), request("GET", stored), request("POST", f"{stored}/cancel", body=b"")):
        assert (await ask(client, again)).json()["usage"] == used
    await counted(handle, 4)
    assert list(taken(handle).values()) == [TOOK]


async def test_a_response_made_in_the_background_is_unknown(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    upstream.on_request(json_response({"id": "resp_1", "object": "response", "status": "queued", "usage": None}))
    made = json.dumps({"model": "vllm/m", "background": True}).encode()
    assert (await ask(client, request("POST", "/v1/responses", JSON, made))).status == 200
    done = {"id": "resp_1", "object": "response", "status": "completed", "usage": USAGE}
    upstream.repeat(json_response(done))
    assert (await ask(client, request("GET", "/v1/responses/resp_1"))).json() == done
    await counted(handle, 2)
    assert taken(handle) == {("vllm", "other", ""): UNKNOWN}


@pytest.mark.parametrize("way", ["passed through", "chosen by a model"])
async def test_passthrough_counts_what_is_said_and_nothing_that_is_not(gateway, upstream, connect, way):
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    said = json_response({"usage": USAGE})
    for answer in (said, json_response({"data": []})):
        upstream.on_request(answer)
        await ask(client, post("/p/vllm" + CHAT, model="m") if way == "passed through" else post())
    await counted(handle, 2)
    model = "" if way == "passed through" else "other"
    assert taken(handle) == {("vllm", model, ""): (1, 0 if way == "passed through" else 1, 12, 8, 7)}


async def test_the_work_for_a_client_that_left_is_unknown(at_once, gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    upstream.on_request(SendPieces((SSE_HEAD, chunked(DELTA))), Stall())
    client = await connect(handle)
    await client.send(post())
    await client.read_until(b"word")
    client.reset()
    await counted(handle, 1)
    assert taken(handle) == {("vllm", "other", ""): UNKNOWN}


async def test_a_stream_that_breaks_off_is_unknown(at_once, gateway, upstream, connect):
    handle = await gateway({"RETRY_MAX_RETRIES": "0"}, vllm=upstream)
    upstream.on_request(SendPieces((SSE_HEAD, chunked(DELTA))), Reset())
    assert not (await ask(await connect(handle))).complete
    await counted(handle, 1)
    assert taken(handle) == {("vllm", "other", ""): UNKNOWN}


async def test_what_never_reached_an_instance_took_nothing(gateway, upstream, connect):
    handle = await gateway({"RETRY_MAX_RETRIES": "0"}, vllm="http://127.0.0.1:1/v1")
    assert (await ask(await connect(handle))).status == 502
    await counted(handle, 1)
    assert taken(handle) == {}


async def test_metrics_say_what_was_taken(gateway, upstream, connect):
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    upstream.on_request(response(DOCUMENT, 200, JSON))
    upstream.on_request(json_response({"text": "a", "usage": {"type": "duration", "seconds": 3}}))
    await ask(client)
    await ask(client)
    await counted(handle, 2)
    text = (await ask(client, request("GET", "/metrics"))).body.decode()
    families = {each.name: each for each in text_string_to_metric_families(text)}
    (ran,) = families["gomodel_generation_seconds"].samples
    assert ran.value > 0
    assert ran.labels == {"upstream": "vllm", "model": "other", "key": ""}
    said = {
        tuple(label for _, label in sorted(sample.labels.items())): sample.value
        for name in ("tokens", "usage_requests", "audio_seconds", "prompt_tokens")
        for sample in families[f"gomodel_{name}"].samples
    }
    assert said == {
        ("", "prompt", "other", "vllm"): 12,
        ("", "cached", "other", "vllm"): 8,
        ("", "completion", "other", "vllm"): 7,
        ("", "other", "vllm", "known"): 2,
        ("", "other", "vllm", "unknown"): 0,
        ("", "other", "vllm"): 3,
        ("cached", "vllm"): 8,
        ("computed", "vllm"): 4,
    }


async def test_what_an_answer_took_counts_against_its_keys_limit(at_once, gateway, upstream, connect, tmp_path):
    path = tmp_path / "keys.toml"
    name = f"k{token_hex(4)}"  # what a name has used in the last minute is the process's to remember
    path.write_text(f'[keys.{name}]\nsha256 = "{sha256(b"sk-a").hexdigest()}"\ntokens_per_minute = 20\n')
    handle = await gateway(KEPT, vllm=upstream, GOMODEL_KEYS_FILE=str(path))
    client = await connect(handle)
    left = []
    for answer in ("a document", "a stream, event by event"):
        upstream.on_request(ANSWERS[answer])
        said = await ask(client, post(headers=[("x-api-key", "sk-a")]))
        assert said.status == 200
        left.append(said.get("x-ratelimit-remaining-tokens"))
        await counted(handle, len(left))
    assert left == ["20", "1"], "19 of them for the first"
    refused = await ask(client, post(headers=[("x-api-key", "sk-a")]))
    assert (refused.status, refused.get("x-ratelimit-remaining-tokens")) == (429, "0")
    assert taken(handle)["vllm", "other", name][:2] == (2, 0)
