"""A small valid value for a JSON Schema: what a tool's arguments and a structured answer are made of.

Decides the value: only required properties, the smallest lists, plain words and numbers. Covers what tools and
structured outputs use of JSON Schema 2020-12 (types, enum, const, bounds, formats, $ref, allOf, anyOf, oneOf); of
`pattern`, only those that one of a few plain strings matches. Knows nothing of prompts or HTTP.
"""

import math
import re
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

_DEPTH_LIMIT = 32  # deeper is a recursive schema without an end
_DISTANCE_LIMIT = 1000  # how far from a bound a number is looked for

_SIZE_LIMIT = 10_000  # of strings and lists; more is no small value

_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "duration": "P1D",
    "email": "demo@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uri": "https://example.com/",
    "uri-reference": "/demo",
    "uuid": "00000000-0000-4000-8000-000000000000",
}

_WORDS = {"city": "Paris", "country": "France", "currency": "EUR", "language": "en", "location": "Paris"}


class Unsatisfiable(ValueError):
    """No value was found; the schema may allow one that is harder to find."""


def instance(schema: Any, *, name: str = "") -> Any:
    """A value that `schema` accepts; `name` is the property it is for and colours plain strings.

    Raises Unsatisfiable.
    """
    try:
        return _instance(schema, schema, name, 0, 0)
    except Unsatisfiable:
        raise
    except (AttributeError, KeyError, OverflowError, StopIteration, TypeError, ValueError, re.error) as error:
        raise Unsatisfiable("the schema is malformed") from error


def _instance(schema: Any, root: Any, name: str, salt: int, depth: int) -> Any:
    """`salt` tells the elements of a list with unique items apart."""
    if depth > _DEPTH_LIMIT:
        raise Unsatisfiable("the schema never ends")
    if schema is True or schema == {}:
        return _string({}, name, salt)
    if not isinstance(schema, Mapping):
        raise Unsatisfiable("the schema allows nothing")
    if "$ref" in schema:
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _instance(_merge(_resolve(schema["$ref"], root), rest), root, name, salt, depth + 1)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][salt % len(schema["enum"])]
    if schema.get("allOf"):
        merged: Mapping[str, Any] = {key: value for key, value in schema.items() if key != "allOf"}
        for part in schema["allOf"]:
            merged = _merge(merged, _resolve(part["$ref"], root) if "$ref" in part else part)
        return _instance(merged, root, name, salt, depth + 1)
    for keyword in ("anyOf", "oneOf"):
        if schema.get(keyword):
            base = {key: value for key, value in schema.items() if key != keyword}
            return _first(schema[keyword], base, root, name, salt, depth)
    return _typed(schema, root, name, salt, depth)


def _first(branches: list[Any], base: Mapping[str, Any], root: Any, name: str, salt: int, depth: int) -> Any:
    for branch in branches:
        try:
            return _instance(_merge(base, branch), root, name, salt, depth + 1)
        except Unsatisfiable:
            continue
    raise Unsatisfiable("no branch of anyOf or oneOf can be satisfied")


def _merge(base: Any, more: Any) -> Any:
    if not isinstance(base, Mapping) or not isinstance(more, Mapping):
        return more if base in (True, {}) else base if more is True else False
    merged = {**base, **more}
    if "properties" in base and "properties" in more:
        merged["properties"] = {**base["properties"], **more["properties"]}
    if "required" in base and "required" in more:
        merged["required"] = [*base["required"], *more["required"]]
    return merged


def _resolve(reference: Any, root: Any) -> Any:
    """A JSON Pointer into the schema itself; no other document is ever fetched."""
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise Unsatisfiable(f"{reference!r} is not a reference into the schema")
    found = root
    for part in reference[1:].split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or key not in found:
            raise Unsatisfiable(f"{reference!r} leads nowhere")
        found = found[key]
    return found


def _typed(schema: Mapping[str, Any], root: Any, name: str, salt: int, depth: int) -> Any:
    kind = schema.get("type") or _implied(schema)
    match kind[0] if isinstance(kind, list) and kind else kind:
        case "object":
            return _object(schema, root, depth)
        case "array":
            return _array(schema, root, name, depth)
        case "string":
            return _string(schema, name, salt)
        case "integer":
            return _number(schema, salt, whole=True)
        case "number":
            return _number(schema, salt, whole=False)
        case "boolean":
            return salt % 2 == 0
        case "null":
            return None
    raise Unsatisfiable(f"{kind!r} is not a type")


