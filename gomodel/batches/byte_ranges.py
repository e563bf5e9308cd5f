"""Which Range headers of a request for a file count (RFC 9110 14). Pure."""

import re

from ..errors import RangeNotSatisfiable

# One range. A set of several is ignored, as it may be, and so is what is no range at all (14.2).
_ONE = re.compile(r"bytes=(\d{0,99})-(\d{0,99})", re.ASCII | re.IGNORECASE)


def counts(field: str, size: int) -> bool:
    """Whether a Range `field` asks for one part of a file of `size` bytes; where it does not it is as if not there.

    Raises RangeNotSatisfiable for a valid one of which the file has nothing (14.1.2).
    """
    found = _ONE.fullmatch(field)
    if found is None:
        return False
    first, last = found.groups()
    if not (first or last) or (first and last and int(last) < int(first)):
        return False
    start = int(first) if first else max(0, size - int(last))
    if start >= size:
        raise RangeNotSatisfiable(size)
    return True
