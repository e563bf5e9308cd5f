"""The private sockets of a gateway: nobody else may enter, and of a gateway that was killed nothing stays for ever."""

import os
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from gomodel.host import private_sockets


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_directory_is_there_for_a_while_and_for_its_user_alone() -> None:
    with private_sockets.directory(wanted=True):
        place = Path(private_sockets.path(private_sockets.API)).parent
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert private_sockets.owner() == os.getpid()
        for _ in range(2):  # one that was there is replaced
            with private_sockets.bind(private_sockets.path(private_sockets.API)) as sock:
                assert stat.S_IMODE(os.stat(sock.getsockname()).st_mode) == 0o600
    assert not place.exists()


def test_nothing_is_made_that_is_not_wanted(temporary: Path) -> None:
    with private_sockets.directory(wanted=False), pytest.raises(RuntimeError):
        private_sockets.path(private_sockets.API)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("age_s", "sockets", "stays"),
    [(3600, "none", False), (3600, "left", False), (3600, "listening", True), (0, "none", True), (0, "left", True)],
)
def test_what_others_have_left_is_removed_and_what_they_use_is_not(
    temporary: Path, age_s: float, sockets: str, stays: bool
) -> None:
    place = temporary / "gomodel-batches-x"
    place.mkdir()
    sock = private_sockets.bind(str(place / private_sockets.LINES)) if sockets != "none" else None
    if sock is not None and sockets == "left":
        sock.close()
    then = time.time() - age_s
    os.utime(place, (then, then))
    (temporary / "gomodel-other").mkdir()
    private_sockets.sweep()
    if sock is not None:
        sock.close()
    assert place.exists() is stays
    assert (temporary / "gomodel-other").exists()


def test_who_owns_a_directory_is_a_process_that_is_there() -> None:
    assert private_sockets.is_owned(os.getpid())
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    assert not private_sockets.is_owned(pid)


def test_an_owner_that_has_ended_and_was_not_waited_for_is_gone() -> None:
    child = subprocess.Popen([sys.executable, "-S", "-c", ""])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not private_sockets.is_owned(child.pid)
    child.wait()
