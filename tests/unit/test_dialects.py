"""Where an event may stand in a stream, judged by the WHATWG's parsing rules, and what it says in each API."""

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gomodel.dialects import anthropic_body, at_event_boundary, interruption_event, openai_body
from gomodel.errors import SHUTDOWN, TOTAL, ClientError, GatewayError, why_aborted


def ends_with_a_blank_line(stream: bytes) -> bool:
    """By the letter: CRLF, CR and LF end a line, and a blank line ends an event."""
    lines = re.split(rb"\r\n|\r|\n", stream)
    # The last piece is what follows the last line end; an event ended when that is nothing and the line was blank.
    return len(lines) > 2 and lines[-1] == lines[-2] == b""


@pytest.mark.parametrize("tail", [b"", b"\n\n", b"a\n\n", b"a\r\n\r\n", b"a\r\r", b"a\n\r\n", b"a\r\r\n", b"a\r\n\n"])
def test_after_a_blank_line_an_event_may_start(tail):
    assert at_event_boundary(tail)


@pytest.mark.parametrize(
    "tail",
    [b"\n", b"\r", b"\r\n", b"a", b"a\n", b"a\r\n", b"a\r", b"\n\na", b"a\n\nb\n", b"a\n\n\xef\xbb\xbf", b"a\n\n "],
)
def test_inside_a_line_or_an_event_none_may_start(tail):
    assert not at_event_boundary(tail)


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r", b":", b" "]), max_size=8).map(b"".join))
@example(b"\r\r\n")
@example(b"a\r\n")
def test_four_bytes_are_enough_to_know(stream):
    """At LF CR the rules see a boundary and gomodel waits: the LF of that CRLF may have been the next byte."""
    boundary = stream == b"" or (ends_with_a_blank_line(stream) and not stream.endswith(b"\n\r"))
    assert at_event_boundary(stream[-4:]) == boundary


def parsed(event: bytes) -> tuple[bytes | None, dict[str, object]]:
    """The event's name and its JSON; it must be one whole event of LF lines."""
    assert event.endswith(b"\n\n")
    *names, data = event[:-2].split(b"\n")
    assert data.startswith(b"data: ")
    assert [name[:7] for name in names] in ([], [b"event: "])
    return (names[0][7:] if names else None), json.loads(data[6:])


@pytest.mark.parametrize(
    "path", ["", "/chat/completions", "/completions?x=/messages", "/messagesx", "/audio/messages", "/v2"]
)
def test_the_event_has_openais_shape(path):
    name, document = parsed(interruption_event(path, "vllm-test"))
    assert name is None
    assert list(document) == ["error"]
    error = document["error"]
    assert error == {
        "message": "The stream from instance 'vllm-test' was interrupted before it was complete.",
        "type": "upstream_error",
        "param": None,
        "code": "stream_interrupted",
    }


@pytest.mark.parametrize("path", ["/messages", "/messages?beta=true", "/messages/count_tokens"])
def test_the_event_has_anthropics_shape(path):
    name, document = parsed(interruption_event(path, "vllm"))
    assert (name, document["type"]) == (b"error", "error")
    assert document["error"]["type"] == "api_error"
    assert "'vllm'" in document["error"]["message"]


@pytest.mark.parametrize("path", ["/responses", "/responses?x=1", "/responses/resp_1?stream=true"])
def test_the_event_is_a_typed_one_of_the_responses_api(path):
    name, document = parsed(interruption_event(path, "vllm"))
    assert (name, document["type"], document["code"]) == (b"error", "error", "stream_interrupted")
    assert document["param"] is None


@pytest.mark.parametrize(
    ("aborted", "kind", "anthropic", "start"),
    [
        ("aborted_by_operator", "overloaded_error", "overloaded_error", "An operator of the gateway ended"),
        (SHUTDOWN, "overloaded_error", "overloaded_error", "The gateway is shutting down."),
        (TOTAL, "timeout_error", "timeout_error", "The request took longer than the gateway allows"),
    ],
)
def test_the_event_blames_no_instance_for_what_the_gateway_ended(aborted, kind, anthropic, start):
    errors = {path: parsed(interruption_event(path, "vllm", aborted))[1] for path in ("", "/messages", "/responses")}
    assert errors[""]["error"]["type"] == kind
    assert errors["/messages"]["error"]["type"] == anthropic
    assert errors[""]["error"]["code"] == errors["/responses"]["code"] == "stream_interrupted"
    for message in (
        errors[""]["error"]["message"],
        errors["/messages"]["error"]["message"],
        errors["/responses"]["message"],
    ):
        assert message.startswith(start)
        assert message.endswith(" The answer is not complete.")
        assert "vllm" not in message


@pytest.mark.parametrize(
    ("aborted", "status", "code", "retry_after"),
    [
        ("aborted_by_operator", 503, "aborted_by_operator", None),
        (SHUTDOWN, 503, "draining", "5"),
        (TOTAL, 504, "total_timeout", None),
    ],
)
def test_without_a_stream_it_is_an_error_of_the_gateway(aborted, status, code, retry_after):
    error = why_aborted(aborted)
    assert (error.status, error.code, error.headers.get("Retry-After")) == (status, code, retry_after)


@pytest.mark.parametrize(
    ("status", "anthropic"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (408, "timeout_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (499, "invalid_request_error"),
        (500, "api_error"),
        (501, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_anthropic_has_a_word_for_each_status(status, anthropic):
    body = anthropic_body(GatewayError("It is so.", status=status))
    assert body == b'{"type":"error","error":{"type":"%s","message":"It is so."}}' % anthropic.encode()


@pytest.mark.parametrize(("param", "written"), [(None, b"null"), ("model", b'"model"')])
def test_an_error_of_openais_has_its_four_members(param, written):
    error = ClientError('A "name".', code="no_name")
    error.param = param
    assert openai_body(error) == (
        b'{"error":{"message":"A \\"name\\".","type":"invalid_request_error","param":%s,"code":"no_name"}}' % written
    )
