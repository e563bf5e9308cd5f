"""The tokens of a batch are the sums of what its answers say, whichever API said it."""

from typing import Any

import pytest

from gomodel.batches.usage import add


def sums(given: int, made: int, total: int, cached: int = 0, reasoning: int = 0) -> dict[str, Any]:
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": cached},
        "output_tokens": made,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": total,
    }


@pytest.mark.parametrize(
    ("said", "found"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}, sums(3, 4, 7)),
        ({"prompt_tokens": 3, "total_tokens": 3}, sums(3, 0, 3)),
        ({"input_tokens": 3, "output_tokens": 4}, sums(3, 4, 7)),
        ({"prompt_tokens": 9, "prompt_tokens_details": {"cached_tokens": 8}}, sums(9, 0, 9, cached=8)),
        (
            {"input_tokens": 1, "output_tokens": 5, "output_tokens_details": {"reasoning_tokens": 2}},
            sums(1, 5, 6, reasoning=2),
        ),
        ({"prompt_tokens": "3", "completion_tokens": -1, "total_tokens": None}, sums(0, 0, 0)),
        ({"prompt_tokens": True, "prompt_tokens_details": None}, sums(0, 0, 0)),
    ],
)
def test_an_answer_says_what_it_took(said: dict[str, Any], found: dict[str, Any]) -> None:
    assert add(None, {"usage": said}) == found


def test_answers_add_up() -> None:
    one = add(None, {"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}})
    assert add(one, {"usage": {"input_tokens": 1, "output_tokens": 1}}) == sums(4, 5, 9)


@pytest.mark.parametrize("answer", [None, [], "text", {}, {"usage": None}, {"usage": 5}])
def test_an_answer_that_says_nothing_changes_nothing(answer: Any) -> None:
    assert add(None, answer) is None
    assert add(sums(1, 2, 3), answer) == sums(1, 2, 3)
