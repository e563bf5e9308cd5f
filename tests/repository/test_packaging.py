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
