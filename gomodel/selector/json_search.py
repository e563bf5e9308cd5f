"""Finds the selector of a JSON body in the pieces in which it comes, and follows closely only what may be it.

A body is long for what stands before or behind `model`. Where no piece has named it yet, a piece that does not name it
either is not looked into: `rfind` says so of escaped text in a tenth of a nanosecond per byte, where following it costs
fifteen times as much. Of a whole body in which it is named once, near the end, what stands behind decides: where that
closes one object and nothing else, the name is one of its members, and the object is the body. What these looks cannot
tell is for `JsonScan`. Of a long body that is no JSON they may answer what the scan would refuse; vLLM refuses it then.
"""

from collections.abc import Sequence

from .json_body import JsonScan, ending, names_model, usual
from .json_patterns import SPACE, compiled
from .selector import Selector
from .turns import SLICE_BYTES

# To follow a body up to this size costs less than is worth a second way to read it.
_LONG_BYTES = 8192
# The bytes of a piece with which a name may begin that ends in the next one: all but one of `"model"`.
_EDGE_BYTES = 6
_begins = compiled(rf'{SPACE}\{{{SPACE}"').match


def named_at_its_end(body: bytes) -> Selector | None:
    """The selector of a long body that is here to its end, where that tells; None where it takes a closer look."""
    return ending(body) if len(body) > _LONG_BYTES and _begins(body) else None


class JsonSearch:
    """Shown a body piece by piece; the bytes are the caller's to keep.

    `paused` says that it has given way: call `go_on` once the others have had their turn.
    """

    __slots__ = ("_edge", "_followed_bytes", "_named", "_scan", "paused")

    def __init__(self) -> None:
        self.paused = False
        self._named = False
        self._edge = b""
        self._scan: JsonScan | None = None
        self._followed_bytes = 0

    def look(self, held: Sequence[bytes], piece: bytes, *, last: bool) -> Selector | None:
        """The selector, if it is clear from `held`, all of the body so far, of which `piece` is new.

        Not to be called after that. Raises as JsonScan.feed.
        """
        if not self._named:
            first = not self._edge
            if first and (found := usual(piece)):
                return found
            named = names_model(piece) or (not first and names_model(self._edge + piece[:_EDGE_BYTES]))
            self._edge = (self._edge + piece[-_EDGE_BYTES:])[-_EDGE_BYTES:]
            if not named and not last and (not first or _begins(piece)):
                return None
            self._named = named
            if named and last and (found := self._at_the_end(held, piece)):
                return found
        return self.go_on(held)

    def passes_over(self, piece: bytes) -> bool:
        """Whether `piece`, neither the first nor the last, shows nothing; otherwise `look` is to be shown it."""
        edge = self._edge
        if not edge or self._named or names_model(piece) or names_model(edge + piece[:_EDGE_BYTES]):
            return False
        self._edge = piece[-_EDGE_BYTES:] if len(piece) >= _EDGE_BYTES else (edge + piece)[-_EDGE_BYTES:]
        return True

    def _at_the_end(self, held: Sequence[bytes], piece: bytes) -> Selector | None:
        size = sum(map(len, held))
        if size > _LONG_BYTES and _begins(held[0]):
            tail, before = piece, size - len(piece)
            at = len(held) - 1
            while at and len(tail) < SLICE_BYTES:
                at -= 1
                tail = held[at] + tail
                before -= len(held[at])
            if found := ending(tail):
                found.start += before
                found.end += before
                return found
        return None

    def go_on(self, held: Sequence[bytes]) -> Selector | None:
        """Follow what is held and was not followed yet, for a turn. Raises as JsonScan.feed."""
        if self._scan is None:
            self._scan = JsonScan()
        scan = self._scan
        if self.paused and scan.paused:
            found = scan.feed(b"")
            if found is not None or scan.paused:
                return found
        skip = self._followed_bytes
        for at, piece in enumerate(held):
            if skip >= len(piece):
                skip -= len(piece)
                continue
            new = piece[skip:]
            self._followed_bytes += len(new)
            found = scan.feed(new)
            self.paused = scan.paused or at + 1 < len(held)
            return found
        self.paused = False
        return None

    def finish(self) -> None:
        """The body has ended without a selector. Raises InvalidBody unless it was one complete object, or empty."""
        if self._scan is not None:
            self._scan.finish()
