"""The file of answers that `gomodel batch` writes: which lines it has, and whether it is such a file at all.

Decides what is a line of results, OpenAI's own among them, and that nothing else is ever changed: half a line at the
end is cut off only where it stands behind lines of results, or begins as this gateway's do. Blocks.
"""

import json
from pathlib import Path

from .validation import read_lines

LINE_BYTES = 1 << 30
_BEGINNING = b'{"id":"batch_req_'


class ForeignFile(Exception):
    """The file holds something else; it was not touched. The message is for whoever typed the command."""


def result_line(line: bytes) -> tuple[str, int | None]:
    """The custom_id and the status of a line of results; None is one that has no response. Raises ValueError."""
    try:
        said = json.loads(line)
        name, response = said["custom_id"], said["response"]
        status = None if response is None else response["status_code"]
    except (KeyError, TypeError, RecursionError):
        raise ValueError from None
    if type(name) is not str or not (type(status) is int or (status is None and said.get("error"))):
        raise ValueError
    return name, status


def read_results(path: Path) -> dict[str, int]:
    """The status of each line that has a response; others are run again. Mends the end. Raises ForeignFile, OSError."""
    try:
        file = open(path, "r+b")  # noqa: SIM115
    except FileNotFoundError:
        return {}
    found: dict[str, int] = {}
    with file:
        start, ours = 0, False
        for number, line in enumerate(read_lines(file, LINE_BYTES), 1):
            whole = line.endswith(b"\n")
            try:
                if line.strip():
                    name, status = result_line(line)
                    ours = True
                    if status is not None:
                        found[name] = status
                if not whole:
                    file.seek(0, 2)
                    file.write(b"\n")
                    break
            except ValueError:
                if whole or not _is_begun(line, b"{" if ours else _BEGINNING):
                    raise ForeignFile(
                        f"{path} is no file of answers: its line {number} is something else; name another with --out"
                    ) from None
                file.truncate(start)
                break
            start = file.tell()
    return found


def _is_begun(line: bytes, beginning: bytes) -> bool:
    """Whether it is the first part of a line that begins so."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line.startswith(beginning) or beginning.startswith(line)
    return False
