"""Ids of files and batches: in the order in which they were made, and never of a client's making."""

import re
import secrets
from time import time_ns

FILE = "file-"
BATCH = "batch_"

_TAIL = r"[0-9a-f]{30}"
_KNOWN = {prefix: re.compile(prefix + _TAIL) for prefix in (FILE, BATCH)}


def new_id(prefix: str) -> str:
    """A new id. Later ones sort behind it, but for those of the same microsecond."""
    return f"{prefix}{time_ns() // 1000:014x}{secrets.token_hex(8)}"


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` could be an id of this kind; what is not reaches no path and no statement."""
    return _KNOWN[prefix].fullmatch(text) is not None
