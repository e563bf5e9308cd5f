"""What the watch of the keys file makes of what becomes of that file."""

import logging
import os
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from gomodel.config.keys_file import parse
from gomodel.config.settings import Keys, Secret
from gomodel.process import keys_watch
from gomodel.process.keys_watch import KeysWatch, News


def entry(name: str) -> str:
    return f'[keys.{name}]\nsha256 = "{sha256(name.encode()).hexdigest()}"\n'


class Watched:
    """A watch whose looks are waited for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.keys = Keys(str(path), parse(path.read_bytes()))
        self._looked = threading.Event()
        self.watch = KeysWatch(self._looked.set)

    def look(self) -> News | None:
        self._looked.clear()
        self.watch.look(self.keys, [Secret("m")])
        assert self._looked.wait(10)
        news = self.watch.news(self.keys)
        if news is not None and news.keys is not None:
            self.keys = news.keys
        return news

    @property
    def names(self) -> list[str]:
        return [each.name for each in self.keys.entries]


@pytest.fixture
def watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Watched:
    monkeypatch.setattr(keys_watch, "SETTLE_S", 0.0)
    caplog.set_level(logging.INFO, "gomodel")
    path = tmp_path / "keys.toml"
    path.write_text(entry("a"))
    return Watched(path)


def renamed(path: Path, text: str) -> None:
    """As an editor, or `mv`, puts a file in the place of another."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


@pytest.mark.parametrize("put", [Path.write_text, renamed])
def test_a_file_that_has_changed_is_taken_up_once(watched: Watched, put: Callable[[Path, str], object]) -> None:
    assert watched.look() is None
    put(watched.path, entry("a") + entry("b"))
    news = watched.look()
    assert news is not None
    assert not news.broken
    assert watched.names == ["a", "b"]
    assert watched.look() is None
    put(watched.path, entry("b"))
    assert watched.look() is not None
    assert watched.names == ["b"]


def test_the_swap_of_a_link_is_a_change(watched: Watched, tmp_path: Path) -> None:
    """Kubernetes: keys.toml -> ..data/keys.toml, and ..data is a link that is renamed to lead to another folder."""
    for version, names in (("1", ["a"]), ("2", ["b"])):
        (tmp_path / version).mkdir()
        (tmp_path / version / "keys.toml").write_text("".join(map(entry, names)))
    (tmp_path / "..data").symlink_to("1")
    watched.path.unlink()
    watched.path.symlink_to("..data/keys.toml")
    assert watched.look() is None
    (tmp_path / "..data_tmp").symlink_to("2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert watched.look() is not None
    assert watched.names == ["b"]


def test_a_file_of_the_same_size_and_time_is_seen_by_its_place(watched: Watched) -> None:
    os.utime(watched.path, (1.0, 1.0))
    assert watched.look() is None
    renamed(watched.path, entry("b"))
    os.utime(watched.path, (1.0, 1.0))
    assert watched.look() is not None
    assert watched.names == ["b"]


def test_a_file_that_is_written_twice_within_a_tick_is_seen(watched: Watched) -> None:
    assert watched.look() is None
    sign = watched.path.stat()
    with watched.path.open("r+") as file:
        file.write(entry("b"))
    os.utime(watched.path, ns=(sign.st_atime_ns, sign.st_mtime_ns))
    assert watched.look() is not None
    assert watched.names == ["b"]


def test_one_that_has_not_changed_is_not_read(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    os.utime(watched.path, (1.0, 1.0))
    assert watched.look() is None
    monkeypatch.setattr(keys_watch, "_whole", pytest.fail)
    assert watched.look() is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{entry('b')}in_fligth = 1\n", "line 3: keys.b: 'in_fligth' is no field of an entry"),
        ("[keys.b\n", "no TOML: "),
        ("", "there is no entry"),
        (None, "cannot be read: No such file or directory"),
        (entry("b").replace(sha256(b"b").hexdigest(), sha256(b"m").hexdigest()), "the same key as GOMODEL_MASTER_KEY"),
    ],
    ids=["unknown field", "no TOML", "empty", "gone", "the master key"],
)
def test_a_file_of_no_use_changes_nothing_and_is_said_once(
    watched: Watched, text: str | None, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert watched.look() is None
    watched.path.unlink()
    if text is not None:
        watched.path.write_text(text)
    assert watched.look() == News(None, broken=True)
    assert watched.look() is None
    assert watched.look() is None
    (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert said in line.getMessage()
    assert line.getMessage().startswith(f"The keys file is not used, the keys before stay: {str(watched.path)!r}")
    watched.path.write_text(entry("a"))
    assert watched.look() == News(None, broken=False)
    watched.path.write_text(entry("c"))
    assert watched.look() is not None
    assert watched.names == ["c"]


def test_a_file_is_taken_up_when_it_has_stopped_changing(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """Truncated, then written in pieces: each piece ends where an entry does."""
    pieces = ["", entry("b"), entry("b") + entry("c"), entry("b") + entry("c") + entry("d")]
    assert watched.look() is None
    watched.path.write_text(pieces.pop(0))
    monkeypatch.setattr(keys_watch, "sleep", lambda _: pieces and watched.path.write_text(pieces.pop(0)))
    assert watched.look() is not None
    assert watched.names == ["b", "c", "d"]


def test_a_file_that_never_stops_changing_is_of_no_use(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    assert watched.look() is None
    numbers = iter(range(1000))
    watched.path.write_text(entry("b"))
    monkeypatch.setattr(keys_watch, "sleep", lambda _: watched.path.write_text(entry(f"k{next(numbers)}")))
    assert watched.look() == News(None, broken=True)
    assert watched.names == ["a"]


def test_one_look_is_under_way_at_a_time(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    hangs, threads = threading.Event(), []

    def sign(path: str) -> tuple[int, int, int, int]:
        threads.append(threading.current_thread())
        assert hangs.wait(10)
        return 0, 0, 0, 0

    monkeypatch.setattr(keys_watch, "_sign", sign)
    for _ in range(3):
        watched.watch.look(watched.keys, [])
    assert watched.watch.busy
    hangs.set()
    for each in threads:
        each.join(10)
    assert len(threads) == 1


def test_without_a_thread_the_next_look_may_have_one(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        watched.watch.look(watched.keys, [])
        assert not watched.watch.busy
    watched.path.write_text(entry("b"))
    assert watched.look() is not None
