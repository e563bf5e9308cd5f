"""How far a scan reads in each of its turns, and what it holds meanwhile."""

from collections.abc import Generator

import pytest

from gomodel.selector.turns import CLOSED, PAUSED, SLICE_BYTES, STEPS, Turn, Window

LONG = 10 * SLICE_BYTES


def test_each_turn_reads_one_slice_further_and_has_all_its_steps():
    turn = Turn()
    for at in range(1, 10):
        turn.begin(LONG)
        assert (turn.end, turn.steps) == (at * SLICE_BYTES, STEPS)
        turn.steps -= 7
        assert turn.over(0, LONG)
    turn.begin(LONG)
    assert turn.end == LONG
    assert not turn.over(0, LONG), "it is all read, so more bytes are what it needs"
    turn.begin(LONG + 5)
    assert turn.end == LONG + 5


@pytest.mark.parametrize("size", [SLICE_BYTES, LONG])
def test_one_that_used_up_its_steps_goes_on_in_the_same_slice(size):
    turn = Turn()
    turn.begin(size)
    for _ in range(3):
        assert turn.over(PAUSED, size)
        turn.begin(size)
        assert (turn.end, turn.steps) == (SLICE_BYTES, STEPS)
    assert turn.over(CLOSED, size) == (size > SLICE_BYTES)
    turn.begin(size)
    assert turn.end == min(size, 2 * SLICE_BYTES)


def test_what_is_dropped_moves_the_slice_along():
    turn = Turn()
    turn.begin(LONG)
    for count in (100, 20):
        turn.drop(count)
    assert (turn.end, turn.dropped) == (SLICE_BYTES - 120, 120)


def test_a_window_holds_what_the_scan_is_not_done_with_and_says_what_it_dropped():
    heard: list[tuple[int | None, bytes]] = []
    says: list[int | str] = [0, 3, PAUSED, 2, CLOSED, "found"]

    def scan(held: bytearray, turn: Turn) -> Generator[int | str, int | None, None]:
        dropped: int | None = None
        for each in says:
            heard.append((dropped, bytes(held)))
            dropped = yield each

    window: Window[str] = Window(scan)
    pieces = [b"abcd", b"ef", b"gh", b"", b"", b"i"]
    answers = [(window.advance(piece), window.paused, window.fed_bytes) for piece in pieces]
    assert answers == [
        (0, False, 4),
        (3, False, 6),
        (PAUSED, True, 8),
        (2, False, 8),
        (CLOSED, False, 8),
        ("found", False, 9),
    ]
    assert heard == [(None, b"abcd"), (0, b"abcdef"), (3, b"defgh"), (0, b"defgh"), (2, b"fgh"), (0, b"fghi")]
    assert window.held == b"fghi"
