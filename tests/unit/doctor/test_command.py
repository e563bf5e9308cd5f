"""What `gomodel doctor` refuses before it asks anybody: keys that cannot travel, URLs that name no place."""

from dataclasses import replace
from pathlib import Path

import pytest

from gomodel.config.load import from_environ
from gomodel.doctor.command import Asked, WrongUse, doctor, key_of
from gomodel.doctor.examination import Effort

CONFIG = from_environ({})
ASKED = Asked([], None, None, None, insecure=False, as_json=False, effort=Effort())


def in_file(tmp_path: Path, content: bytes) -> Asked:
    path = tmp_path / "key"
    path.write_bytes(content)
    return replace(ASKED, key_file=path)


@pytest.mark.parametrize("content", [b"new", b"new\n", b"new\r\n", b"new\nold\n", b"new\r\nold"])
def test_the_first_line_of_a_key_file_is_the_key(tmp_path: Path, content: bytes) -> None:
    key = key_of(CONFIG, in_file(tmp_path, content))
    assert key is not None
    assert key.reveal() == "new"


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "first line is empty"),
        (b"\nold\n", "first line is empty"),
        ("wr€ng".encode(), "outside ASCII"),
        (b"\xff", "outside ASCII"),
        (b"a b\n", "holds whitespace"),
        (b"a\x85b", "outside ASCII"),
        (b"a\0", "a control character"),
    ],
)
def test_a_key_that_cannot_be_sent_is_refused(tmp_path: Path, content: bytes, wrong: str) -> None:
    with pytest.raises(WrongUse, match=wrong) as refused:
        key_of(CONFIG, in_file(tmp_path, content))
    assert str(refused.value).startswith(f"--key-file {tmp_path / 'key'}: ")


def test_a_key_of_the_environment_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "wr€ng")
    with pytest.raises(WrongUse, match="OPENAI_API_KEY: holds"):
        key_of(CONFIG, ASKED)


@pytest.mark.parametrize("url", ["http://u:secret@x:99999", "http://u:secret@[::1"])
def test_an_odd_url_is_named_without_its_password(url: str) -> None:
    with pytest.raises(WrongUse) as refused:
        doctor(CONFIG, replace(ASKED, through=[url]))
    assert str(refused.value).startswith(f"--through {url.rpartition('@')[2]}: its ")
    assert "secret" not in str(refused.value)
