"""A line is taken apart without a byte changed, and every way it can be wrong has its own code."""

import json

import pytest

from gomodel.batches.lines import BadLine, answered, json_of, not_run, parse_line

CHAT = "/v1/chat/completions"
BATCH = "batch_" + "0" * 30


def line(**changes: object) -> bytes:
    whole = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "m"}, **changes}
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"model":"m"}',
        b'{ "messages" : [ {"role":"user" , "content":"a\\u00e9\\n\\"}{" } ],\t"model":"m" }',
        b'{"x":1e400,"y":-0.0,"z":12345678901234567890123,"model":"m"}',
        '{"model":"m","text":"über \U0001f600 \u2028"}'.encode(),
        b'{"s":"\\ud800"}',
    ],
)
@pytest.mark.parametrize("order", ["body first", "body last"])
def test_a_body_is_cut_out_as_it_stands(body: bytes, order: str) -> None:
    rest = b'"custom_id":"a","method":"POST","url":"%b"' % CHAT.encode()
    raw = b'{"body": %b ,%b}' % (body, rest) if order == "body first" else b' {%b, "body" :%b} \r\n' % (rest, body)
    assert parse_line(raw, CHAT).body == body


def test_a_custom_id_is_kept_as_it_is_written() -> None:
    raw = b'{"custom_id":"\\u0061\\/b","method":"POST","url":"%b","body":{}}' % CHAT.encode()
    found = parse_line(raw, CHAT)
    assert (found.custom_id, found.name, found.model) == (b'"\\u0061\\/b"', "a/b", "")


def test_members_that_mean_nothing_here_are_no_harm() -> None:
    assert parse_line(line(extra={"deep": [1, 2]}, body={"model": "m", "stream": False}), CHAT).model == "m"


@pytest.mark.parametrize(
    ("raw", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b"null", "invalid_json_line", None),
        (b"{} {}", "invalid_json_line", None),
        (b"{,}", "invalid_json_line", None),
        (b'{"a" 1}', "invalid_json_line", None),
        (b'{"a":1 "b":2}', "invalid_json_line", None),
        (b'{"a":}', "invalid_json_line", None),
        (b'{"a":NaN}', "invalid_json_line", None),
        (b'{"a":Infinity}', "invalid_json_line", None),
        (b'{"a":"\x01"}', "invalid_json_line", None),
        (b'{"a":"\xff"}', "invalid_json_line", None),
        (b'{"a":1,}', "invalid_json_line", None),
        # Good lines but for one byte.
        (b"[" + line()[1:], "invalid_json_line", None),
        (line().replace(b":", b";", 1), "invalid_json_line", None),
        (line().replace(b",", b";", 1), "invalid_json_line", None),
        (line().replace(b'"custom_id"', b'"custom_id\t"', 1), "invalid_json_line", None),
        (line() + b",", "invalid_json_line", None),
        (b'{"a":' + b"[" * 100_000, "invalid_json_line", None),
        (b'{"custom_id":"a","custom_id":"b"}', "invalid_json_line", None),
        (b"{}", "missing_required_parameter", "custom_id"),
        (line(custom_id=...), "missing_required_parameter", "custom_id"),
        (line(method=...), "missing_required_parameter", "method"),
        (line(url=...), "missing_required_parameter", "url"),
        (line(body=...), "missing_required_parameter", "body"),
        (line(custom_id=""), "invalid_custom_id", "custom_id"),
        (line(custom_id=7), "invalid_custom_id", "custom_id"),
        (line(custom_id=None), "invalid_custom_id", "custom_id"),
        (line(custom_id="x" * 513), "invalid_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(method="post"), "invalid_method", "method"),
        (line(url="/v1/embeddings"), "invalid_url", "url"),
        (line(url=CHAT + "/"), "invalid_url", "url"),
        (line(body=[]), "invalid_body", "body"),
        (line(body="x"), "invalid_body", "body"),
        (line(body=None), "invalid_body", "body"),
        (line(body={"stream": True}), "stream_not_supported", "body.stream"),
        (line(body={"stream": 1}), "stream_not_supported", "body.stream"),
        (line(body={"model": 5}), "invalid_model", "body.model"),
        (line(body={"model": None}), "invalid_model", "body.model"),
    ],
)
def test_what_is_wrong_with_a_line_is_named(raw: bytes, code: str, param: str | None) -> None:
    with pytest.raises(BadLine) as caught:
        parse_line(raw, CHAT)
    assert (caught.value.code, caught.value.param) == (code, param)
    assert caught.value.message


def test_an_answer_is_set_in_as_it_came() -> None:
    body = b'{"choices": [ {"text":"a\\nb"} ],  "n":1.50}'
    written = answered(BATCH, 7, b'"\\u0061"', 200, body, json_of(body))
    assert body in written
    assert b'"custom_id":"\\u0061"' in written
    assert json.loads(written) == {
        "id": f"batch_req_{'0' * 30}_7",
        "custom_id": "a",
        "response": {"status_code": 200, "request_id": f"{BATCH}-7", "body": json.loads(body)},
        "error": None,
    }


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_an_answer_of_several_lines_becomes_one(end: bytes) -> None:
    body = b"{" + end + b'"a":' + end + b'"b"' + end + b"}" + end
    written = answered(BATCH, 1, b'"x"', 200, body, json_of(body))
    assert written.count(b"\n") == 1
    assert b"\r" not in written
    assert written.endswith(b"\n")
    assert json.loads(written)["response"]["body"] == {"a": "b"}
    assert len(written) == len(answered(BATCH, 1, b'"x"', 200, body.replace(end, b" " * len(end)), {}))


@pytest.mark.parametrize(
    ("body", "text"), [(b"<html>\n</html>", "<html>\n</html>"), (b"", ""), (b"\xff", "\ufffd"), (b'{"a":1', '{"a":1')]
)
def test_an_answer_that_is_no_json_becomes_text(body: bytes, text: str) -> None:
    written = answered(BATCH, 1, b'"x"', 502, body, json_of(body))
    assert json.loads(written)["response"] == {"status_code": 502, "request_id": f"{BATCH}-1", "body": text}


def test_a_line_that_was_not_run_says_why() -> None:
    written = not_run(BATCH, 3, b'"x"', "batch_expired", 'It "expired".')
    assert json.loads(written) == {
        "id": f"batch_req_{'0' * 30}_3",
        "custom_id": "x",
        "response": None,
        "error": {"code": "batch_expired", "message": 'It "expired".'},
    }
