"""What is kept of a replica's list at a reload, how old it is, and which of two entries with one id counts."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from gomodel.balancing.model_entries import Entry, ModelList


def made(*configured: str, allowlist: bool = False, bare: bool = False) -> ModelList:
    told: Any = SimpleNamespace(name="vllm", config=SimpleNamespace(models=configured), lists=lambda ids: None)
    return ModelList(told, allowlist=allowlist, bare=bare)


def entry(model: str, *, bare: bool = False, **more: object) -> Entry:
    said = {"id": model, **more}
    encoded = json.dumps({**said, "id": f"vllm/{model}"}).encode()
    return Entry(model, encoded, json.dumps(said).encode() if bare else b"")


def test_of_two_entries_with_one_id_the_first_counts() -> None:
    models = made()
    models.learn([entry("a", n=1), entry("b"), entry("a", n=2)])
    assert models.entries == {"a": entry("a", n=1), "b": entry("b")}
    assert json.loads(b"[%b]" % models.encoded) == [{"id": "vllm/a", "n": 1}, {"id": "vllm/b"}]


def test_a_list_goes_on_after_a_reload_as_it_was() -> None:
    old, new = made(), made("configured")
    old.learn([entry("a", n=1)])
    old.fetched_at, old.full, old.missed_at, old.since, old.failing = 10.0, True, 20.0, 5.0, True
    new.go_on(old)
    assert (new.entries, new.encoded, new.fetched_at, new.full) == (old.entries, old.encoded, 10.0, True)
    assert (new.missed_at, new.since, new.failing) == (20.0, 5.0, True)


def test_one_that_was_never_read_leaves_what_is_configured_and_says_since_when_it_is_missing() -> None:
    old, new = made("before"), made("configured")
    old.missed_at, old.since, old.failing = 20.0, 5.0, True
    new.go_on(old)
    assert (list(new.entries), new.fetched_at, new.full) == (["configured"], None, False)
    assert (new.missed_at, new.since, new.failing) == (20.0, 5.0, True)


@pytest.mark.parametrize(("was", "is_now"), [(True, False), (False, True), (True, True)])
def test_a_list_that_an_operator_gives_has_nothing_of_one_that_was_read(was: bool, is_now: bool) -> None:
    old, new = made("old", allowlist=was), made("new", allowlist=is_now)
    since = new.since
    old.fetched_at, old.since = 10.0, 5.0
    new.go_on(old)
    assert (list(new.entries), new.fetched_at, new.since) == (["new"], None, since)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("now", [True, False])
def test_entries_say_vllms_own_id_as_well_from_a_reload_on_that_asks_for_it(before: bool, now: bool) -> None:
    old, new = made(bare=before), made(bare=now)
    old.learn([entry("org/a", bare=before, n=1)])
    old.fetched_at = 10.0
    new.go_on(old)
    assert new.entries["org/a"].encoded == entry("org/a", n=1).encoded
    if now:
        assert json.loads(new.entries["org/a"].bare) == {"id": "org/a", "n": 1}
    else:
        assert new.entries == old.entries


def test_a_list_is_as_old_as_its_reading_or_as_the_wait_for_it() -> None:
    models = made()
    models.since = 5.0
    assert models.age_s(12.0) == 7.0
    models.fetched_at = 10.0
    assert models.age_s(12.0) == 2.0
    assert made("m", allowlist=True).age_s(12.0) is None
    assert made(allowlist=True).age_s(1e9) is not None, "an empty allowlist is none"
