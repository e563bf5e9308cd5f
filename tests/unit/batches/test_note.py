"""`note`: one command at a time, and the batch it began."""

import os
from pathlib import Path

import pytest

from gomodel.batches.note import BadNote, Note


def test_a_batch_is_kept_for_the_next_and_the_note_goes_with_it(tmp_path: Path) -> None:
    path = tmp_path / "note"
    with Note(path) as note:
        assert note.batch is None
        note.keep("b", "g")
    with Note(path) as note:
        assert (note.batch, note.gateway) == ("b", "g")
        note.forget()
    assert not path.exists()


def test_the_second_is_told_who_is_first(tmp_path: Path) -> None:
    with Note(tmp_path / "note") as first:
        first.keep("b", "g")
        with pytest.raises(BadNote, match=f"process {os.getpid()}"), Note(tmp_path / "note"):
            pass
    with Note(tmp_path / "note") as note:
        assert note.batch == "b"


@pytest.mark.parametrize("content", [b"mine", b"[]", b"1", b'{"batch":"b"}', b"\xff", b"[" * 60_000])
def test_what_is_no_note_is_refused_untouched(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "note").write_bytes(content)
    with pytest.raises(BadNote, match="is not what this command has written"), Note(tmp_path / "note"):
        pass
    assert (tmp_path / "note").read_bytes() == content
