"""From one member or element to the next: where it goes on, what it refuses, and what a step costs its turn."""

from collections.abc import Callable, Generator
from typing import Any

import pytest

from gomodel.errors import InvalidBody
from gomodel.selector.json_walk import next_element, next_name
from gomodel.selector.turns import PAUSED, Turn

Walk = Callable[[bytes, Turn, int], Generator[int, int | None, Any]]


def walked(walk: Walk, body: bytes, steps: int = 9) -> tuple[list[int], Any, int]:
    """What is yielded and returned from behind the first byte on, and the steps that are left."""
    turn = Turn()
    turn.begin(len(body))
    turn.steps = steps
    scan, yielded = walk(body, turn, 1), []
    while True:
        try:
            yielded.append(next(scan))
        except StopIteration as end:
            return yielded, end.value, turn.steps


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"a":1', (b"a", 5)),
        (b'{ \n"a"\t: 1', (b"a", 8)),
        (b'},"b":1', (b"b", 6)),
        (b'} , "":1', (b"", 7)),
        (b"{} ", (None, 2)),
        (b"} ] ", (None, 3)),
        (b"},} ", (None, 3)),
    ],
)
def test_the_next_name_is_behind_a_brace_or_a_comma(body: bytes, found: tuple[bytes | None, int]) -> None:
    assert walked(next_name, body) == ([], found, 8)


@pytest.mark.parametrize(
    ("body", "at"),
    [(b'{1:"b":', 1), (b'{x"a":1', 1), (b'},,"a":1', 2), (b'{"a";1', 4), (b'{"a" "b":1', 5), (b'{"a"}', 4)],
)
def test_what_is_no_name_with_its_colon_is_refused_where_it_stands(body: bytes, at: int) -> None:
    with pytest.raises(InvalidBody, match=rf"unexpected byte at offset {at}\.$"):
        walked(next_name, body)


@pytest.mark.parametrize(("body", "at"), [(b"},1", 2), (b"} \n , 1", 5), (b"}]", 1), (b"} ] ", 2), (b"}} ", 1)])
def test_the_next_element_is_behind_a_comma_and_the_end_stays_where_it_is(body: bytes, at: int) -> None:
    assert walked(next_element, body) == ([], at, 8)


@pytest.mark.parametrize(("steps", "yielded"), [(2, []), (1, []), (0, [PAUSED])])
@pytest.mark.parametrize(("walk", "body"), [(next_name, b'{"a":1'), (next_element, b"},1")], ids=["name", "element"])
def test_each_costs_its_turn_a_step_and_waits_for_the_next_turn_without_one(
    walk: Walk, body: bytes, steps: int, yielded: list[int]
) -> None:
    assert walked(walk, body, steps)[::2] == (yielded, steps - 1)
