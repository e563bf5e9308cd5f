"""Whether a file can be run as a batch: every line looked at before the first one runs.

Decides what is wrong with which line, as OpenAI says it. Holds one line at a time and the ids that were seen. Blocks,
and is called in a thread.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .lines import BadLine, parse_line

MOST_LINES = 50_000
# Enough to see what is wrong with a file; the rest is mostly the same.
_MOST_ERRORS = 100
_MARK = b"\xef\xbb\xbf"
# Distinct models of one file that are looked up.
_MOST_MODELS = 100


class Verdict(NamedTuple):
    """`errors` is empty for a file that is good. `models`: each that is named, with the first line that names it."""

    total: int
    models: dict[str, int]
    errors: list[dict[str, Any]]


def read_lines(file: BinaryIO, limit_bytes: int) -> Iterator[bytes]:
    """The lines of a file as they stand, blank ones included; of one over the limit the beginning, and no more."""
    line = file.readline(len(_MARK) + limit_bytes + 1).removeprefix(_MARK)
    while line:
        yield line
        if len(line) > limit_bytes:
            return
        line = file.readline(limit_bytes + 1)


def validate(path: Path, endpoint: str, line_limit_bytes: int) -> Verdict:
    """Look at all of the file. Raises OSError."""
    errors: list[dict[str, Any]] = []
    seen: set[str] = set()
    models: dict[str, int] = {}
    total = 0
    with open(path, "rb") as file:
        for number, raw in enumerate(read_lines(file, line_limit_bytes), 1):
            if not raw.strip():
                continue
            total += 1
            try:
                if len(raw) > line_limit_bytes:
                    raise BadLine("line_too_large", f"The line is over the limit of {line_limit_bytes} bytes.")
                if total > MOST_LINES:
                    raise BadLine("too_many_lines", f"A batch has at most {MOST_LINES} lines.")
                line = parse_line(raw, endpoint)
                if line.name in seen:
                    raise BadLine("duplicate_custom_id", "The custom_id of this line was used before.", "custom_id")
                seen.add(line.name)
                if line.model not in models and len(models) < _MOST_MODELS:
                    models[line.model] = number
            except BadLine as bad:
                errors.append(error(bad.code, bad.message, number, bad.param))
                if bad.code in ("too_many_lines", "line_too_large"):
                    break
                if len(errors) > _MOST_ERRORS:
                    said = f"More than {_MOST_ERRORS} lines are wrong; from this one on they are not listed."
                    errors[-1] = error("too_many_errors", said, number)
                    break
    if not total:
        errors.append(error("empty_file", "The file has no lines.", None))
    return Verdict(total, models, errors)


def error(code: str, message: str, line: int | None, param: str | None = None) -> dict[str, Any]:
    """One entry of `errors.data`."""
    return {"code": code, "line": line, "message": message, "param": param}
