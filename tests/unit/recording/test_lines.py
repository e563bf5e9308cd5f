"""What stands in a recording, what does not, and which answer fits a request."""

import json
from typing import Any

import pytest

from gomodel.recording.answers import Answers
from gomodel.recording.credentials import with_key, without_credentials
from gomodel.recording.lines import (
    End,
    NotARecording,
    Recorded,
    end_line,
    first_line,
    head_line,
    piece_line,
    read,
)

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 13\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FIRST = first_line("2026-01-01T00:00:00Z", "http://there")
EXCHANGE = [
    head_line(1, 0.5, "client", HEAD),
    piece_line(1, 0.6, "client", b'{"model":"m"}'),
    head_line(1, 0.7, "server", ANSWER),
    piece_line(1, 0.8, "server", "3\r\né\n\r\n".encode()),
    piece_line(1, 0.9, "server", b"1\r\n\xff\r\n0\r\n\r\n"),
    end_line(1, 1.0, End.COMPLETE),
]


def read_back(*lines: Any) -> list[Recorded]:
    return list(read([json.dumps(FIRST), *(each if isinstance(each, str) else json.dumps(each) for each in lines)]))


def test_an_exchange_is_read_as_it_was_said() -> None:
    (found,) = read_back(*EXCHANGE)
    assert found == Recorded(
        1,
        0.5,
        HEAD,
        [(0.6, b'{"model":"m"}')],
        [(0.7, ANSWER), (0.8, "3\r\né\n\r\n".encode()), (0.9, b"1\r\n\xff\r\n0\r\n\r\n")],
        End.COMPLETE,
        1.0,
    )
    assert (found.method, found.target, found.payload()) == ("POST", "/v1/chat/completions", b'{"model":"m"}')
    assert (found.asked_at, found.replayable) == (0.6, True)


def test_a_recording_that_was_cut_is_read_as_far_as_it_goes() -> None:
    found = read_back(*EXCHANGE, head_line(2, 2.0, "client", HEAD), '{"exchange": 2, "at": 2.')
    assert [(each.number, each.end, each.replayable) for each in found] == [
        (1, End.COMPLETE, True),
        (2, None, False),
    ]


@pytest.mark.parametrize(
    "line", ["", "[]", "nonsense", '{"exchange": 1}', '{"exchange": 9, "at": 1, "text": "a"}', "7"]
)
def test_lines_of_no_kind_are_passed_over(line: str) -> None:
    assert len(read_back(line, *EXCHANGE, line)) == 1


@pytest.mark.parametrize("line", ["", "{}", '{"gomodel_recording": 2}', "a b c"])
def test_a_file_that_is_no_recording_is_refused(line: str) -> None:
    with pytest.raises(NotARecording):
        list(read([line]))


GET = "GET /v1/x HTTP/1.1"
PROTOCOL = "Sec-WebSocket-Protocol: a, openai-insecure-api-key."


@pytest.mark.parametrize(
    ("first", "fields", "kept_first", "kept"),
    [
        (GET, "Authorization: Bearer secret\r\nX: 1", GET, "Authorization: ***\r\nX: 1"),
        (GET, "x-API-key:secret", GET, "x-API-key: ***"),
        (GET, "api-key: secret\r\nCookie: a=secret", GET, "api-key: ***\r\nCookie: ***"),
        ("HTTP/1.1 200 OK", "Set-Cookie: a\r\nset-cookie: b", "HTTP/1.1 200 OK", "Set-Cookie: ***\r\nset-cookie: ***"),
        ("GET /x?api_key=secret&a=1 HTTP/1.1", "Host: h", "GET /x?api_key=***&a=1 HTTP/1.1", "Host: h"),
        (GET, f"{PROTOCOL}b", GET, f"{PROTOCOL}***"),
        (GET, "Host: h", GET, "Host: h"),
        ("GET /token=1 HTTP/1.1", "X-A: token=1", "GET /token=1 HTTP/1.1", "X-A: token=1"),
        *(
            (GET, f"{name}: secret\r\nX: 1", GET, f"{name}: ***\r\nX: 1")
            for name in (
                "X-Goog-Api-Key",
                "Ocp-Apim-Subscription-Key",
                "OpenAI-Api-Key",
                "X-Auth-Token",
                "X-Amz-Security-Token",
                "X-Litellm-Key",
                "X-Forwarded-Authorization",
                "X-Client-Secret",
                "DB-Password",
            )
        ),
        (GET, "Authorization: Bearer\r\n secret\r\n\tsecret\r\nX: 1", GET, "Authorization: ***\r\nX: 1"),
        (GET, "Authorization: a\rsecret\nCookie: secret", GET, "Authorization: ***\nCookie: ***"),
        (GET, "Referer: https://a/b?x=1&token=secret", GET, "Referer: https://a/b?x=1&token=***"),
        ("GET /x?a=b?api%5Fkey=s HTTP/1.1", "H: h", "GET /x?a=b?api%5Fkey=*** HTTP/1.1", "H: h"),
        ("GET /x?%61uth=s&b=%20 HTTP/1.1", "H: h", "GET /x?%61uth=***&b=%20 HTTP/1.1", "H: h"),
        ("GET http://u:p@h/x HTTP/1.1", "H: h", "GET http://***@h/x HTTP/1.1", "H: h"),
        ("GET /x?max_tokens=1&author=b HTTP/1.1", "H: h", "GET /x?max_tokens=1&author=b HTTP/1.1", "H: h"),
        *(
            (GET, f"{field}: 1", GET, f"{field}: 1")
            for field in (
                "x-ratelimit-remaining-tokens",
                "WWW-Authenticate",
                "Access-Control-Allow-Credentials",
                "Sec-WebSocket-Key",
                "Idempotency-Key",
            )
        ),
    ],
)
def test_credentials_are_masked_and_nothing_else(first: str, fields: str, kept_first: str, kept: str) -> None:
    assert without_credentials(f"{first}\r\n{fields}\r\n\r\n".encode()) == f"{kept_first}\r\n{kept}\r\n\r\n".encode()


