"""What is read of vLLM's /metrics."""

import pytest

from gomodel.doctor.counters import running

TEXT = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 1.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 9.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1.5e+03
vllm:generation_tokens_created{engine="0",model_name="m"} 1.79e+09
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TEXT, 3.0),
        ("vllm:num_requests_running 0\n", 0.0),
        ("gomodel_requests_total 3\n", None),
        ("", None),
        ("<html>", None),
    ],
)
def test_counters(text: str, expected: float | None) -> None:
    assert running(text) == expected
