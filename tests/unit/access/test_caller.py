"""Which models a key is good for, and what is counted of its requests."""

from time import monotonic

import pytest

from gomodel.access.caller import Caller
from gomodel.access.host_usage import HostUsage
from gomodel.access.leases import Leases
from gomodel.config.settings import Key, Secret
from gomodel.telemetry.record import Record
from gomodel.telemetry.usage import Usage

USAGE = HostUsage()


@pytest.mark.parametrize(
    ("patterns", "instance", "model", "expected"),
    [
        ([], "vllm", "any/model", True),
        ([], "vllm", "", True),
        (["*"], "vllm", "any/model", True),
        (["*"], "vllm", "", True),
        (["vllm/*"], "vllm", "Qwen/Qwen3", True),
        (["vllm/*"], "vllm", "", True),
        (["vllm/*"], "vllm-b", "Qwen/Qwen3", False),
        (["vllm/*"], "vllm-b", "vllm/x", True),  # a model of that name
        (["Qwen/*"], "vllm", "Qwen/Qwen3", True),
        (["Qwen/*"], "vllm", "qwen/Qwen3", False),
        (["Qwen/*"], "vllm", "", False),
        (["vllm/Qwen/*"], "vllm", "", False),
        (["vllm/Qwen/*"], "vllm", "Qwen/x", True),
        (["vllm/Qwen/*"], "vllm-b", "Qwen/x", False),
        (["Qwen/Qwen3"], "vllm", "Qwen/Qwen3-8B", False),
        (["Qwen/Qwen3-?B"], "vllm", "Qwen/Qwen3-8B", True),
        (["Qwen/Qwen3-?B"], "vllm", "Qwen/Qwen3-32B", False),
        (["a", "b[12]"], "vllm", "b2", True),
        (["a", "b[12]"], "vllm", "b3", False),
        (["a.c"], "vllm", "abc", False),
        (["a\n*"], "vllm", "a", False),
        (["a"], "vllm", "a\n", False),
        (["a*"], "vllm", "a\nb", True),
    ],
)
def test_a_pattern_means_the_model_or_the_model_of_an_instance(
    patterns: list[str], instance: str, model: str, expected: bool
) -> None:
    caller = Caller(Key("k", (), models=tuple(patterns)), USAGE)
    assert caller.allows(instance, model) is expected
    assert caller.allows(instance, model) is expected


def test_any_number_of_names_may_be_asked_for() -> None:
    caller = Caller(Key("k", (), models=("m1*",)), USAGE)
    assert [caller.allows("vllm", f"m{at}") for at in range(2000)] == [str(at)[0] == "1" for at in range(2000)]
    assert len(caller._allowed) <= 256


def test_another_entry_is_gone_by_at_once() -> None:
    caller = Caller(Key("k", (), models=("a",), priority=3), USAGE)
    assert (caller.allows("vllm", "b"), caller.added_fields) == (False, b"X-Vllm-Priority: 3\r\n")
    caller.configure(Key("k", (), models=("b",)))
    assert (caller.allows("vllm", "b"), caller.allows("vllm", "a"), caller.added_fields) == (True, False, b"")


def test_what_runs_and_what_ended_is_counted() -> None:
    caller = Caller(Key("k", ()), USAGE)
    caller.running += 2
    record = Record("POST", "c", 0.0)
    record.status = 200
    caller.leave(record, monotonic())
    assert (caller.running, dict(caller.ended)) == (1, {200: 1})


def limits_of(caller: Caller) -> tuple[int | None, ...] | None:
    return caller.limits.whole if caller.limits is not None else None


@pytest.mark.parametrize(
    ("entry", "limited", "limits"),
    [
        (Key("k", ()), False, None),
        (Key("k", (), in_flight=2, when_full="wait"), False, (2, None, None)),
        (Key("k", (), in_flight=2), True, (2, None, None)),
        (Key("k", (), requests_per_minute=3), True, (None, 3, None)),
        (Key("k", (), tokens_per_minute=4), True, (None, None, 4)),
    ],
)
def test_limits_are_held_for_an_entry_that_has_one(
    entry: Key, limited: bool, limits: tuple[int | None, ...] | None
) -> None:
    caller = Caller(entry, USAGE)
    assert (caller.limited, limits_of(caller)) == (limited, limits)
    caller = Caller(Key("k", ()), USAGE)
    caller.configure(entry)
    assert (caller.limited, limits_of(caller)) == (limited, limits)


def test_who_loses_every_limit_goes_on_being_counted() -> None:
    caller = Caller(Key("k", (), in_flight=1), USAGE)
    limits = caller.limits
    caller.configure(Key("k", ()))
    assert (caller.limited, limits_of(caller)) == (False, (None, None, None))
    assert caller.limits is limits


def test_what_an_answer_took_counts_and_a_place_is_free_when_it_ends() -> None:
    caller = Caller(Key("k", (), in_flight=1, tokens_per_minute=9), HostUsage())
    assert caller.limits is not None
    for usage, used in ((Usage(3, 4), (0, 1, 7)), (None, (0, 2, 7))):
        record = Record("POST", "c", monotonic())
        record.tried, record.usage = True, usage
        caller.limits.admit(record, monotonic())
        caller.running += 1
        assert caller.limits.used()[0] == 1
        caller.leave(record, monotonic())
        assert caller.limits.used() == used
    unlimited = Caller(Key("k", ()), USAGE)
    record.usage = Usage(3, 4)
    unlimited.leave(record, monotonic())
    assert unlimited.limits is None


def test_limits_are_divided_where_it_is_said_whenever_they_are_made() -> None:
    first, second = (Leases(Secret("redis://redis"), "share") for _ in "ab")
    caller = Caller(Key("k", ()), USAGE, first)
    caller.configure(Key("k", (), in_flight=1))
    assert caller.limits is not None
    assert caller.limits.leases is first
    caller.borrow(second)
    assert (caller.leases, caller.limits.leases) == (second, second)
    unlimited = Caller(Key("k", ()), USAGE, first)
    unlimited.borrow(second)
    assert (unlimited.leases, unlimited.limits) == (second, None)
