"""In what servers differ by what they say, and which of them is the odd one."""

import pytest

from gomodel.balancing.equivalence import differences

CASES = {
    "nothing known": ({"a": {}, "b": {}}, []),
    "the same": ({"a": {"version": "1"}, "b": {"version": "1"}}, []),
    "one that does not say": ({"a": {"version": "1"}, "b": {}}, []),
    "two": ({"a": {"version": "1"}, "b": {"version": "2"}}, [("version", None, {"a": "1", "b": "2"})]),
    "one of three": (
        {"a": {"version": "1"}, "b": {"version": "2"}, "c": {"version": "1"}},
        [("version", "1", {"b": "2"})],
    ),
    "half of four": (
        {name: {"greedy": value} for name, value in zip("abcd", "xyxy", strict=True)},
        [("greedy", None, {"a": "x", "b": "y", "c": "x", "d": "y"})],
    ),
    "two of four, who are no majority": (
        {name: {"greedy": value} for name, value in zip("abcd", "xxyz", strict=True)},
        [("greedy", None, {"a": "x", "b": "x", "c": "y", "d": "z"})],
    ),
    "most of those that say it": (
        {"a": {"greedy": "x"}, "b": {"greedy": "x"}, "c": {"greedy": "y"}, "d": {}},
        [("greedy", "x", {"c": "y"})],
    ),
    "several things": (
        {"a": {"version": "1", "max_model_len": "8"}, "b": {"version": "2", "max_model_len": "9"}},
        [("version", None, {"a": "1", "b": "2"}), ("max_model_len", None, {"a": "8", "b": "9"})],
    ),
    "nobody": ({}, []),
}


@pytest.mark.parametrize("case", CASES)
def test_whoever_says_other_than_the_majority_is_odd_and_all_are_where_there_is_none(case):
    said, expected = CASES[case]
    assert [tuple(each) for each in differences(said)] == expected