@pytest.mark.parametrize(
    ("key", "line"), [("new", b"Authorization: Bearer new\r\n"), (None, b"")], ids=["a key", "no key"]
)
def test_a_recorded_head_is_sent_with_the_key_of_where_it_goes(key: str | None, line: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nAuthorization: ***\r\nX: 1\r\ncookie: ***\r\n\r\n"
    assert with_key(head, key) == b"GET / HTTP/1.1\r\nX: 1\r\n" + line + b"\r\n"


@pytest.mark.parametrize(
    ("first", "sent", "fields"),
    [
        ("GET /x?key=***&a=1 HTTP/1.1", "GET /x?a=1 HTTP/1.1", "X-Auth-Token: ***\r\n"),
        ("GET /x?key=*** HTTP/1.1", "GET /x HTTP/1.1", "Referer: http://a/?key=***\r\n"),
        ("GET http://***@h/x HTTP/1.1", "GET http://h/x HTTP/1.1", ""),
    ],
)
def test_no_mask_is_sent(first: str, sent: str, fields: str) -> None:
    assert with_key(f"{first}\r\n{fields}X: 1\r\n\r\n".encode(), None) == f"{sent}\r\nX: 1\r\n\r\n".encode()


def test_a_target_with_a_key_is_found_whatever_the_key() -> None:
    head = without_credentials(b"GET /v1/x?api_key=then&a=1 HTTP/1.1\r\n\r\n")
    answers = Answers([Recorded(1, 1, head, [], [(1, ANSWER)], End.COMPLETE, 1)])
    assert answers.find("GET", "/v1/x?api_key=now&a=1", b"") is not None
    assert answers.find("GET", "/v1/x?api_key=now&a=2", b"") is None


@pytest.mark.parametrize(
    "line",
    [
        '{"exchange": 1, "at": 1, "end": "otherwise"}',
        '{"exchange": 1, "at": 1, "from": "server", "base64": "a"}',
        '{"exchange": 1, "at": 1, "from": "server", "base64": "-!=="}',
        '{"exchange": 1, "at": 1, "from": "server", "text": "\\ud800"}',
        '{"exchange": 2, "at": 1, "from": "client", "head": "GET /\u20ac HTTP/1.1"}',
        '{"exchange": 2, "at": 1, "from": "client", "head": "nonsense"}',
        '{"exchange": 2, "at": NaN, "from": "client", "head": "GET / HTTP/1.1"}',
        '{"exchange": 1, "at": 1' + "0" * 400 + ', "end": "complete"}',
        '{"exchange": ' + "[" * 100_000,
        '{"exchange": ' + "1" * 5000 + "}",
    ],
    ids=range(10),
)
def test_a_damaged_line_is_passed_over(line: str) -> None:
    assert read_back(*EXCHANGE, line) == read_back(*EXCHANGE)


def test_a_length_of_thousands_of_digits_is_a_body_that_never_ends() -> None:
    found = Recorded(1, 1, HEAD.replace(b"13", b"9" * 5000), [(1, b"{}")], [(1, ANSWER)], End.COMPLETE, 1)
    assert Answers([found]).size == 1


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"model":"\\ud800"}'], ids=["deep", "surrogate"])
def test_no_body_stops_the_list_of_models(body: bytes) -> None:
    assert json.loads(Answers([recorded(1, body)]).models)["object"] == "list"


def recorded(number: int, body: bytes = b"{}", end: End | None = End.COMPLETE, method: bytes = b"POST") -> Recorded:
    head = method + b" /v1/x HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    return Recorded(number, number, head, [(number, body)], [(number, ANSWER)], end, number)


def numbers(answers: Answers, *bodies: bytes) -> list[int | None]:
    found = [answers.find("POST", "/v1/x", body) for body in bodies]
    return [None if each is None else each.number for each in found]


def test_requests_that_are_alike_are_answered_in_turn() -> None:
    answers = Answers([recorded(1), recorded(2, b"other"), recorded(3)])
    assert numbers(answers, b"{}", b"other", b"{}", b"{}", b"other") == [1, 2, 3, 1, 2]
    assert (answers.size, numbers(answers, b"neither")) == (3, [None])
    assert answers.find("GET", "/v1/x", b"{}") is None
    assert answers.find("POST", "/v1/x?a", b"{}") is None


def test_any_body_is_answered_where_that_is_wanted() -> None:
    answers = Answers([recorded(1, b"a"), recorded(2, b"b")], any_body=True)
    assert numbers(answers, b"x", b"b", b"y", b"b", b"z") == [1, 2, 2, 2, 1]  # its own where it is there
    assert b"--any-body" not in answers.absent
    assert b"--any-body" in Answers([]).absent


def test_what_a_client_broke_off_is_played_only_where_nothing_else_is_there() -> None:
    answers = Answers([recorded(1, end=End.CLIENT_LEFT), recorded(2), recorded(3, b"x", End.CLIENT_LEFT)])
    assert numbers(answers, b"{}", b"{}", b"x") == [2, 2, 3]
    assert Answers([recorded(1, end=None)]).size == 0


def test_the_models_are_those_that_were_asked_for() -> None:
    answers = Answers([recorded(1, b'{"model":"m"}'), recorded(2, b'{"model":"n"}'), recorded(3, b'{"model":7}')])
    assert [each["id"] for each in json.loads(answers.models)["data"]] == ["m", "n"]
