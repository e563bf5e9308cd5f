"""What of the counters the charts get, and what a query of them means."""

import asyncio

import pytest

from gomodel.config.load import from_environ
from gomodel.errors import InvalidValue
from gomodel.operations.history import Now, Sampling, Window, gauges, totals
from gomodel.telemetry.counters import Telemetry
from gomodel.telemetry.history import ALL
from gomodel.telemetry.spending import Spending
from gomodel.telemetry.usage import Usage

from ..telemetry.records import ended


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry(from_environ({}))


def test_requests_are_counted_for_all_their_instance_and_their_model(telemetry):
    record = ended(first_byte=100.004, status=200)
    record.streamed = True
    record.usage = Usage(prompt=10, completion=5, cached=4)
    telemetry.finish(record, "m", 102.0, metered=True)
    telemetry.finish(ended(status=503), "m", 102.0)
    telemetry.finish(ended(status=404), "m", 102.0)
    found = totals(Now(telemetry))
    assert set(found) == {ALL, ("instance", "vllm"), ("model", "vllm/m")}
    for name in found:
        counts = {
            what: found[name][what] for what in ("requests", "failed", "refused", "prompt_tokens", "cached_tokens")
        }
        assert counts == {"requests": 3, "failed": 1, "refused": 1, "prompt_tokens": 10, "cached_tokens": 4}
    assert found[ALL]["stream_first_byte", 2] == 1


def test_what_the_gateway_answers_itself_counts_only_where_it_refuses(telemetry):
    for status in (200, 401, 503):
        record = ended(status=status)
        record.instance = ""
        telemetry.finish(record, "", 102.0)
    assert totals(Now(telemetry))[ALL] == {"requests": 2, "failed": 1, "refused": 1}


def test_early_ends_are_counted_by_who_ended_them(telemetry):
    for who in ("client", "client", "upstream", "gomodel"):
        telemetry.finish(ended(ended_by=who), "m", 102.0)
    found = totals(Now(telemetry))[ALL]
    assert (found["client_left"], found["upstream_broke"], found["gateway_ended"]) == (2, 1, 1)


def test_what_runs_is_counted_by_instance(telemetry):
    for instance in ("vllm", "vllm", ""):
        record = ended()
        record.instance = instance
        telemetry.running.records.add(record)
    assert gauges(telemetry) == {ALL: {"running": 2}, ("instance", "vllm"): {"running": 2}}


@pytest.mark.parametrize(
    ("given", "step_s", "steps", "first"),
    [
        ({}, 60, 60, 1000 - 360),
        ({"window": "1h"}, 60, 60, 1000 - 360),
        ({"window": "10m"}, 10, 60, 1000 - 60),
        ({"window": "15m"}, 20, 45, 1000 - 90),
        ({"window": "10s"}, 10, 1, 999),
        ({"window": "11m"}, 20, 33, 1000 - 66),
    ],
)
def test_a_window_ends_with_the_last_slot_that_is_over(given: dict[str, str], step_s: int, steps: int, first: int):
    window = Window(given, 10_009.9)
    assert (window.step_s, window.steps, window.first, window.until) == (step_s, steps, first, 10_000)
    assert window.asked == (first, step_s // 10)


@pytest.mark.parametrize("text", ["2h", "9s", "x", "", "1h,1h"])
def test_a_window_that_is_not_understood_is_refused(text: str):
    with pytest.raises(InvalidValue, match="10s to 1h") as raised:
        Window({"window": text}, 0.0)
    assert (raised.value.code, raised.value.param) == ("invalid_parameter", "window")


async def test_a_look_at_thousands_of_keys_leaves_the_loop_turning(telemetry):
    for number in range(20_000):
        telemetry.spending["vllm", "m", str(number)] = spent = Spending()
        spent.prompt = spent.known = 1
    looking = asyncio.create_task(Sampling(telemetry).look())
    turns = 0
    while not looking.done():
        turns += 1
        await asyncio.sleep(0)
    await looking
    assert turns > 5
    ((_, rows),) = telemetry.history._slots
    assert rows[ALL]["prompt_tokens"] == 20_000
