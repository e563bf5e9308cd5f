"""Which signals to stop are a second one, and which are the first one delivered twice."""

import signal

import pytest

from gomodel.host import signals
from gomodel.host.signals import StopSignals

TERM, INT = signal.SIGTERM, signal.SIGINT


@pytest.mark.parametrize(
    "arrivals",
    [
        [(TERM, 0.0, True)],
        [(TERM, 0.0, True), (TERM, 0.0, False), (TERM, 0.199, False)],
        [(INT, 5.0, True), (INT, 5.1, False), (INT, 5.2, True)],
        [(TERM, 0.0, True), (TERM, 0.3, True), (TERM, 0.31, True)],
        [(TERM, 0.0, True), (TERM, 0.1, False), (TERM, 0.25, True)],
        [(INT, 0.0, True), (TERM, 0.0, True), (TERM, 0.1, True), (INT, 0.1, False)],
    ],
)
def test_the_first_signal_again_within_200_ms_is_the_same_one(
    monkeypatch: pytest.MonkeyPatch, arrivals: list[tuple[int, float, bool]]
) -> None:
    now = 0.0
    monkeypatch.setattr(signals, "monotonic", lambda: 1000.0 + now)
    stops = StopSignals()
    for number, arrived_at, counts in arrivals:
        now = arrived_at
        assert stops.counts(number) is counts
