"""Under which ids models are told, to whom, and what is said of one by its id or by an alias."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gomodel.balancing.merged_models import MergedModels
from gomodel.balancing.model_entries import Entry, ModelList


def listing(instance: str, *models: str, owner: str = "vllm") -> ModelList:
    told: Any = SimpleNamespace(name=instance, config=SimpleNamespace(models=()), lists=lambda ids: None)
    made = ModelList(told, allowlist=False)
    entries = []
    for model in models:
        said = {"id": model, "owned_by": owner}
        encoded = json.dumps({**said, "id": f"{instance}/{model}"}).encode()
        entries.append(Entry(model, encoded, json.dumps(said).encode()))
    made.learn(entries)
    return made


# `b/x` is a model of the first whose name begins like the second instance.
LISTS = [listing("a", "m", "b/x"), listing("a", "m", "b/x"), listing("a", "n"), listing("b", "m", "x", owner="b")]


def only(*allowed: str) -> Callable[[str, str], bool]:
    return lambda instance, model: f"{instance}/{model}" in allowed


@pytest.mark.parametrize(
    ("ids", "allows", "told"),
    [
        ("prefixed", None, ["a/m", "a/b/x", "a/n", "b/m", "b/x"]),
        ("prefixed", only("a/n", "b/m"), ["a/n", "b/m"]),
        ("bare", None, ["a/b/x", "m", "n", "x"]),
        ("bare", only("b/m", "a/b/x"), ["a/b/x", "m"]),
        ("both", None, ["a/m", "a/b/x", "a/n", "b/m", "b/x", "m", "n", "x"]),
        ("both", only(), []),
    ],
)
async def test_models_are_told_by_the_ids_that_are_asked_for_and_only_whom_they_are_for(
    ids: str, allows: Callable[[str, str], bool] | None, told: list[str]
) -> None:
    data = json.loads(b"[%b]" % await MergedModels(ids, {"a", "b"}).data(LISTS, allows))
    assert [each["id"] for each in data] == told


@pytest.mark.parametrize(
    ("ids", "asked", "allows", "said"),
    [
        ("prefixed", "a/m", None, ("a/m", "vllm")),
        ("prefixed", "b/m", None, ("b/m", "b")),
        ("prefixed", "m", None, ("a/m", "vllm")),
        ("prefixed", "x", None, ("b/x", "b")),
        ("prefixed", "a/b/x", None, ("a/b/x", "vllm")),
        ("prefixed", "b/x", None, ("b/x", "b")),  # the instance's own before a model of that name
        ("prefixed", "b/x", only("a/b/x"), ("a/b/x", "vllm")),
        ("prefixed", "m", only("b/m"), ("b/m", "b")),
        ("prefixed", "a/m", only("b/m"), None),
        ("prefixed", "c/m", None, None),
        ("bare", "m", None, ("m", "vllm")),
        ("both", "m", only("b/m"), ("m", "b")),
        ("bare", "a/m", None, ("a/m", "vllm")),
        ("bare", "", None, None),
    ],
)
def test_what_is_said_of_one_model(
    ids: str, asked: str, allows: Callable[[str, str], bool] | None, said: tuple[str, str] | None
) -> None:
    found = MergedModels(ids, {"a", "b"}).find(LISTS, asked, allows)
    assert (None if found is None else tuple(json.loads(found).values())) == said


def test_an_alias_has_what_is_said_of_its_model_and_is_one_of_nothing_known_for_whoever_may_ask_for_all() -> None:
    merged = MergedModels("prefixed", {"a", "b"})

    def said(target: str, allows: Callable[[str, str], bool] | None = None) -> object:
        found = merged.alias(LISTS, "gpt", target, allows)
        return None if found is None else json.loads(found)

    assert said("b/m") == {"id": "gpt", "owned_by": "b"}
    assert said("b/m", only("b/m")) == {"id": "gpt", "owned_by": "b"}
    assert said("b/m", only("a/m")) is None
    assert said("b/new") == {"id": "gpt", "object": "model", "created": 0, "owned_by": "vllm"}
    assert said("b/new", only("b/new")) is None
