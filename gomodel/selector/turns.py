"""A scan of a body in pieces and in turns: what it may do before the others go on, and the bytes it is not done with.

Some bytes cost a step of Python each few, so a scan works in turns: in each it reads SLICE_BYTES closely at the most,
takes STEPS steps at the most, and then yields to whoever runs it, who lets others have their turn. What `bytes.find`
passes over costs next to nothing and counts for nothing. Knows nothing of what is looked for.

A scan is a generator over a buffer that may have grown after each yield, so a position is all the state there is, and
no byte is looked at again because a piece ended there. Each yield says how much of the buffer is done with; who drops
that sends how much it was, and the positions move along.
"""

from collections.abc import Callable, Generator
from typing import Generic, Protocol, TypeVar

# What is yielded when the object is closed, though more bytes may follow, and when the steps of this turn are used up.
# Any other number asks for more bytes and says that none before that offset will be looked at again.
CLOSED, PAUSED = -1, -2

# The worst bytes that were found take a millisecond or two per turn; tests/unit/selector/test_scan_turns.py counts what
# is called.
SLICE_BYTES = 32 << 10
STEPS = 400

_Found = TypeVar("_Found")
_Found_co = TypeVar("_Found_co", covariant=True)


class Scan(Protocol[_Found_co]):
    """Looks for something in a body that it is fed in pieces.

    `paused` says that it has given way: feed it b"" once the others have had their turn.
    """

    paused: bool

    def feed(self, piece: bytes | bytearray, /) -> _Found_co:
        """Look at the next piece."""


class Turn:
    """What a scan may still do before it yields: `end` is how far it may read closely, `steps` how many it may take."""

    __slots__ = ("_paused", "dropped", "end", "steps")

    def __init__(self) -> None:
        self.end = 0
        self.steps = 0
        self.dropped = 0  # bytes of the body before the buffer's start
        self._paused = False

    def begin(self, size: int) -> None:
        """The next turn, over a buffer of `size` bytes."""
        self.steps = STEPS
        if not self._paused:
            self.end = min(size, self.end + SLICE_BYTES)

    def over(self, result: object, size: int) -> bool:
        """Whether the scan that yielded `result` needs no more bytes to go on, but another turn."""
        self._paused = result == PAUSED
        return self._paused or self.end < size

    def drop(self, count: int) -> None:
        """So many bytes were taken from the buffer's start."""
        self.end -= count
        self.dropped += count


class Window(Generic[_Found]):
    """Feeds a scan, and holds what it may look at again."""

    __slots__ = ("_dropped", "_scan", "_turn", "held", "paused")

    def __init__(self, scan: Callable[[bytearray, Turn], Generator[_Found | int, int | None, None]]) -> None:
        """`scan` yields numbers as said above until it can yield what it looks for."""
        self.held = bytearray()
        self.paused = False
        self._turn = Turn()
        self._scan = scan(self.held, self._turn)
        self._dropped: int | None = None

    @property
    def fed_bytes(self) -> int:
        """The size of all pieces."""
        return self._turn.dropped + len(self.held)

    def advance(self, piece: bytes | bytearray) -> _Found | int:
        """Take one turn over what is held and the next piece; what the scan yields at its end."""
        held, turn = self.held, self._turn
        held += piece
        turn.begin(len(held))
        result = self._scan.send(self._dropped)
        self.paused = False
        if isinstance(result, int):
            self._dropped = dropped = max(0, result)  # while it is paused nothing is done with
            if dropped:
                del held[:dropped]
                turn.drop(dropped)
            self.paused = turn.over(result, len(held))
        return result
