"""The last failures, and no more of them than are kept."""

from collections import deque

import pytest

from gomodel.telemetry import failures


def test_the_last_are_kept_with_their_time_and_older_ones_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "_last", deque(maxlen=failures.KEPT))
    monkeypatch.setattr(failures, "time", lambda: 12.5)
    for number in range(failures.KEPT + 3):
        failures.note({"request_id": f"r-{number}", "status": 502})
    found = failures.last()
    assert found[0] == {"at": 12.5, "request_id": "r-3", "status": 502}
    assert [each["request_id"] for each in found] == [f"r-{number}" for number in range(3, failures.KEPT + 3)]
    found.clear()
    assert len(failures.last()) == failures.KEPT