def _implied(schema: Mapping[str, Any]) -> str:
    if schema.keys() & {"properties", "required", "minProperties"}:
        return "object"
    if schema.keys() & {"items", "prefixItems", "minItems"}:
        return "array"
    if schema.keys() & {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}:
        return "number"
    return "string"


def _object(schema: Mapping[str, Any], root: Any, depth: int) -> dict[str, Any]:
    properties = schema.get("properties") or {}
    other = schema.get("additionalProperties", True)
    names = dict.fromkeys(schema.get("required") or ())
    size = _size(schema, "minProperties")
    spare = iter([*properties, *(f"extra_{i}" for i in range(size))])
    while len(names) < size:
        names.setdefault(next(spare))
    return {key: _instance(properties.get(key, other), root, key, 0, depth + 1) for key in names}


def _size(schema: Mapping[str, Any], keyword: str) -> int:
    size = int(schema.get(keyword, 0))
    if size > _SIZE_LIMIT:
        raise Unsatisfiable(f"{keyword} is too large")
    return size


def _array(schema: Mapping[str, Any], root: Any, name: str, depth: int) -> list[Any]:
    prefix = schema.get("prefixItems") or []
    items = schema.get("items", True)
    size = _size(schema, "minItems")
    return [
        _instance(prefix[i] if i < len(prefix) else items, root, name, i if schema.get("uniqueItems") else 0, depth + 1)
        for i in range(size)
    ]


def _string(schema: Mapping[str, Any], name: str, salt: int) -> str:
    low, high = _size(schema, "minLength"), schema.get("maxLength", math.inf)
    for word in _candidates(schema, name, salt):
        fitted = word if len(word) >= low else word + "a" * (low - len(word))
        fitted = fitted if len(fitted) <= high else fitted[: int(high)]
        if re.search(schema.get("pattern", ""), fitted):
            return fitted
    raise Unsatisfiable(f"no plain string matches {schema['pattern']!r}")


def _candidates(schema: Mapping[str, Any], name: str, salt: int) -> Iterator[str]:
    number = str(salt) if salt else ""
    yield _FORMATS.get(schema.get("format", "")) or _WORDS.get(name, "demo") + number
    if "pattern" in schema:
        yield from _FORMATS.values()
        for alphabet in ("a", "A", "0", "1", "a0", "A0", "Aa"):
            for length in range(41):
                yield (alphabet * 41)[:length]
        for prefix in re.findall(r"\^([\w-]+)", schema["pattern"]):
            for length in range(41):
                yield prefix + "0" * length
                yield prefix + "a" * length


def _number(schema: Mapping[str, Any], salt: int, *, whole: bool) -> int | float:
    fitting = (value for value in _numbers(schema) if _fits(value, schema, whole=whole))
    for value in islice(fitting, salt, None):
        return int(value) if value == int(value) else value
    raise Unsatisfiable("no number lies within the bounds")


def _numbers(schema: Mapping[str, Any]) -> Iterator[int | float]:
    """Multiples near the lower bound (or the upper one, or 1), then fractions between the bounds."""
    low = max((schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema), default=None)
    high = min((schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema), default=None)
    step = schema.get("multipleOf", 1)
    start = low if low is not None else 1 if high is None else min(1, high)
    nearest = math.ceil(start / step)
    for distance in range(_DISTANCE_LIMIT):
        yield (nearest + distance) * step
    for distance in range(1, _DISTANCE_LIMIT):
        yield (nearest - distance) * step
    if low is not None and high is not None and "multipleOf" not in schema:
        for part in range(2, _DISTANCE_LIMIT):
            yield low + (high - low) / part


def _fits(value: int | float, schema: Mapping[str, Any], *, whole: bool) -> bool:
    return (
        (not whole or value == int(value))
        and value >= schema.get("minimum", -math.inf)
        and value > schema.get("exclusiveMinimum", -math.inf)
        and value <= schema.get("maximum", math.inf)
        and value < schema.get("exclusiveMaximum", math.inf)
    )
