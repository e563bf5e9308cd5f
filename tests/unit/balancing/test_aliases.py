"""What an alias stands for: itself written out, or the first pattern that matches."""

import pytest

from gomodel.balancing.aliases import Aliases

ALIASES = Aliases(
    [("gpt-4o", "vllm/a"), ("claude-*-4", "vllm/b"), ("claude-*", "vllm/c"), ("*-mini", "vllm/d"), ("ab*ba", "vllm/e")]
)


def test_names_are_those_without_a_star():
    assert ALIASES.names == {"gpt-4o": "vllm/a"}


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("claude-sonnet-4", "vllm/b"),
        ("claude-sonnet-4-5", "vllm/c"),
        ("claude-", "vllm/c"),
        ("o4-mini", "vllm/d"),
        ("claude-mini", "vllm/c"),
        ("abba", "vllm/e"),
        ("aba", None),
        ("Claude-3", None),
        ("gpt-4o", None),
        ("my-claude-3", None),
        ("", None),
    ],
)
def test_a_star_stands_for_anything(name, target):
    assert ALIASES.matching(name) == target


def test_a_star_alone_is_everything():
    assert Aliases([("*", "vllm/a")]).matching("what/ever") == "vllm/a"
