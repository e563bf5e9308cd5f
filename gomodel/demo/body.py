"""Reading and checking a JSON body the way vLLM's front end does.

Decides that the media type must be application/json (400, not 415), which fields have which type, and that every
failure is reported with its place. Unknown fields are kept and ignored. Knows nothing of what the fields mean.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiohttp import web

from .errors import Unparsable, ValidationFailed

_NOT_A_NUMBER = "Input should be a valid {0}, unable to parse string as {1}"


class Field(NamedTuple):
    """One field of a body. Several `kinds` mean any of them; None is accepted unless `required`."""

    kinds: tuple[str, ...]
    required: bool = False


def optional(*kinds: str) -> Field:
    return Field(kinds)


def required(*kinds: str) -> Field:
    return Field(kinds, required=True)


async def read_json(request: web.Request, fields: Mapping[str, Field]) -> dict[str, Any]:
    """The body as a dict whose `fields` have their types; raises ValidationFailed or Unparsable.

    vLLM never inflates a body, so one with a content coding is unparsable to it.
    """
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Unparsable
    raw = await request.read()
    media_type = request.headers.get("Content-Type", "").split(";", maxsplit=1)[0].strip().lower()
    if media_type != "application/json":
        raise ValidationFailed(["Unsupported Media Type: Only 'application/json' is allowed"])
    if not raw:
        raise ValidationFailed([_missing("body", None)])
    try:
        value = json.loads(raw)
    except json.JSONDecodeError as error:
        where = {"type": "json_invalid", "loc": f"body.{error.pos}", "msg": "JSON decode error", "input": {}}
        raise ValidationFailed([{**where, "ctx": {"error": error.msg}}]) from None
    except (ValueError, RecursionError):  # not UTF-8, a number of thousands of digits, too deep
        raise Unparsable from None
    if not isinstance(value, dict):
        message = "Input should be a valid dictionary or object to extract fields from"
        raise ValidationFailed([{"type": "model_attributes_type", "loc": "body", "msg": message, "input": value}])
    return check(value, fields)


def check(value: Mapping[str, Any], fields: Mapping[str, Field], where: str = "body") -> dict[str, Any]:
    """A copy of `value` in which every one of `fields` is present and typed, absent ones as None."""
    checked = dict(value)
    errors: list[dict[str, Any]] = []
    for name, field in fields.items():
        given = value.get(name)
        if given is None and not field.required:
            checked[name] = None
        elif name not in value:
            errors.append(_missing(f"{where}.{name}", value))
        else:
            results = [_coerce(given, kind) for kind in field.kinds]
            good = [result for result in results if not isinstance(result, _Mismatch)]
            if good:
                checked[name] = good[0]
            else:
                bad = (result for result in results if isinstance(result, _Mismatch))
                errors += [{"type": e.type, "loc": f"{where}.{name}", "msg": e.message, "input": given} for e in bad]
    if errors:
        raise ValidationFailed(errors)
    return checked


def check_objects(values: list[Any], fields: Mapping[str, Field], where: str) -> list[dict[str, Any]]:
    """The same for a list of objects, such as `messages`."""
    checked = []
    for index, value in enumerate(values):
        if not isinstance(value, dict):
            message = "Input should be a valid dictionary"
            raise ValidationFailed([{"type": "dict_type", "loc": f"{where}.{index}", "msg": message, "input": value}])
        checked.append(check(value, fields, f"{where}.{index}"))
    return checked


def _missing(where: str, value: object) -> dict[str, Any]:
    return {"type": "missing", "loc": where, "msg": "Field required", "input": value}


class _Mismatch(NamedTuple):
    type: str
    message: str


def _coerce(value: Any, kind: str) -> Any:
    """`value` as `kind`, as leniently as pydantic: numbers may come as strings, booleans as 0 and 1."""
    match kind:
        case "str":
            return value if isinstance(value, str) else _Mismatch("string_type", "Input should be a valid string")
        case "list":
            return value if isinstance(value, list) else _Mismatch("list_type", "Input should be a valid list")
        case "dict":
            return value if isinstance(value, dict) else _Mismatch("dict_type", "Input should be a valid dictionary")
        case "bool":
            if value in (0, 1) or str(value).lower() in ("true", "false"):
                return value in (1, True) or str(value).lower() == "true"
            return _Mismatch("bool_type", "Input should be a valid boolean")
        case "int":
            return _number(value, int, "integer")
        case "float":
            return _number(value, float, "number")
    raise AssertionError(kind)


def _number(value: Any, convert: type[int] | type[float], name: str) -> Any:
    if isinstance(value, str):
        try:
            return convert(value)
        except ValueError:
            article = "an" if convert is int else "a"
            return _Mismatch(f"{convert.__name__}_parsing", _NOT_A_NUMBER.format(name, f"{article} {name}"))
    if isinstance(value, int | float) and math.isfinite(value):
        if convert is float or value == int(value):
            return convert(value)
        return _Mismatch("int_from_float", "Input should be a valid integer, got a number with a fractional part")
    return _Mismatch(f"{convert.__name__}_type", f"Input should be a valid {name}")
