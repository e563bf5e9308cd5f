"""When SIGUSR2 starts nothing, and what is said then; what it starts is in process/test_upgrade."""

import logging

import pytest

from gomodel.process import successor
from gomodel.process.successor import Successor


@pytest.mark.parametrize(
    ("pid", "ending", "upgradable", "said"),
    [
        (1, False, True, "SIGUSR2 changes nothing: this is a container's process 1"),
        (7, True, True, "SIGUSR2 comes too late: the process is ending"),
        (7, False, False, "SIGUSR2 changes nothing: the demonstration has no successor"),
        (7, False, True, ""),
    ],
)
def test_who_has_no_successor_says_why(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    pid: int,
    ending: bool,
    upgradable: bool,
    said: str,
) -> None:
    monkeypatch.setattr(successor.os, "getpid", lambda: pid)
    with caplog.at_level(logging.WARNING, "gomodel"):
        assert Successor().may_start(ending=ending, upgradable=upgradable) == (not said)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * bool(said)
    assert said in caplog.text
