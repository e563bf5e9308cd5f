"""Files that a configuration names are read whole, bounded and without waiting for ever."""

import errno
import os
import threading
from pathlib import Path

import pytest

from gomodel.config.files import Files

LIMIT = 100


@pytest.mark.parametrize("content", [b"", b"a", b"\0\xff\r\n", b"x" * LIMIT])
def test_a_file_is_read_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert Files().read(tmp_path / "file", LIMIT) == content


def test_a_file_is_read_again_each_time(tmp_path: Path) -> None:
    files, path = Files(), tmp_path / "file"
    for content in (b"one", b"two"):
        path.write_bytes(content)
        assert files.read(path, LIMIT) == content


@pytest.mark.parametrize("endless", ["/dev/zero", "/dev/urandom", "big"])
def test_what_holds_more_than_the_limit_is_refused(tmp_path: Path, endless: str) -> None:
    with (tmp_path / "big").open("wb") as big:
        big.truncate(1 << 40)
    with pytest.raises(OSError, match="it holds more than 100 bytes") as caught:
        Files().read(tmp_path / endless, LIMIT)
    assert caught.value.errno == errno.EFBIG


def test_the_null_device_is_empty() -> None:
    assert Files().read("/dev/null", LIMIT) == b""


@pytest.mark.parametrize(("place", "number"), [("missing", errno.ENOENT), (".", errno.EISDIR), ("f/x", errno.ENOTDIR)])
def test_what_cannot_be_opened_raises_what_the_system_says(tmp_path: Path, place: str, number: int) -> None:
    (tmp_path / "f").touch()
    with pytest.raises(OSError, match=os.strerror(number)):
        Files().read(tmp_path / place, LIMIT)


def test_a_pipe_without_a_writer_is_given_up_and_costs_all_files_their_patience_once(tmp_path: Path) -> None:
    files = Files(patience_s=0.01)
    for name in ("a", "b"):
        os.mkfifo(tmp_path / name)
        with pytest.raises(OSError, match="nothing is written to this pipe or device"):
            files.read(tmp_path / name, LIMIT)
    assert files._left_s == 0
    (tmp_path / "file").write_bytes(b"still read")
    assert files.read(tmp_path / "file", LIMIT) == b"still read"


def test_a_pipe_whose_writer_stops_in_the_middle_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    keeper = os.open(path, os.O_RDWR)
    os.write(keeper, b"half")
    with pytest.raises(OSError, match="nothing is written to this pipe or device"):
        Files(patience_s=0.01).read(path, LIMIT)
    os.close(keeper)


@pytest.mark.parametrize("content", [b"", b"secret", b"x" * LIMIT])
def test_a_pipe_with_a_writer_is_read_to_its_end_and_once(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    # Opens when the reader does, as a password manager's pipe.
    writer = threading.Thread(target=path.write_bytes, args=(content,))
    writer.start()
    files = Files(patience_s=10.0)
    assert files.read(path, LIMIT) == content
    writer.join()
    assert files.read(path, LIMIT) == content
