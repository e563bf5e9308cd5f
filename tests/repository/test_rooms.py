"""The documents that lead through the package name rooms, modules and suites that exist, and leave none out."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gomodel"
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
SUITES = (ROOT / "tests" / "README.md").read_text()
GUIDES = ARCHITECTURE + (ROOT / "CONTRIBUTING.md").read_text()
ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
# `room/`, `room/module`, `room/module.py` and `room.module`
NAMED = sorted(set(re.findall(rf"`((?:{'|'.join(ROOMS)})(?:/\w*(?:\.py)?|\.\w+))`", GUIDES)))


@pytest.mark.parametrize("name", NAMED)
def test_a_module_named_by_a_guide_exists(name: str) -> None:
    room, _, module = name.removesuffix(".py").replace("/", ".").partition(".")
    assert (PACKAGE / room / f"{module}.py").exists() if module else (PACKAGE / room).is_dir()


def test_a_file_that_is_named_behind_another_of_its_room_exists() -> None:
    """As in "`recording/lines.py`, `credentials.py`"."""
    for row in re.findall(r"^\|.*\| (.*) \|$", ARCHITECTURE, re.MULTILINE):
        room = PACKAGE
        for name in re.findall(r"`([\w/]+\.py)`", row):
            room = PACKAGE / name.partition("/")[0] if "/" in name else room
            assert any((folder / name.rpartition("/")[2]).exists() for folder in (room, PACKAGE)), name


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_stands_in_the_drawing(room: str) -> None:
    drawing = ARCHITECTURE.partition("## Where a change goes")[0]
    assert re.search(rf"^    (?:.*  )?{room}(?:  |$)", drawing, re.MULTILINE)


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")))
def test_every_suite_has_a_line(folder: str) -> None:
    assert f"| `{folder}/" in SUITES


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`(?:make ([\w-]+))", SUITES))))
def test_a_suite_is_run_by_a_target_that_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_a_folder_of_unit_tests_is_a_room() -> None:
    folders = {path.parent.name for path in (ROOT / "tests" / "unit").glob("*/__init__.py")}
    assert folders <= set(ROOMS)
