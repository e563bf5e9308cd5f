"""What `pip install .` installs: every room of the package, and what its modules read beside them.

setuptools finds packages by their `__init__.py` and other files by `package_data` only; a checkout serves without
either.
"""

from configparser import RawConfigParser
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for path in (ROOT / "gomodel").rglob("*") if path.is_file() and path.suffix != ".pyc")
FOLDERS = sorted({path.parent for path in FILES})
OTHERS = [path for path in FILES if path.suffix != ".py"]


def package_data() -> dict[str, list[str]]:
    cfg = RawConfigParser()
    cfg.read(ROOT / "setup.cfg")
    section = cfg["options.package_data"]
    return {package: [each.strip() for each in section[package].split(",")] for package in section}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_a_folder_of_the_package_is_a_package_that_says_what_is_in_it(folder: Path) -> None:
    assert (folder / "__init__.py").read_text().startswith('"""')


@pytest.mark.parametrize("file", OTHERS, ids=lambda path: path.name)
def test_a_file_that_is_no_module_is_installed_too(file: Path) -> None:
    patterns = package_data()[".".join(file.parent.relative_to(ROOT).parts)]
    assert any(fnmatch(file.name, pattern) for pattern in patterns)


def extras() -> dict[str, list[str]]:
    cfg = RawConfigParser()
    cfg.read(ROOT / "setup.cfg")
    section = cfg["options.extras_require"]
    return {name: section[name].split("\n") for name in section}


def test_all_is_every_extra_that_serves_somebody_who_runs_it() -> None:
    (line,) = filter(None, extras()["all"])
    named = line.removeprefix("gomodel[").removesuffix("]").split(",")
    assert named == sorted({*extras()} - {"all", "test", "check", "docs"})


def test_it_is_said_to_run_on_each_python_that_is_tested() -> None:
    cfg = RawConfigParser()
    cfg.read(ROOT / "setup.cfg")
    versions = [each.rpartition(" ")[2] for each in cfg["metadata"]["classifiers"].split("\n") if ":: 3." in each]
    assert versions[0] == cfg["options"]["python_requires"].removeprefix(">=")
    text = ", ".join(versions[:-1]) + " and " + versions[-1]
    assert f"Python {text}" in (ROOT / "README.md").read_text()
    assert f"CPython {', '.join(versions)}" in (ROOT / "docs" / "upgrading.md").read_text()
