"""Which of vLLM's numbers are taken out of its metrics."""

import pytest

from gomodel.operations.engines import said

NOTHING = {"running": None, "waiting": None, "cache_usage": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", NOTHING),
        ("# HELP vllm:num_requests_running x\nother 5\n", NOTHING),
        ('vllm:num_requests_running{engine="0",model_name="m"} 3.0\n', {**NOTHING, "running": 3}),
        ("vllm:num_requests_waiting 2\n", {**NOTHING, "waiting": 2}),
        (
            'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_running{engine="1"} 4.0\n'
            'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:kv_cache_usage_perc{engine="1"} 0.5\n',
            {"running": 7, "waiting": None, "cache_usage": 0.5},
        ),
        ("vllm:gpu_cache_usage_perc 0.125\n", {**NOTHING, "cache_usage": 0.125}),
        ("vllm:num_requests_running NaN\nvllm:num_requests_waiting x\n", NOTHING),
        ("vllm:num_requests_running_by_reason 9\n", NOTHING),
    ],
)
def test_numbers_are_those_of_all_engines_together(text: str, expected: dict[str, float | None]) -> None:
    assert said(text.encode()) == expected
