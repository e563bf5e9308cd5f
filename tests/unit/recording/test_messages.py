"""Where messages end on a connection, however its bytes are cut."""

from collections.abc import Iterable

import pytest

from gomodel.recording.messages import Head, Kind, Messages, Part

POST = b"POST /v1/x HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
GET = b"GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = b"POST /v1/x HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
STREAM = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na\n\n\r\n0\r\n\r\n"
BARE = b"HTTP/1.1 200 OK\r\n\r\nuntil the end"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def fed(messages: Messages, data: bytes, step: int) -> list[Part]:
    return [part for at in range(0, len(data), step) for part in messages.feed(data[at : at + step])]


def outline(parts: Iterable[Part]) -> list[tuple[bytes, bytes]]:
    """First line and payload of each complete message."""
    found, first, payload = [], b"", b""
    for part in parts:
        if part.kind is Kind.HEAD:
            first, payload = Head(part.data).first, b""
        elif part.kind is Kind.PIECE:
            payload += part.payload
        else:
            found.append((first, payload))
    return found


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (POST + GET, [(b"POST /v1/x HTTP/1.1", b"hello"), (b"GET /v1/models HTTP/1.1", b"")]),
        (CHUNKED + POST, [(b"POST /v1/x HTTP/1.1", b"hello")] * 2),
        (POST.replace(b"5", b"0").removesuffix(b"hello") + GET, [(b"POST /v1/x HTTP/1.1", b""), (GET[:23], b"")]),
        (POST[:-1], []),
        (CHUNKED[:-1], []),
    ],
)
def test_requests(data: bytes, expected: list[tuple[bytes, bytes]], step: int) -> None:
    messages = Messages(responses=False)
    parts = fed(messages, data, step)
    assert outline(parts) == expected
    assert b"".join(part.data for part in parts) == data  # nothing is lost, nothing comes twice
    assert not messages.broken


@pytest.mark.parametrize("step", [1, 7, 10_000])
@pytest.mark.parametrize(
    ("methods", "data", "statuses", "payloads"),
    [
        (["POST"], OK, [200], [b"ok"]),
        (["POST", "GET"], STREAM + OK, [200, 200], [b"a\n\n", b"ok"]),
        (["HEAD", "GET"], OK.removesuffix(b"ok") + OK, [200, 200], [b"", b"ok"]),
        (["POST"], CONTINUE + OK, [200], [b"ok"]),
        (["DELETE", "GET"], EMPTY + OK, [204, 200], [b"", b"ok"]),
        (["GET"], BARE, [200], [b"until the end"]),
    ],
)
def test_responses(methods: list[str], data: bytes, statuses: list[int], payloads: list[bytes], step: int) -> None:
    messages = Messages(responses=True)
    for method in methods:
        messages.asked(method)
    parts = fed(messages, data, step) + list(messages.closed())
    found = outline(parts)
    assert [Head(first + b"\r\n").status for first, _ in found] == statuses
    assert [payload for _, payload in found] == payloads


def test_an_answer_cut_by_the_end_of_its_connection_has_no_end() -> None:
    messages = Messages(responses=True)
    messages.asked("GET")
    assert outline([*messages.feed(OK[:-1]), *messages.closed()]) == []


def test_what_follows_an_upgrade_is_pieces() -> None:
    requests, responses = Messages(responses=False), Messages(responses=True)
    list(requests.feed(GET))
    responses.asked("GET")
    parts = list(responses.feed(b"HTTP/1.1 101 Switching Protocols\r\n\r\n\x81\x01a"))
    requests.switched()
    assert [part.kind for part in parts] == [Kind.HEAD, Kind.PIECE]
    assert [part.data for part in requests.feed(b"\x88\x00")] == [b"\x88\x00"]
    assert responses.tunnel
    assert list(responses.closed()) == []


@pytest.mark.parametrize(
    ("data", "responses"),
    [
        (b"\x16\x03\x01\r\n\r\n", False),
        (b"GET / HTTP/2.0\r\n\r\n", False),
        (b"SSH-2.0\r\n\r\n", True),
        (b"a" * 1_100_000, False),
    ],
)
def test_what_is_no_http_is_told_from_it(data: bytes, responses: bool) -> None:
    messages = Messages(responses=responses)
    assert list(messages.feed(data)) == []
    assert messages.broken
    assert list(messages.feed(GET)) == []
