"""What of an answer, a stream, header fields, errors and request fields is found to be changed, and what is not."""

import gzip
from typing import Any

import pytest

from gomodel.doctor import compared
from gomodel.doctor.findings import Outcome, State

from .seen import (
    ABSENT,
    DONE,
    EVENTS,
    JSON,
    MISSING,
    MISTYPED,
    STREAM,
    USAGE,
    chat,
    chunk,
    compact,
    exchange,
    observed,
    stream,
)

UNREACHABLE = {"end": "unreachable", "why": "connection refused", "arrivals": [], "fields": [], "status": 0}


def kinds(outcome: Outcome) -> list[str]:
    return [finding.kind for finding in outcome.findings]


def without(value: dict[str, Any], *path: str) -> dict[str, Any]:
    copy = dict(value)
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(copy[path[0]], *path[1:])
    return copy


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        pytest.param([exchange(chat(id="x", created=9))] * 2, [], id="an id and a time of its own"),
        pytest.param([exchange(chat(model="inst/m"))] * 2, [], id="its own name of the model"),
        pytest.param([exchange(chat(service_tier=None))] * 2, ["respelled"], id="a null more"),
        pytest.param([exchange(chat(model="gpt"))] * 2, ["body"], id="a name nobody asked for"),
        pytest.param([exchange(chat(usage={"prompt_tokens": 31}))] * 2, ["body"], id="other tokens of the prompt"),
        pytest.param([exchange(without(chat(), "usage"))] * 2, ["body"], id="no usage"),
        pytest.param([exchange(chat(provider="x"))] * 2, ["body"], id="a field of its own"),
        pytest.param([exchange(chat()), exchange(chat(usage={"prompt_tokens": 1}))], [], id="what varies between runs"),
        pytest.param([exchange(chat()), exchange(b"oops", 502)], ["status"], id="one failure of two"),
        pytest.param([exchange(**UNREACHABLE)] * 2, ["status"], id="not there"),
        pytest.param([exchange(chat(), end="closed")] * 2, ["status"], id="cut"),
        pytest.param([exchange(b"<html>")] * 2, ["body"], id="no JSON"),
        pytest.param([exchange(compact(chat()).replace(b":", b": "))] * 2, ["respelled"], id="written anew"),
        pytest.param([exchange(chat(), extra=b"\r\n")] * 2, ["extra_bytes"], id="bytes behind it"),
        pytest.param([exchange(chat(), framing="chunked")] * 2, ["reframed"], id="in chunks"),
        pytest.param([exchange(chat(), framing="close")] * 2, ["reframed"], id="until close"),
    ],
)
def test_an_answer(answers: Any, expected: list[str]) -> None:
    assert kinds(compared.answer(observed(), observed(answers=answers, model="inst/m"))) == expected


def test_a_greedy_answer_with_another_text_is_a_warning_where_the_direct_ones_agree() -> None:
    def said(*texts: str) -> Any:
        made = []
        for text in texts:
            value = chat()
            value["choices"] = [
                {**value["choices"][0], "message": {"role": "assistant", "content": text, "refusal": None}}
            ]
            made.append(exchange(value))
        return observed(answers=made)

    (finding,) = compared.answer(said("a", "a"), said("b", "c")).findings
    assert (finding.kind, finding.state) == ("text", State.WARNING)
    assert kinds(compared.answer(said("a", "b"), said("c", "c"))) == []


def test_an_instance_that_fails_accuses_nobody() -> None:
    ill = observed(answers=[exchange(b"", 500)], streams=[exchange(b"", 500)])
    for rule in (compared.answer, compared.stream):
        assert rule(ill, observed()).state is State.UNKNOWN


