"""What `gomodel batch` says where its files cannot be read or written; all else needs a gateway (process)."""

import errno
import os
from pathlib import Path

import pytest

from gomodel.batches import command
from gomodel.batches.command import FAILED, Asked, batch


@pytest.mark.parametrize(("file", "said"), [("answers", "answers: "), (None, "")])
def test_a_disk_that_is_full_is_said_with_the_file_where_that_is_known(
    file: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path) -> dict[str, int]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), file)

    monkeypatch.setattr(command, "read_results", full)
    asked = Asked(tmp_path / "requests.jsonl", tmp_path / "answers.jsonl", "http://gateway/v1", "", "24h")
    assert batch(asked) == FAILED
    assert capsys.readouterr().err == f"gomodel batch: {said}No space left on device\n"
