"""What the ledger of waste counts, and under whose name."""

from types import SimpleNamespace

import pytest

from gomodel.telemetry.record import Phase
from gomodel.telemetry.waste import Waste

from .records import ended

LEFT = {"ended_by": "client", "reason": "disconnected", "status": 200, "phase": Phase.DATA, "events": 4}
COUNTED = [
    ("in the middle of a stream", {}, True, [("vllm", "", 5.0, 4)]),
    ("by its key's name", {"caller": SimpleNamespace(name="alice")}, True, [("vllm", "alice", 5.0, 4)]),
    ("before an answer", {"status": 499, "phase": Phase.HEAD, "events": 0}, True, [("vllm", "", 5.0, 0)]),
    ("without its wait in line", {"queued_s": 2.0}, True, [("vllm", "", 3.0, 4)]),
    ("in the line", {"status": 499, "phase": Phase.QUEUE}, True, []),
    ("what generates nothing", {}, False, []),
]


@pytest.mark.parametrize(
    ("known", "metered", "expected"), [each[1:] for each in COUNTED], ids=[each[0] for each in COUNTED]
)
def test_the_work_for_a_client_who_left_counts(known, metered, expected):
    waste = Waste()
    waste.add(ended(**{**LEFT, **known}), 5.0, metered=metered)
    assert [(*key, each.seconds, each.events) for key, each in waste.by_key.items()] == expected


def test_the_time_to_the_close_counts_where_a_connection_was_closed():
    waste = Waste()
    for cancel_s in (None, 0.004):
        waste.add(ended(**LEFT, cancel_s=cancel_s), 5.0, metered=True)
    assert {name: (sum(each.counts), each.sum) for name, each in waste.cancels.items()} == {"vllm": (1, 0.004)}
