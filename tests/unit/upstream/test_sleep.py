"""What a vLLM's metrics say of its sleep."""

import pytest

from gomodel.upstream.sleep import says_so

AWAKE = 'vllm:engine_sleep_state{engine="%d",model_name="m",sleep_state="awake"} %s\n'
OFFLOADED = 'vllm:engine_sleep_state{engine="0",model_name="m",sleep_state="weights_offloaded"} 1.0\n'


@pytest.mark.parametrize(
    ("metrics", "asleep"),
    [
        ("", False),
        ("vllm:num_requests_running 0.0\n", False),
        (AWAKE % (0, "1.0"), False),
        (AWAKE % (0, "0.0"), True),
        (AWAKE % (0, "0"), True),
        (AWAKE % (0, "0.0") + OFFLOADED, True),
        (OFFLOADED + AWAKE % (0, "0.0"), True),
        ("# HELP vllm:engine_sleep_state x\n# TYPE vllm:engine_sleep_state gauge\n" + AWAKE % (0, "0.0"), True),
        (AWAKE % (0, "0.0") + AWAKE % (1, "0.0"), True),
        (AWAKE % (0, "0.0") + AWAKE % (1, "1.0"), False),
        ('vllm:engine_sleep_state{sleep_state="awake",engine="0"} 0.0\n', True),
        ('vllm:engine_sleep_state{sleep_state="awake"} 0\n', True),
        ('vllm:engine_sleep_state{not_sleep_state="awake"} 0\n', False),
        ('other:engine_sleep_state{sleep_state="awake"} 0\n', False),
        (AWAKE % (0, "NaN"), False),
    ],
)
def test_it_sleeps_where_all_engines_there_are_say_so(metrics: str, asleep: bool) -> None:
    assert says_so(metrics.encode()) is asleep
