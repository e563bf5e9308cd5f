"""What is no object is said so, and what is followed closely gives way to others each so many steps."""

from collections.abc import Callable, Generator
from typing import Any

import pytest

from gomodel.errors import InvalidBody
from gomodel.selector.json_object import nested_end, opened, string, to_member
from gomodel.selector.json_patterns import Member
from gomodel.selector.turns import PAUSED, STEPS, Turn

Scan = Callable[[bytes, Turn], Generator[int, int | None, Any]]
MEMBER = Member("m")


def to_m(body: bytes, turn: Turn) -> Generator[int, int | None, int]:
    return to_member(body, turn, 1, MEMBER, after_value=False)


def nested(body: bytes, turn: Turn) -> Generator[int, int | None, int]:
    return nested_end(body, turn, 1)


def text(body: bytes, turn: Turn) -> Generator[int, int | None, tuple[int, int]]:
    return string(body, turn, 1)


def run(scan: Scan, body: bytes) -> tuple[int, Any]:
    """How often it gave way over a body that is all there, and what it found."""
    turn = Turn()
    turn.end, turn.steps = len(body), STEPS
    going, pauses = scan(body, turn), 0
    while True:
        try:
            assert next(going) == PAUSED
        except StopIteration as end:
            return pauses, end.value
        pauses += 1
        turn.steps = STEPS


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[1]", "The body must be a JSON object."),
        (b' "x"', "The body must be a JSON object."),
        (b"7 ", "The body must be a JSON object."),
        (b"null ", "The body must be a JSON object."),
        (b"\xef\xbb\xbf-1 ", "The body must be a JSON object."),
        (b"}", "The body is not valid JSON: unexpected byte at offset 0."),
        (b" <html>", "The body is not valid JSON: unexpected byte at offset 1."),
        (b"\x00{", "The body has a NUL byte at offset 0: send UTF-8, not UTF-16 or UTF-32."),
        (b"\xff\xfe{", "The body is not UTF-8: send UTF-8."),
    ],
)
def test_what_is_no_object_is_refused_for_what_it_is(body: bytes, said: str) -> None:
    with pytest.raises(InvalidBody) as caught:
        run(opened, body)
    assert caught.value.message == said


@pytest.mark.parametrize(
    ("body", "at"), [(b'{"a":1;"m":2}', 6), (b'{"a":[] "m":2}', 8), (b'{"\\u006e":"x":"m":2}', 13), (b"{,}", 1)]
)
def test_members_have_commas_between_them(body: bytes, at: int) -> None:
    with pytest.raises(InvalidBody, match=rf"unexpected byte at offset {at}\.$"):
        run(to_m, body)


DEEP = rb'["\\",' * 2000


@pytest.mark.parametrize(
    ("scan", "body", "pauses", "found"),
    [
        (to_m, b"{" + rb'"\\":1,' * 4000 + b'"m":1}', 9, 28_005),  # a step each
        (nested, DEEP + b"]" * 2000, 4, 14_000),
        (text, b'"' + (rb"\"" * 2048 + rb"a\"") * 300 + b'"', 8, (1, 1_229_701)),  # twelve steps for each 4096 bytes
    ],
    ids=["members", "lists ever deeper", "a text"],
)
def test_it_gives_way_each_so_many_steps(scan: Scan, body: bytes, pauses: int, found: Any) -> None:
    assert run(scan, body) == (pauses, found)


@pytest.mark.parametrize(
    ("scan", "body", "found"),
    [
        (to_m, b'{"a":"x","b":[["y"],{"m":1}],"c":12 , "d":null,"m":2}', 51),
        (to_m, rb'{"\"a":"x","\u006d":2}', 20),
        (nested, rb'["a","b\"c",[1,{"d":"]"}],[[]],2] ', 33),
        (text, rb'"\"" ', (1, 3)),
        (text, rb'"X\"a" ', (1, 5)),
        (text, rb'"a\\\"b\\" ', (1, 9)),
    ],
)
def test_it_is_the_same_wherever_a_piece_ends(scan: Scan, body: bytes, found: Any) -> None:
    for cut in range(1, len(body)):
        assert (cut, in_two(scan, body, cut)) == (cut, found)


def in_two(scan: Scan, body: bytes, cut: int) -> Any:
    """What it finds once the rest has come."""
    turn, buffer = Turn(), bytearray(body[:cut])
    turn.end, turn.steps = cut, STEPS
    going = scan(buffer, turn)
    try:
        next(going)
        buffer += body[cut:]
        turn.end = len(buffer)
        return f"asks for more: {going.send(0)}"
    except StopIteration as end:
        return end.value
