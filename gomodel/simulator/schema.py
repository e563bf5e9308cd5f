"""A small value for a JSON Schema: what a tool's arguments and a structured answer are made of.

Covers what tools and structured outputs use most: types, enum, const, lower bounds and sizes, $ref within the schema,
anyOf and oneOf. Of allOf it takes one part; it knows nothing of formats and patterns.
"""

import math
from collections.abc import Mapping
from typing import Any

_VALUES_LIMIT = 200  # a schema that needs more has no end, or is no small one
_WORDS = {"city": "Paris", "country": "France", "language": "en", "location": "Paris"}


def instance(schema: Any) -> Any:
    """A value that `schema` accepts, with the required properties only. Raises ValueError when none is found."""
    try:
        return _Writer(schema).value(schema, "")
    except (AttributeError, LookupError, OverflowError, TypeError) as error:
        raise ValueError("the schema is malformed") from error


class _Writer:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._left = _VALUES_LIMIT

    def value(self, schema: Any, name: str) -> Any:
        """`name` is the property that the value is for."""
        self._left -= 1
        if self._left < 0:
            raise ValueError("the schema has no small value")
        if schema is True:
            return "demo"
        if schema is False:
            raise ValueError("the schema allows nothing")
        if "$ref" in schema:
            found = self._root
            for part in schema["$ref"].split("/")[1:]:
                found = found[part]
            return self.value(found, name)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return schema["enum"][0]
        for keyword in ("anyOf", "oneOf", "allOf"):
            if keyword in schema:  # a reference may lead back here
                return self.value(sorted(schema[keyword], key=lambda branch: "$ref" in branch)[0], name)
        return self._typed(schema, name)

    def _typed(self, schema: Mapping[str, Any], name: str) -> Any:
        kind = schema.get("type", "object" if "properties" in schema else "string")
        match kind[0] if isinstance(kind, list) else kind:
            case "object":
                properties = schema.get("properties", {})
                return {key: self.value(properties.get(key, True), key) for key in schema.get("required", ())}
            case "array":
                return [self.value(schema.get("items", True), name) for _ in range(schema.get("minItems", 0))]
            case "string":
                word = _WORDS.get(name, "demo").ljust(min(schema.get("minLength", 0), 1000), "a")
                return word[: schema.get("maxLength")]
            case "integer":
                return math.ceil(_number(schema))
            case "number":
                return _number(schema)
            case "boolean":
                return True
            case "null":
                return None
        raise ValueError(f"{kind!r} is not a type")


def _number(schema: Mapping[str, Any]) -> int | float:
    """The smallest one that is allowed, else the greatest, else 1."""
    above = schema.get("exclusiveMinimum")
    low: int | float = schema.get("minimum", schema.get("maximum", 1) if above is None else above + 1)
    return low
