"""What a selector means: the instance and the model that a request names, and how many of its bytes name the instance.

Contract section 4. Knows nothing of where in a body it stands, of HTTP, or of which instances there are.
"""

import re
from dataclasses import dataclass

# Twice as long as a path can be (PATH_MAX); a megabyte of one would be looked up, logged and compared.
VALUE_LIMIT_BYTES = 8 * 1024

# The empty alternative: see json_patterns.
_to_slash = re.compile(rb"(?:[^\\/]++|\\(?!/|u002[fF]).|)*+(?:\\?/|\\u002[fF])", re.DOTALL).match


@dataclass(slots=True)
class Selector:
    """A selector, and the offsets in the body of the raw bytes it is written in.

    For JSON these bytes are what stands between the quotes, escapes included. The first `prefix_bytes` of them are all
    to the first slash, which is what an instance does not get to see when they name it; 0 without a slash.
    """

    value: str
    start: int
    end: int
    prefix_bytes: int


def split(value: str) -> tuple[str, str] | None:
    """Instance and model, split on the first slash; None without a slash. Either may be empty. Contract section 4."""
    instance, slash, model = value.partition("/")
    return (instance, model) if slash else None


def prefix_length(raw: bytes | bytearray) -> int:
    r"""How many bytes of a JSON string's raw content make up everything to the first decoded slash; 0 without a slash.

    A slash may be written `/`, `\/`, `\u002f` or `\u002F` (RFC 8259 section 7). `raw` is the content of a valid string.
    """
    if b"\\u002" not in raw:
        return raw.find(b"/") + 1
    found = _to_slash(raw)
    return found.end() if found else 0
