"""Header fields of a form: the boundary in its Content-Type, and which part is the field named `model`.

Decides how parameters are divided and unquoted: as python-multipart, vLLM's form parser, does it (RFC 7578 section 4,
RFC 2046 section 5.1.1 leave a choice). Knows nothing of where a body's parts are.
"""

import re
from collections.abc import Iterator

from ..errors import InvalidBody

# Three are defined, and each costs a step or so.
_PARAMETERS_LIMIT = 100
_CONTENT_TYPE_LIMIT_BYTES = 1024

_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
# vLLM decodes names and values by it (RFC 7578 5.1.2).
_CHARSETS = frozenset({"utf-8", "us-ascii"})
# Up to the next semicolon outside quotes. A quote behind a backslash is none, even where the backslash is escaped.
_PARAMETER = re.compile(
    r""";((?:[^;"\\]++|\\"?+|"(?:[^"\\]++|\\"?+|)*+(?:"|\Z)|)*+)""",  # the empty alternatives: see json_patterns
)
_FOLD = re.compile(rb"\r\n[ \t]++")
_DISPOSITION = re.compile(
    rb"(?:\A|\r\n)[ \t]*+content-disposition[ \t]*+:([^\r]*+(?:\r(?!\n)[^\r]*+|)*+)", re.IGNORECASE
)


def boundary(content_type: str | bytes) -> bytes:
    """The boundary parameter of a Content-Type, quoted or not; 1 to 70 characters (RFC 2046 section 5.1.1).

    Raises InvalidBody when it is missing, given twice or not of the characters allowed, when the field is longer than a
    boundary can make it, and for a charset that might spell `model` in other bytes. Leaves the media type alone.
    """
    text = content_type.decode("latin-1") if isinstance(content_type, bytes) else content_type
    if len(text) > _CONTENT_TYPE_LIMIT_BYTES:
        raise InvalidBody(f"The Content-Type of a multipart body is longer than {_CONTENT_TYPE_LIMIT_BYTES} bytes.")
    parameters = list(_parameters(text))
    given = [value for name, value in parameters if name == "boundary"]
    if len(given) != 1 or not _BOUNDARY.fullmatch(found := _unquoted(given[0])) or (found == given[0] and " " in found):
        raise InvalidBody("A multipart body needs one valid boundary parameter in its Content-Type.")
    if any(name == "charset" and _unquoted(value).lower() not in _CHARSETS for name, value in parameters):
        raise InvalidBody("A multipart body must be UTF-8: its Content-Type names another charset.")
    return found.encode()


def is_field(headers: bytes) -> bool:
    """Whether a part's headers name the field `model`. One with a file name is a file. The last header counts.

    Raises InvalidBody for one with more parameters than are looked at.
    """
    dispositions = _DISPOSITION.findall(_FOLD.sub(b" ", headers))
    if not dispositions:
        return False
    parameters = dict(_parameters(dispositions[-1].decode("latin-1")))
    return _unquoted(parameters.get("name", "")) == "model" and "filename" not in parameters


def _parameters(field: str) -> Iterator[tuple[str, str]]:
    """The parameters of a header field value and their values as they stand, as python-multipart divides them.

    One without a value is named as it stands, another in lower case. Raises InvalidBody for too many.
    """
    found = _PARAMETER.findall(f";{field}")
    if len(found) > _PARAMETERS_LIMIT:
        raise InvalidBody(f"A header of the form has more than {_PARAMETERS_LIMIT} parameters.")
    for parameter in found[1:]:
        name, equals, value = parameter.partition("=")
        yield (name.strip(" \t").lower(), value.strip(" \t")) if equals else (name.strip(" \t"), "")


def _unquoted(value: str) -> str:
    """A parameter's value without its quotes and the backslashes before a backslash or a quote."""
    if len(value) < 2 or not value.startswith('"') or not value.endswith('"'):
        return value
    return value[1:-1].replace("\\\\", "\\").replace('\\"', '"')
