"""GOMODEL_WATCH: a file that changes is read again without a signal, by the reload that SIGHUP does."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from gomodel.config.files import Files
from gomodel.config.load import load
from gomodel.config.settings import Config
from gomodel.process import reload
from gomodel.process.reload import Rereading

from ..harness.processes import Run
from ..harness.scripted import SAFETY_S

GPU = "VLLM_BASE_URL=http://gpu/v1\n"
NEW = "VLLM_BASE_URL=http://new/v1\n"


def replaced(path: Path, text: str) -> None:
    """As editors and orchestrators do it: another file takes the name."""
    beside = path.with_name("beside")
    beside.write_text(text)
    beside.rename(path)


def rewritten(path: Path, text: str) -> None:
    """In place; of another length, since a clock may stand still for so short a time."""
    path.write_text(text)


class Looking:
    """A Rereading of `env` in a thread that the test waits for."""

    def __init__(self, env: Path, environ: dict[str, str] | None = None) -> None:
        self.readings = 0
        self._environ = environ or {}
        self._env = env
        self._finished = threading.Semaphore(0)
        self.current = load(self._environ, env)
        self._rereading = Rereading(self._load, self._finished.release)

    def _load(self, files: Files) -> Config:
        self.readings += 1
        return load(self._environ, self._env, files)

    def look(self) -> Config | None:
        """What a look finds; None where the old configuration stays."""
        self._rereading.look(self.current)
        assert self._finished.acquire(timeout=SAFETY_S)
        found = self._rereading.result(self.current)
        self.current = found or self.current
        return found


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reload, "SETTLE_S", 0.0)


def test_what_has_not_changed_is_not_read(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text(GPU)
    looking = Looking(env)
    assert [looking.look() for _ in range(3)] == [None] * 3
    assert looking.readings == 0


@pytest.mark.parametrize("change", [replaced, rewritten])
def test_another_content_is_taken_up_once(tmp_path: Path, change: Callable[[Path, str], None]) -> None:
    env = tmp_path / ".env"
    env.write_text(GPU)
    looking = Looking(env)
    change(env, NEW + "LOG_LEVEL=debug\n")
    found = looking.look()
    assert found is not None
    assert str(found.instances[0].servers[0]) == "http://new/v1"
    readings = looking.readings
    assert looking.look() is None
    assert looking.readings == readings


@pytest.mark.parametrize("change", [replaced, rewritten])
def test_so_is_that_of_a_file_which_a_variable_names(tmp_path: Path, change: Callable[[Path, str], None]) -> None:
    env, key = tmp_path / ".env", tmp_path / "key"
    key.write_text("one\n")
    env.write_text(f"{GPU}VLLM_API_KEY_FILE={key}\n")
    looking = Looking(env)
    change(key, "another\n")
    found = looking.look()
    assert found is not None
    assert found.instances[0].api_key is not None
    assert found.instances[0].api_key.reveal() == "another"


def test_a_secret_that_kubernetes_swaps_by_a_link_is_noticed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "key").write_text(f"{name}\n")
    (tmp_path / "..data").symlink_to("one")
    looking = Looking(tmp_path / ".env", {"VLLM_API_KEY_FILE": str(tmp_path / "..data" / "key")})
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "..data")
    found = looking.look()
    assert found is not None
    assert found.instances[0].api_key is not None
    assert found.instances[0].api_key.reveal() == "two"


def test_a_file_that_comes_is_noticed_and_one_that_goes_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env = tmp_path / ".env"
    looking = Looking(env)
    env.write_text(NEW)
    assert looking.look() is not None
    env.unlink()
    caplog.set_level(logging.ERROR, "gomodel")
    assert looking.look() is None
    assert "the old one stays: .env was in use" in caplog.text
    caplog.clear()
    assert looking.look() is None
    assert caplog.text == ""


def test_a_bad_one_is_refused_once_and_taken_when_it_is_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    env, key = tmp_path / ".env", tmp_path / "key"
    env.write_text(GPU)
    looking = Looking(env)
    replaced(env, f"{NEW}VLLM_API_KEY_FILE={key}\n")
    caplog.set_level(logging.ERROR, "gomodel")
    assert [looking.look() for _ in range(3)] == [None] * 3
    assert len(caplog.messages) == 1
    key.write_text("k\n")  # of which only the file that was refused speaks
    assert looking.look() is not None


def test_a_file_that_may_not_be_read_is_no_change_each_time(tmp_path: Path) -> None:
    env = tmp_path / ".env"
    env.write_text(GPU)
    looking = Looking(env)
    (tmp_path / "key").mkdir()
    replaced(env, f"{GPU}VLLM_API_KEY_FILE={tmp_path / 'key'}\n")
    assert looking.look() is None
    readings = looking.readings
    assert looking.look() is None
    assert looking.readings == readings


def test_a_pipe_is_not_looked_at(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "key")
    environ = {"VLLM_API_KEY_FILE": str(tmp_path / "key")}
    writer = threading.Thread(target=lambda: (tmp_path / "key").write_text("k\n"))
    writer.start()
    looking = Looking(tmp_path / ".env", environ)
    writer.join()
    assert [Path(each).name for each in looking.current.files] == [".env"]
    assert looking.look() is None


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_running_gateway_takes_up_what_is_written(run: Run, tmp_path: Path, workers: str) -> None:
    env = tmp_path / ".env"
    env.write_text(GPU)
    process = await run({"GOMODEL_WATCH": "20ms", "GOMODEL_WORKERS": workers})
    await process.listening()
    replaced(env, NEW)
    await process.says("Instance vllm: http://new/v1")
    replaced(env, "PORT=x\n")
    await process.says("The new configuration is not used")
    replaced(env, GPU)
    await process.says("Instance vllm: http://gpu/v1", 2)
    assert sum("is not used" in each for each in process.messages) == 1


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_reload_can_begin_it_and_end_it(run: Run, tmp_path: Path, workers: str) -> None:
    env = tmp_path / ".env"
    env.write_text(GPU)
    process = await run({"GOMODEL_WORKERS": workers})
    await process.listening()
    env.write_text(f"{GPU}GOMODEL_WATCH=20ms\n")
    process.signal(signal.SIGHUP)
    await process.says("was read again")
    replaced(env, NEW)
    await process.says("Instance vllm: http://new/v1")
