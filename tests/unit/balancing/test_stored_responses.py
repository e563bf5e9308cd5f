"""How many responses are remembered, which are forgotten first, and that a reload forgets none."""

from types import SimpleNamespace
from typing import Any

import pytest

from gomodel.balancing import stored_responses as module
from gomodel.balancing.stored_responses import StoredResponses

NO_PROVIDERS: Any = SimpleNamespace(instances={}, replicas=[])


def replica(name: str) -> Any:
    return SimpleNamespace(name=name)


def test_of_too_many_the_one_that_was_learnt_longest_ago_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 3)
    stored, (a, b) = StoredResponses(NO_PROVIDERS), map(replica, "ab")
    for response_id in ("r1", "r2", "r3", "r1"):
        stored.learn(response_id, a)
    assert list(stored._homes) == ["r2", "r3", "r1"]
    stored.learn("r4", b)
    stored.learn("r3", b)
    assert stored._homes == {"r1": a, "r4": b, "r3": b}


def test_before_and_after_a_reload_one_learns_for_the_other() -> None:
    before = StoredResponses(NO_PROVIDERS)
    after = StoredResponses(NO_PROVIDERS, before)
    before.learn("r1", replica("a"))
    after.learn("r2", replica("b"))
    assert before._homes.keys() == after._homes.keys() == {"r1", "r2"}
