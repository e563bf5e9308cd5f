"""Which models a key is good for."""

import pytest

from gomodel.access.caller import Caller
from gomodel.access.host_usage import HostUsage
from gomodel.config.settings import Key
from gomodel.telemetry.record import Record

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
    caller.enter()
    caller.enter()
    record = Record("POST", "c", 0.0)
    record.status = 200
    caller.leave(record)
    assert (caller.running, dict(caller.ended)) == (1, {200: 1})