@pytest.mark.parametrize(
    ("streams", "expected"),
    [
        pytest.param([stream()] * 2, [], id="the same"),
        pytest.param([stream([b": ping\n\n", *STREAM])] * 2, [], id="a comment more"),
        pytest.param([stream([chunk("abcde"), *STREAM[5:]])] * 2, [], id="tokens merged"),
        pytest.param([stream(gap_s=0)] * 2, [], id="in one piece, which is another rule's"),
        pytest.param([stream(STREAM[:-1])] * 2, ["last_event"], id="no DONE"),
        pytest.param([stream([*STREAM[:-2], DONE])] * 2, ["last_event"], id="no usage"),
        pytest.param([stream([*STREAM[:5], chunk("f"), USAGE, DONE])] * 2, ["last_event"], id="no finish reason"),
        pytest.param([stream([*STREAM, b"data: x"])] * 2, ["cut"], id="half an event"),
        pytest.param([stream(end="closed")] * 2, ["cut"], id="broken off"),
        pytest.param([stream([STREAM[0], *STREAM[2:]])] * 2, ["lost_events"], id="an event lost"),
        pytest.param([stream(fields=JSON)] * 2, ["stream_type"], id="of another type"),
        pytest.param([stream(), stream(status=502)], ["status"], id="one failure of two"),
        pytest.param([stream([each.replace(b"\n\n", b"\r\n\r\n") for each in STREAM])] * 2, ["respelled"], id="CRLF"),
        pytest.param([stream([each.replace(b'":', b'": ') for each in STREAM])] * 2, ["respelled"], id="blanks"),
        pytest.param([stream([each.replace(b'"m"', b'"gpt"') for each in STREAM])] * 2, ["events"], id="another model"),
        pytest.param([stream([each.replace(b'"m"', b'"inst/m"') for each in STREAM])] * 2, [], id="its own name"),
        pytest.param(
            [stream([each.replace(b'"index":0,', b"") for each in STREAM])] * 2, ["events"], id="a field lost"
        ),
        pytest.param(
            [stream([each.replace(b'{"id"', b'{"via":1,"id"') for each in STREAM])] * 2, ["events"], id="a field more"
        ),
        pytest.param([stream(framing="close")] * 2, ["reframed"], id="until close"),
    ],
)
def test_a_stream(streams: Any, expected: list[str]) -> None:
    assert kinds(compared.stream(observed(), observed(streams=streams, model="inst/m"))) == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, [], id="the same"),
        pytest.param(
            {"answers": [exchange(chat(), fields=[*JSON, ("X-Request-Id", "1"), ("Via", "1.1 x")])]}, [], id="more"
        ),
        pytest.param({"answers": [exchange(chat(), fields=JSON[:1])]}, ["dropped_headers"], id="vary"),
        pytest.param({"answers": [exchange(chat(), fields=JSON[1:])]}, ["dropped_headers"] * 2, id="content-type"),
        pytest.param(
            {"fields": [exchange(chat(), fields=JSON)]}, ["dropped_headers"], id="asked for by a request's field"
        ),
        pytest.param({"streams": [stream(fields=EVENTS[:1])]}, ["dropped_headers"], id="of a stream"),
        pytest.param(
            {"streams": [stream(fields=[*EVENTS, ("Content-Encoding", "gzip")])]}, ["compressed"], id="compression"
        ),
        pytest.param({"answers": [exchange(chat(), fields=[*JSON, ("Connection", "close")])]}, [], id="hop by hop"),
    ],
)
def test_header_fields(change: Any, expected: list[str]) -> None:
    direct = observed(fields=[exchange(chat(), fields=[*JSON, ("Endpoint-Load-Metrics", "TEXT x"), ("Date", "now")])])
    through = observed(**({"fields": direct.fields} | change))
    assert kinds(compared.headers(direct, through)) == expected


def test_only_a_field_that_nothing_depends_on_may_be_dropped_with_a_warning() -> None:
    direct = observed(answers=[exchange(chat(), fields=[*JSON, ("X-Engine", "1")])])
    (finding,) = compared.headers(direct, observed()).findings
    assert (finding.state, finding.says) == (State.BROKEN, "Dropped from an answer: x-engine.")
    (finding,) = compared.headers(observed(), observed(answers=[exchange(chat(), fields=JSON[:1])])).findings
    assert finding.state is State.WARNING


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, [], id="the same"),
        pytest.param({"unknown": None}, [], id="the gateway's own 404 is not asked for"),
        pytest.param({"refused": exchange({"error": {"message": "no"}}, 400)}, ["error_body"], id="another body"),
        pytest.param({"refused": exchange(b"<html>", 400)}, ["error_body"], id="a page"),
        pytest.param({"refused": exchange(b"", 500)}, ["error_status"], id="another status"),
        pytest.param({"unknown": exchange(ABSENT, 404, end="closed")}, ["error_status"], id="cut"),
        pytest.param(
            {"unknown": exchange(compact(ABSENT).replace(b":{", b": {"), 404)}, ["respelled"], id="written anew"
        ),
        pytest.param({"unknown": exchange(compact(ABSENT).replace(b"m.", b"inst/m."), 404)}, [], id="its own name"),
    ],
)
def test_error_bodies(change: Any, expected: list[str]) -> None:
    assert kinds(compared.errors(observed(), observed(model="inst/m", **change))) == expected


def repeated(old: str, new: str) -> Any:
    return exchange({"error": {"message": MISTYPED["error"]["message"].replace(old, new)}}, 400)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        pytest.param({}, [], id="the same"),
        pytest.param({"fields": [exchange(chat(prompt_token_ids=[1, 2, 3]))]}, ["fields"], id="another prompt"),
        pytest.param({"fields": [exchange(chat())]}, ["fields"], id="a field that is not asked for any more"),
        pytest.param({"fields": [exchange(b"", 400)]}, ["fields"], id="refused for a field"),
        pytest.param({"mistyped": repeated("'warm'", "'0.7'")}, ["fields"], id="another value"),
        pytest.param({"mistyped": repeated("body.temperature", "body.top_k")}, ["fields"], id="another field"),
        pytest.param({"mistyped": exchange(chat())}, ["fields"], id="mended"),
        pytest.param(
            {"mistyped": exchange({"error": {"message": "own"}}, 400)}, [], id="checked by the gateway itself"
        ),
        pytest.param(
            {"missing": exchange(compact(MISSING).replace(b"4 items", b"6 items"), 400)}, ["fields"], id="fields added"
        ),
    ],
)
def test_request_fields(change: Any, expected: list[str]) -> None:
    assert kinds(compared.fields(observed(), observed(**change))) == expected


def test_fields_that_nothing_shows_are_unknown() -> None:
    silent = {"fields": [exchange(b"", 500)], "mistyped": exchange(b"", 500), "missing": exchange(b"", 500)}
    assert compared.fields(observed(**silent), observed()).state is State.UNKNOWN


def test_a_compressed_stream_is_compared_by_what_it_says() -> None:
    packed = stream(fields=[*EVENTS, ("Content-Encoding", "gzip")], arrivals=[(1.0, gzip.compress(b"".join(STREAM)))])
    assert kinds(compared.stream(observed(), observed(streams=[packed] * 2))) == []
