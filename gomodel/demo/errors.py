"""The error bodies of vLLM's Python front end.

Decides status, type, param and the JSON of every refusal, as vLLM 0.33 sends it; there are five shapes and each is
kept, since a gateway has to pass all of them. Knows nothing of routes: the shape of the Anthropic routes is applied
by the caller.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

_REPORTED_ERRORS = 10  # vLLM lists no more, so that a bad list cannot blow up the answer
_REPORTED_INPUT_CHARS = 200

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    503: "overloaded_error",
}


def dumps(value: object) -> bytes:
    """JSON as Starlette and pydantic write it: compact, UTF-8 unescaped."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


class ApiError(Exception):
    """A refusal with vLLM's usual body; `param` names the field at fault."""

    status = 500
    type = "InternalServerError"

    def __init__(
        self, message: str, *, param: str | None = None, status: int | None = None, type: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if status is not None:
            self.status = status
        if type is not None:
            self.type = type

    def body(self) -> dict[str, Any]:
        """`{"error": {...}}`; `code` is the status as an integer, unlike OpenAI's."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.status}}

    def anthropic_body(self) -> dict[str, Any]:
        """The same refusal on /v1/messages, with Anthropic's names for the types."""
        kind = _ANTHROPIC_TYPES.get(self.status, "api_error")
        return {"type": "error", "error": {"type": kind, "message": self.message}}


class BadRequest(ApiError):
    """A parameter that parses but cannot be served."""

    status = 400
    type = "BadRequestError"


def bad_parameter(message: str, param: str, value: object = None) -> BadRequest:
    """vLLM repeats the parameter, and its value where there is one, at the end of the message."""
    shown = "" if value is None else f", value={value}"
    return BadRequest(f"{message} (parameter={param}{shown})", param=param)


class ModelNotFound(ApiError):
    """The model is not served here; vLLM names those that are, except on the pooling routes."""

    status = 404
    type = "NotFoundError"

    def __init__(self, model: str, served: Sequence[str] | None) -> None:
        if served is None:
            super().__init__(f"The model `{model}` does not exist.")
        else:
            super().__init__(f"The model `{model}` does not exist. Valid aliases: {', '.join(served)}.", param="model")


class Busy(ApiError):
    """The queue is full: sent before a stream starts, never with Retry-After."""

    status = 503
    type = "Service Unavailable"

    def __init__(self) -> None:
        super().__init__(
            "The engine is currently busy and cannot accept new requests. "
            "Please try again later or on a different instance."
        )


class ShuttingDown(ApiError):
    """What every new request gets while vLLM drains, although /health is still 200."""

    def __init__(self) -> None:
        super().__init__("cannot schedule new futures after shutdown")


class EngineFailure(ApiError):
    """The engine broke while it generated; inside a stream the status is already 200."""

    def __init__(self) -> None:
        super().__init__("The server had an error while processing your request.")


class ValidationFailed(ApiError):
    """The body is not what the route takes; `errors` in the words of pydantic. The same shape on every route."""

    status = 400
    type = "Bad Request"

    def __init__(self, errors: Sequence[Mapping[str, Any] | str]) -> None:
        label = "error" if len(errors) == 1 else "errors"
        lines = [f"{len(errors)} validation {label}:", *(f"  {_shown(error)}" for error in errors[:_REPORTED_ERRORS])]
        if len(errors) > _REPORTED_ERRORS:
            lines.append(f"  ...and {len(errors) - _REPORTED_ERRORS} more {label}")
        first = errors[0]
        super().__init__("\n".join(lines), param=None if isinstance(first, str) else first["loc"])


class Unparsable(Exception):
    """A body that is not even text: FastAPI's own shape, without `error`."""

    status = 400
    detail = "There was an error parsing the body"


def _shown(error: Mapping[str, Any] | str) -> str:
    if isinstance(error, str):
        return error
    return str({key: _summary(value) if key == "input" else value for key, value in error.items()})


def _summary(value: object) -> str:
    """Containers are described, not printed, so that a large body is not echoed."""
    if isinstance(value, dict | list):
        return f"<{type(value).__name__} of {len(value)} items>"
    shown = value if isinstance(value, str) else str(value)
    return shown if len(shown) <= _REPORTED_INPUT_CHARS else shown[:_REPORTED_INPUT_CHARS] + "...[truncated]"
