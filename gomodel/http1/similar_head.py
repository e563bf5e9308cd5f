"""A head with the lines of one that came before on the same connection, in which some values differ.

Behind an ingress or a tracing SDK no two heads are equal: a trace, a request id or a time is another in each. A strict
parser took the head before, so one of the same lines needs none where each line that differs has the same name, in the
same letters, a value of visible characters, and a name that decides nothing here. Decides when two heads are alike;
pure, and knows nothing of what was made of them, nor which names those are.
"""

import re
from collections.abc import Sequence

_line = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t -~]*").fullmatch
_value = re.compile(rb"[\t -~]*").fullmatch


class SimilarHead:
    """One head, by its lines. `changed` are the fields that differ in the last that matched, by place and value."""

    __slots__ = ("_cuts", "_end", "_limit", "_lines", "_names", "changed")

    def __init__(self, lines: list[bytes], names: list[int], limit_bytes: int) -> None:
        """`names`: for each line how long its name is, with the colon, where its value may differ; else 0."""
        self._lines = lines
        self._names = names
        self._limit = limit_bytes
        self._cuts: list[tuple[bytes, int]] = []  # the fields that differed so far, each behind the text before it
        self._end = b""  # the text behind the last of them
        self.changed: list[tuple[int, bytes]] = []

    def match(self, data: bytes) -> int:
        """Where the body begins in `data` if a head like this one stands at its beginning, else 0."""
        return self._match_cuts(data) or self._match_lines(data)

    def _match_cuts(self, data: bytes) -> int:
        """The same where no other fields differ than did before: what stands between them is compared at once."""
        at, changed = 0, []
        for text, place in self._cuts:
            if not data.startswith(text, at):
                return 0
            start = at + len(text)
            at = data.find(b"\r", start, self._limit)
            value = data[start:at]
            if at < 0 or not _value(value):
                return 0
            changed.append((place, value.strip(b" \t")))
        if not changed or not data.startswith(self._end, at):
            return 0
        at += len(self._end)
        if at > self._limit:
            return 0
        self.changed = changed
        return at

    def _cut(self) -> None:
        """Remember which fields differed, beside those that did before."""
        places = sorted({place for place, _ in self.changed} | {place for _, place in self._cuts})
        text, cuts, lines = self._lines[0], [], self._lines
        for place, line in enumerate(lines[1:]):
            if place in places:
                size = self._names[place + 1]
                cuts.append((text + b"\r\n" + line[:size], place))
                text = b""
            else:
                text += b"\r\n" + line
        self._cuts, self._end = cuts, text + b"\r\n\r\n"

    def _match_lines(self, data: bytes) -> int:
        end = data.find(b"\r\n\r\n", 0, self._limit)
        lines = data[: max(end, 0)].split(b"\r\n")
        known, names = self._lines, self._names
        if len(lines) != len(known):
            return 0
        changed = []
        for at, line in enumerate(lines):
            before = known[at]
            if line == before:
                continue
            name = names[at]
            if not name or line[:name] != before[:name] or not _value(line, name):
                return 0
            changed.append((at - 1, line[name:].strip(b" \t")))
        self.changed = changed
        if changed:
            self._cut()
        return end + 4


def similar(head: bytes, varying: Sequence[bytes], limit_bytes: int) -> SimilarHead | None:
    """The heads like `head`, which a strict parser took, that are no longer than `limit_bytes`.

    `varying` has the name of each of its fields whose value may be another one, and b"" for the others. None when the
    head is not plain enough to tell.
    """
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if len(lines) != len(varying) + 1:
        return None
    names = [0]
    for line, name in zip(lines[1:], varying, strict=True):
        if not _line(line) or not line.startswith(name + b":" if name else b""):
            return None
        names.append(len(name) + 1 if name else 0)
    return SimilarHead(lines, names, limit_bytes)
