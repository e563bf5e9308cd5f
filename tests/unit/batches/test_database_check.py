"""`gomodel check` asks the database too, says what to do about one that cannot be asked, and changes nothing in it."""

from pathlib import Path

from gomodel.batches.database import SQLITE_NAME
from gomodel.batches.database_check import database_problem
from gomodel.config.settings import Batching, Secret

CLOSED_PORT = 1


def batching(data_dir: Path, url: str | None = None) -> Batching:
    return Batching(str(data_dir), None if url is None else Secret(url), 1, 1.0, 1, 1)


def test_a_database_that_is_not_there_yet_is_no_problem_and_is_not_made(tmp_path: Path) -> None:
    assert database_problem(batching(tmp_path / "none")) == ""
    assert database_problem(batching(tmp_path)) == ""
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / SQLITE_NAME).write_bytes(b"no database " * 1000)
    said = database_problem(batching(tmp_path))
    assert said.startswith("GOMODEL_DATA_DIR: ")


def test_a_server_that_is_away_is_named_without_its_password(tmp_path: Path) -> None:
    said = database_problem(batching(tmp_path, f"postgresql://me:secret@127.0.0.1:{CLOSED_PORT}/gomodel"))
    assert said.startswith("GOMODEL_DATABASE_URL: the database does not answer")
    assert "secret" not in said
