"""The documents name tests, files and variables that exist."""

import ast
import re
from pathlib import Path

import pytest

from gomodel.config import VARIABLES, load

ROOT = Path(__file__).parent.parent
THREATS = (ROOT / "docs" / "threat-model.md").read_text()
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(("file", "name"), sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", THREATS))))
def test_a_test_named_by_the_threat_model_exists(file, name):
    assert f"def {name}(" in (ROOT / "tests" / file).read_text()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_a_file_linked_by_the_readme_exists(target):
    assert (ROOT / target).exists()


@pytest.mark.parametrize("variable", sorted(VARIABLES))
def test_the_readme_lists_every_variable(variable):
    assert f"`{variable}`" in README


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", README, re.DOTALL))
def test_an_example_is_python_that_asks_something(example):
    literals = [node for node in ast.walk(ast.parse(example)) if isinstance(node, ast.Dict | ast.List)]
    assert all(ast.literal_eval(each) for each in literals)


@pytest.mark.parametrize("lines", re.findall(r"(?:^    [#A-Z][^\n=]*=(?!.* make ).*\n)+", README, re.MULTILINE))
def test_lines_of_the_readme_can_be_pasted_into_a_file(tmp_path, lines):
    path = tmp_path / ".env"
    path.write_text(re.sub("^    ", "", lines, flags=re.MULTILINE))
    config = load({"GOMODEL_MASTER_KEY": "k"}, path)
    assert not config.warnings
    assert config.dotenv
    assert " " not in "".join(each.api_key.reveal() for each in config.instances if each.api_key is not None)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"^    make ([a-z-]+)", README, re.MULTILINE))))
def test_a_make_target_of_the_readme_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
