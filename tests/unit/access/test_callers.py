"""Whom a key belongs to, and until when that holds."""

import asyncio
from hashlib import sha256
from time import time

import pytest

from gomodel.access import callers as module
from gomodel.access.callers import Callers
from gomodel.config.settings import Key, Keys, Secret


def key(name: str, *texts: str, **fields: object) -> Key:
    return Key(name, tuple(sha256(text.encode()).digest() for text in texts), **fields)  # type: ignore[arg-type]


def keys(*entries: Key) -> Keys:
    return Keys("keys.toml", entries)


def found(callers: Callers, *presented: bytes) -> str | None:
    caller = callers.find(presented)
    return None if caller is None else caller.name


def test_each_key_of_an_entry_and_each_master_key_is_its_holders() -> None:
    callers = Callers(keys(key("a", "1", "2"), key("b", "3")), [Secret("m"), Secret("n")])
    assert [found(callers, each) for each in (b"1", b"2", b"3", b"m", b"n")] == ["a", "a", "b", "master", "master"]
    assert [found(callers, each) for each in (b"", b"4", b"1 ", sha256(b"1").digest())] == [None] * 4
    assert found(callers) is None
    assert found(callers, b"x", b"3", b"1") == "b"


def test_the_master_key_has_every_right_and_no_limit() -> None:
    caller = Callers(keys(key("a", "1")), [Secret("m")]).find([b"m"])
    assert caller is not None
    entry = caller.entry
    assert (entry.admin, entry.metrics, entry.passthrough) == (True, True, True)
    assert (entry.in_flight, entry.requests_per_minute, entry.tokens_per_minute, entry.models) == (None, None, None, ())


def test_nobody_is_met_before_asking() -> None:
    callers = Callers(keys(*(key(f"k{at}", str(at)) for at in range(1000))), [])
    assert list(callers.met) == []
    assert found(callers, b"7") == "k7"
    assert [each.name for each in callers.met] == ["k7"]


def test_another_file_changes_the_verdict_and_keeps_what_was_counted() -> None:
    callers = Callers(keys(key("a", "1"), key("b", "2")), [])
    caller, verdict = callers.find([b"1"]), callers.verdict
    assert caller is not None
    caller.running += 1
    callers.take(keys(key("a", "9", priority=1)))
    assert callers.verdict is not verdict
    assert (found(callers, b"1"), found(callers, b"2")) == (None, None)
    assert callers.find([b"9"]) is caller
    assert (caller.running, caller.added_fields) == (1, b"X-Vllm-Priority: 1\r\n")


def test_a_reload_goes_on_with_the_same_callers() -> None:
    before = Callers(keys(key("a", "1")), [Secret("m")])
    caller = before.find([b"1"])
    before.broken = True
    after = Callers(keys(key("a", "1", priority=4)), [Secret("m2")], before)
    assert after.find([b"1"]) is caller
    assert (found(after, b"m"), found(after, b"m2"), after.broken) == (None, "master", True)
    assert after.verdict is not before.verdict


async def test_a_key_that_expires_is_nobodys_and_changes_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(module, "time", lambda: now[0])
    callers = Callers(keys(key("a", "1", expires_at=2000.0), key("b", "2", expires_at=3000.0), key("c", "3")), [])
    callers.start()
    try:
        for at, left in ((2000.0, [None, "b", "c"]), (3000.0, [None, None, "c"])):
            verdict = callers.verdict
            now[0] = at - 0.1
            callers._look()
            assert callers.verdict is verdict
            now[0] = at
            assert [found(callers, each) for each in (b"1", b"2", b"3")] == left
            callers._look()
            assert callers.verdict is not verdict
        assert callers._handle is None  # nothing expires any more
        callers.take(keys(key("a", "1", expires_at=4000.0)))
        assert callers._handle is not None
    finally:
        callers.stop()
    callers.take(keys(key("a", "1", expires_at=5000.0)))
    assert callers._handle is None


async def test_an_expiry_is_looked_for_soon_after_it_and_often_enough_for_a_clock_that_is_set() -> None:
    loop = asyncio.get_running_loop()
    for left_s, expected_s in ((0.5, 0.5), (1e6, module._LOOK_S), (-1.0, None)):
        began = loop.time() - 0.01
        callers = Callers(keys(key("a", "1", expires_at=time() + left_s)), [])
        callers.start()
        handle = callers._handle
        callers.stop()
        assert (handle is None) is (expected_s is None)
        if handle is not None and expected_s is not None:
            assert began <= handle.when() - expected_s <= loop.time() + 0.01  # two clocks
