"""What Retry-After says of the line: the pace of the last turns, for as many as wait, and no more than is known."""

import pytest

from gomodel.access.slots import Slots
from gomodel.config.load import from_environ
from gomodel.relay import queueing as module
from gomodel.relay.queueing import Queueing
from gomodel.telemetry.counters import Telemetry


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Queueing:
    monkeypatch.setattr(module, "monotonic", lambda: 100.0)
    return Queueing(Slots(), Telemetry(from_environ({})), 60.0)


@pytest.mark.parametrize(
    ("turns", "waiting", "expected_s"),
    [
        ([], 5, 60.0),  # nobody knows: the longest that anybody waits
        ([99.0], 5, 60.0),
        ([90.0, 95.0], 0, 10.0),  # a turn in ten seconds, as the last one is five seconds ago
        ([90.0, 95.0, 100.0], 3, 20.0),
        ([99.0, 99.5, 100.0], 9, 5.0),
        ([0.0, 1.0], 99, 600.0),
    ],
)
def test_the_wait_is_told_by_the_pace_of_the_last_turns(
    line: Queueing, turns: list[float], waiting: int, expected_s: float
) -> None:
    line._turns.extend(turns)
    line._waiting = waiting
    assert line._expected_s() == expected_s
