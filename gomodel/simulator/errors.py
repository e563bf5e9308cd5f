"""The error bodies of vLLM's Python front end, each in the shape that a gateway has to pass on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_ANTHROPIC_TYPES = {400: "invalid_request_error", 404: "not_found_error", 503: "overloaded_error"}


def dumps(value: object) -> bytes:
    """JSON as Starlette and pydantic write it: compact, UTF-8 unescaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


@dataclass(eq=False)
class ApiError(Exception):
    """A refusal with vLLM's usual body; `param` names the field at fault."""

    message: str
    status: int = 400
    type: str = "BadRequestError"
    param: str | None = None

    def body(self) -> dict[str, Any]:
        """`{"error": {...}}`; `code` is the status as an integer, unlike OpenAI's."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.status}}

    def anthropic_body(self) -> dict[str, Any]:
        """The same refusal on /v1/messages, with Anthropic's names for the types."""
        kind = _ANTHROPIC_TYPES.get(self.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}


Problem = dict[str, str | None]
_LISTED = 10


def problem(where: str | None, kind: str, message: str, value: object) -> Problem:
    """One thing that is wrong with a body; vLLM repeats the value, but of a container only how large it is."""
    shown = f"<{type(value).__name__} of {len(value)} items>" if isinstance(value, dict | list) else str(value)
    return {"type": kind, "loc": where, "msg": message, "input": shown}


class ValidationFailed(ApiError):
    """The body is not what the route takes: 400, never 422, and in OpenAI's shape on the Anthropic routes too."""

    def __init__(self, where: str | None, kind: str, message: str, *, problems: Sequence[Problem] = ()) -> None:
        listed = problems or [{"type": kind, "loc": where, "msg": message}]
        lines = [f"{len(listed)} validation error{'s' if len(listed) > 1 else ''}:", *map(str, listed[:_LISTED])]
        if len(listed) > _LISTED:
            lines.append(f"...and {len(listed) - _LISTED} more errors")
        super().__init__("\n  ".join(lines), type="Bad Request", param=where)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> "ValidationFailed":
        """That of several problems, which are listed."""
        first = problems[0]
        return cls(first["loc"], str(first["type"]), str(first["msg"]), problems=problems)

    def anthropic_body(self) -> dict[str, Any]:
        return self.body()


class Unparsable(ValidationFailed):
    """A body that is not even text: FastAPI's own shape, without `error`."""

    def __init__(self) -> None:
        super().__init__(None, "unparsable", "There was an error parsing the body")

    def body(self) -> dict[str, Any]:
        return {"detail": "There was an error parsing the body"}


def bad_parameter(message: str, param: str, value: object = None) -> ApiError:
    """vLLM repeats the parameter, and its value where there is one, at the end of the message."""
    shown = "" if value is None else f", value={value}"
    return ApiError(f"{message} (parameter={param}{shown})", param=param)


def engine_failure() -> ApiError:
    """The engine broke while it generated; inside a stream the status is already 200."""
    message = "The server had an error while processing your request."
    return ApiError(message, status=500, type="InternalServerError")
