"""The file of a recording: who may read it, how large it gets, what ends it."""

import errno
import json
import os
import stat
from pathlib import Path

import pytest

from gomodel.recording import journal as module
from gomodel.recording.journal import Journal


def test_lines_are_written_in_order_for_their_owner_alone(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "new", 1 << 20, print)
    for number in range(1000):
        journal.say({"exchange": number, "text": "é"}, 2)
    journal.close()
    lines = journal.path.read_text().splitlines()
    assert [json.loads(line)["exchange"] for line in lines] == list(range(1000))
    assert journal.written_bytes == journal.path.stat().st_size
    assert stat.S_IMODE(journal.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(journal.path.parent.stat().st_mode) == 0o700


def test_a_recording_ends_at_its_limit_and_keeps_its_beginning(tmp_path: Path) -> None:
    reasons: list[str] = []
    journal = Journal(tmp_path, 100, reasons.append)
    for number in range(20):
        journal.say({"exchange": number})
    journal.close()
    assert reasons == ["the limit of 100 bytes is reached"]
    lines = journal.path.read_text().splitlines()
    assert [json.loads(line)["exchange"] for line in lines] == list(range(len(lines)))
    assert 0 < len(lines) < 20
    journal.say({"exchange": 99})  # nothing, and no error


def test_a_full_disk_ends_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    reasons: list[str] = []
    journal = Journal(tmp_path, 1 << 20, reasons.append)
    monkeypatch.setattr(module, "write", full)
    for number in range(3):
        journal.say({"exchange": number})
    journal.close()
    assert reasons == [f"{journal.path}: No space left on device"]


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, 1 << 20, print)
    monkeypatch.setattr(module, "write", lambda fd, data: os.write(fd, data[:3]))
    journal.say({"exchange": 1})
    journal.close()
    assert json.loads(journal.path.read_text()) == {"exchange": 1}


def test_a_disk_that_is_too_slow_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []
    journal = Journal(tmp_path, 1 << 20, reasons.append)
    monkeypatch.setattr(module, "_BACKLOG_BYTES", 10)
    journal.say({"exchange": 1}, 11)
    journal.close()
    assert reasons == ["the disk is too slow for what passes"]


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        Journal(tmp_path / "file", 1, print)
