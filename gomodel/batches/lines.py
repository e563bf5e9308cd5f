"""One line of a batch: what it asks for, cut out of the file as it stands, and what is written of its answer.

Decides what makes a line good, and the shape of a line of results (OpenAI's). No JSON library writes any of it: a body
is sent, and an answer kept, byte for byte. Pure.
"""

import json
import re
from json.decoder import JSONDecodeError
from json.decoder import scanstring as _string  # type: ignore[attr-defined] # its C version, where there is one
from typing import Any, NamedTuple

CUSTOM_ID_CHARS = 512
_BLANK = re.compile(r"[ \t\n\r]*").match
_PARAMETERS = ("custom_id", "method", "url", "body")


class BadLine(Exception):
    """A line that cannot be run. `code` and `param` as OpenAI has them."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.param = param


class _Number(str):
    """A number as it is written; what it comes to is nobody's business here."""

    __slots__ = ()


def _no_constant(name: str) -> Any:
    raise JSONDecodeError(f"{name} is no JSON", name, 0)


_value = json.JSONDecoder(parse_int=_Number, parse_float=_Number, parse_constant=_no_constant).raw_decode


class Line(NamedTuple):
    """A good line. `custom_id` as it is written, quotes included; `name` is what that says."""

    custom_id: bytes
    name: str
    body: bytes
    model: str  # "" where the body names none


def parse_line(raw: bytes, endpoint: str) -> Line:
    """The line, which must be a request to `endpoint`. Raises BadLine."""
    try:
        text = raw.decode()
        found, spans = _members(text)
    except (UnicodeDecodeError, JSONDecodeError, StopIteration, RecursionError):
        raise BadLine("invalid_json_line", "This line is not parseable as valid JSON.") from None
    for name in _PARAMETERS:
        if name not in found:
            raise BadLine("missing_required_parameter", f"Missing required parameter: '{name}'.", name)
    custom_id, method, url, body = (found[name] for name in _PARAMETERS)
    if type(custom_id) is not str or not 0 < len(custom_id) <= CUSTOM_ID_CHARS:
        raise BadLine(
            "invalid_custom_id", f"'custom_id' must be a string of 1 to {CUSTOM_ID_CHARS} characters.", "custom_id"
        )
    if method != "POST":
        raise BadLine("invalid_method", "'method' must be 'POST'.", "method")
    if url != endpoint:
        raise BadLine("invalid_url", f"'url' must be the endpoint of the batch, {endpoint}.", "url")
    if not isinstance(body, dict):
        raise BadLine("invalid_body", "'body' must be a JSON object.", "body")
    if body.get("stream") not in (None, False):
        raise BadLine("stream_not_supported", "A batch has no streams: leave 'stream' out of the body.", "body.stream")
    model = body.get("model", "")
    if type(model) is not str:
        raise BadLine("invalid_model", "'model' must be a string.", "body.model")
    at, end = spans["custom_id"]
    start, stop = spans["body"]
    return Line(text[at:end].encode(), custom_id, text[start:stop].encode(), model)


def _members(text: str) -> tuple[dict[str, Any], dict[str, tuple[int, int]]]:
    """The members of the one object that `text` is, and where the value of each stands."""
    found: dict[str, Any] = {}
    spans: dict[str, tuple[int, int]] = {}
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise JSONDecodeError("no object", text, at)
    at = _skip(text, at + 1)
    if text[at : at + 1] != "}":
        while True:
            if text[at : at + 1] != '"':
                raise JSONDecodeError("no name", text, at)
            name, at = _string(text, at + 1, True)
            at = _skip(text, at)
            if text[at : at + 1] != ":":
                raise JSONDecodeError("no colon", text, at)
            start = _skip(text, at + 1)
            value, at = _value(text, start)
            if name in found:  # which of the two is meant is anybody's guess
                raise JSONDecodeError("a name twice", text, start)
            found[name] = value
            spans[name] = start, at
            at = _skip(text, at)
            mark = text[at : at + 1]
            at = _skip(text, at + 1)
            if mark == "}":
                break
            if mark != ",":
                raise JSONDecodeError("no comma", text, at)
    else:
        at = _skip(text, at + 1)
    if at != len(text):
        raise JSONDecodeError("more than an object", text, at)
    return found, spans


def _skip(text: str, at: int) -> int:
    match = _BLANK(text, at)
    assert match is not None
    return match.end()


def request_id(batch_id: str, number: int) -> str:
    """The `X-Request-Id` of a line; lines count from 1."""
    return f"{batch_id}-{number}"


def answered(batch_id: str, number: int, custom_id: bytes, status: int, body: bytes, known: Any) -> bytes:
    """The line for an answer. `known` is what the body says as JSON, None where it is none: then it is text."""
    if known is None:
        body = json.dumps(body.decode("utf-8", "replace")).encode()
    elif b"\n" in body or b"\r" in body:  # between tokens: inside of a string there is none
        body = body.replace(b"\n", b" ").replace(b"\r", b" ")
    return b'{"id":"%b","custom_id":%b,"response":{"status_code":%d,"request_id":"%b","body":%b},"error":null}\n' % (
        _id(batch_id, number),
        custom_id,
        status,
        request_id(batch_id, number).encode(),
        body,
    )


def not_run(batch_id: str, number: int, custom_id: bytes, code: str, message: str) -> bytes:
    """The line for a request that has no answer."""
    return b'{"id":"%b","custom_id":%b,"response":null,"error":{"code":"%b","message":%b}}\n' % (
        _id(batch_id, number),
        custom_id,
        code.encode(),
        json.dumps(message).encode(),
    )


def _id(batch_id: str, number: int) -> bytes:
    return b"batch_req_%b_%d" % (batch_id.removeprefix("batch_").encode(), number)


def json_of(body: bytes) -> Any:
    """What an answer says, None where it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
