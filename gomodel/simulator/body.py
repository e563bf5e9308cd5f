"""Reading a JSON body as vLLM's front end does: which fields have which type, and which model is served.

Unknown fields are kept and ignored. A field has the same type in every dialect.
"""

import json
from typing import Any

from aiohttp import web

from .engine import ENGINE
from .errors import Unparsable, ValidationFailed, problem
from .wire import fault_of

_FIELDS: dict[tuple[type, ...], str] = {
    (str,): "model role name instructions previous_response_id encoding_format",
    (list,): "messages tools tool_calls stop_sequences tokens",
    (str, list): "prompt input stop system",
    (int,): "max_tokens max_completion_tokens max_output_tokens min_tokens n seed dimensions",
    (bool,): "stream ignore_eos background store",
    (dict,): "function parameters input_schema response_format stream_options text",
    (float, int): "temperature top_p",
    (str, dict): "tool_choice",
}
_TYPES = {name: types for types, names in _FIELDS.items() for name in names.split()}
_WORDS = {str: "string", list: "list", dict: "dictionary", int: "integer", float: "number", bool: "boolean"}


class Body(dict[str, Any]):
    """A JSON object in which an absent field is None."""

    def __missing__(self, name: str) -> None:
        return None


async def read_json(request: web.Request, *required: str) -> Body:
    """The body, whose fields have their types and whose model is the served one; raises ApiError.

    The media type must be application/json (400, not 415), and vLLM never inflates a body.
    """
    fault_of(request)
    raw = await request.read()
    if "Content-Encoding" in request.headers:
        raise Unparsable
    if request.content_type != "application/json":
        message = "Unsupported Media Type: Only 'application/json' is allowed"
        raise ValidationFailed(None, "value_error", message)
    try:
        value = json.loads(raw)
    except json.JSONDecodeError as error:
        raise ValidationFailed(f"body.{error.pos}", "json_invalid", "JSON decode error") from None
    except (ValueError, RecursionError):  # not UTF-8, a number of thousands of digits, too deep
        raise Unparsable from None
    body = _checked(value, "body", required)
    request.app[ENGINE].check_model(body["model"])
    return body


def objects(values: list[Any] | None, where: str, *required: str) -> list[Body]:
    """The same for a list of objects, such as `messages`."""
    return [_checked(value, f"{where}.{index}", required) for index, value in enumerate(values or ())]


def _checked(value: Any, where: str, required: tuple[str, ...]) -> Body:
    if not isinstance(value, dict):
        raise ValidationFailed(where, "dict_type", "Input should be a valid dictionary")
    body = Body(value)
    missing = [name for name in required if body[name] is None]
    problems = [problem(f"{where}.{name}", "missing", "Field required", value) for name in missing]
    for name, given in body.items():
        types = _TYPES.get(name)
        # type() rather than isinstance(): a bool is an int to Python.
        if types is not None and given is not None and type(given) not in types:
            kind = _WORDS[types[0]]
            problems.append(problem(f"{where}.{name}", f"{kind}_type", f"Input should be a valid {kind}", given))
    if problems:
        raise ValidationFailed.of(problems)
    return body
