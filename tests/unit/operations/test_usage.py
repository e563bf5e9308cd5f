"""What was used since the start, out of the metrics of all workers."""

from typing import Any

from gomodel.operations.usage import since, used
from gomodel.telemetry.usage_table import DIMENSIONS, NUMBERS, summed

PLACE = ("vllm", "m", "a")
SNAPSHOT: dict[str, Any] = {
    "gomodel_tokens_total": [((*PLACE, "prompt"), 10), ((*PLACE, "cached"), 4), ((*PLACE, "completion"), 3)],
    "gomodel_usage_requests_total": [((*PLACE, "known"), 5), ((*PLACE, "unknown"), 2)],
    "gomodel_generation_seconds_total": [(PLACE, 1.25)],
    "gomodel_audio_seconds_total": [(PLACE, 2.0)],
    "process_start_time_seconds": [((), 50.0)],
}


def test_each_metric_is_a_number_of_its_place() -> None:
    (row,) = summed(used([SNAPSHOT]), DIMENSIONS)
    assert (row["key"], row["model"], row["instance"]) == ("a", "m", "vllm")
    assert [row[name] for name in NUMBERS] == [7, 2, 10, 4, 3, 2.0, 1.25]


def test_workers_add_up() -> None:
    (row,) = summed(used([SNAPSHOT, SNAPSHOT, {}]), ())
    assert [row[name] for name in NUMBERS] == [14, 4, 20, 8, 6, 4.0, 2.5]
    assert since([SNAPSHOT, SNAPSHOT | {"process_start_time_seconds": [((), 40.0)]}, {}]) == 40.0
