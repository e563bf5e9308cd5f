"""Each variable is said once, and what is made of it for people: example, page, table and help."""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from gomodel.config import reference, values
from gomodel.config.instances import INSTANCE_VARIABLE
from gomodel.config.reference import example_env, first_names, page, with_table
from gomodel.config.registry import OF_GOMODEL, OF_INSTANCES, SECTIONS, VARIABLES
from gomodel.config.variable import Section, Variable

ROOT = Path(__file__).parents[3]
ALL = [each for section in SECTIONS for each in section.variables]
NAMES = [name for each in ALL for name in each.names]


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        (Variable("A", values.duration_s, "600s", meaning=""), 600.0),
        (Variable("A", values.duration_s, "", meaning=""), None),
        (Variable("A", values.comma_list, "", absent=(), meaning=""), ()),
        (Variable("A", values.comma_list, "a,b", absent=(), meaning=""), ("a", "b")),
        (Variable("A", values.integer(0), "0", absent=1, meaning=""), 0),
    ],
)
def test_an_unset_variable_gives_its_default_or_what_stands_for_none(variable: Variable, value: object) -> None:
    assert variable.value == value


def test_a_secret_has_a_second_name_and_a_variable_of_instances_one_for_each_of_them() -> None:
    key = Variable("VLLM_API_KEY", str, "", secret=True, per_instance="", meaning="")
    assert key.names == ("VLLM_API_KEY", "VLLM_API_KEY_FILE")
    assert (key.field, key.of("EU_WEST_2")) == ("API_KEY", "VLLM_EU_WEST_2_API_KEY")
    assert Variable("PORT", str, "", meaning="").names == ("PORT",)


def test_no_name_stands_for_two_things() -> None:
    assert [name for name, count in Counter(NAMES).items() if count > 1] == []
    assert list(VARIABLES.values()) == ALL
    assert Counter((*OF_GOMODEL, *OF_INSTANCES)) == Counter(ALL)


@pytest.mark.parametrize("variable", OF_INSTANCES, ids=lambda each: each.name)
def test_a_variable_of_instances_is_one_with_and_without_a_suffix(variable: Variable) -> None:
    for own, suffixed in zip(variable.names, (variable.of("A"), variable.of("A") + "_FILE"), strict=False):
        match, other = INSTANCE_VARIABLE.fullmatch(own), INSTANCE_VARIABLE.fullmatch(suffixed)
        assert match is not None
        assert other is not None
        assert (match["suffix"], other["suffix"]) == (None, "A")
        assert match["field"] == other["field"]


@pytest.mark.parametrize("variable", OF_GOMODEL, ids=lambda each: each.name)
def test_a_variable_of_gomodel_describes_no_instance(variable: Variable) -> None:
    assert not any(INSTANCE_VARIABLE.fullmatch(name) for name in variable.names)


@pytest.mark.parametrize("variable", ALL, ids=lambda each: each.name)
def test_a_meaning_is_sentences_on_one_line_with_whole_code_spans(variable: Variable) -> None:
    assert re.fullmatch(r"[`A-Za-z][^\n|]*\.", variable.meaning)
    assert variable.meaning.count("`") % 2 == 0
    # Outside a code span these would be markup.
    assert not re.search(r"[<>*_\[\]]", re.sub(r"`[^`]*`", "", variable.meaning))
    assert len(variable.meaning) < 320


@pytest.mark.parametrize("variable", ALL, ids=lambda each: each.name)
def test_a_meaning_names_only_variables_that_exist(variable: Variable) -> None:
    assert set(re.findall(r"`([A-Z]+(?:_[A-Z0-9]+)*)`", variable.meaning)) <= {*NAMES, "SSL_CERT_FILE"}


def test_what_is_needed_first_is_about_a_dozen() -> None:
    assert 10 <= sum(each.first for each in ALL) <= 14


PORT = Variable("PORT", values.integer(0, 65535), "80", first=True, meaning="Where `it` listens. More | of it.")
KEY = Variable("KEY", str, "", secret=True, meaning="A key.", otherwise="`-`, else `+`")
URL = Variable("VLLM_URL", str, "http://a", per_instance="http://b", first=True, meaning="An address.")
TOKEN = Variable("VLLM_KEY", str, "", secret=True, per_instance="/run/k", meaning="Its key.")
ROWS = """\
| variable | default | meaning |
|---|---|---|
"""


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "SECTIONS", (Section("Own things", (PORT, KEY)), Section("Others", (URL, TOKEN))))
    monkeypatch.setattr(reference, "VARIABLES", {each.name: each for each in (PORT, KEY, URL, TOKEN)})


@pytest.mark.usefixtures("four")
def test_the_example_has_each_name_under_its_meaning_without_markup() -> None:
    _, _, own = example_env().partition("\n# OWN THINGS\n")
    own, _, others = own.partition("\n# OTHERS\n")
    assert own == (
        "\n# Where it listens. More | of it.\n# PORT=80\n\n# A key. Unset: -, else +.\n# KEY=\n"
        "\n# File that holds the key instead; one trailing newline is dropped.\n# KEY_FILE=\n"
    )
    assert re.findall("^# (VLLM.*=.*)$", others, re.MULTILINE) == [
        "VLLM_URL=http://a",
        "VLLM_KEY=",
        "VLLM_KEY_FILE=",
        "VLLM_TEST_URL=http://b",
        "VLLM_TEST_KEY=",
        "VLLM_TEST_KEY_FILE=/run/k",
    ]


@pytest.mark.usefixtures("four")
def test_the_page_has_a_table_for_each_section_with_all_names() -> None:
    _, _, tables = page().partition("\n## Own things\n\n")
    own, _, others = tables.partition("\n## Others\n\n")
    assert own == (
        f"{ROWS}| `PORT` | `80` | Where `it` listens. More \\| of it. |\n"
        "| `KEY`, `KEY_FILE` | `-`, else `+` | A key. |\n"
    )
    assert others.endswith(
        f"\n\n{ROWS}| `VLLM_URL`, `VLLM_<NAME>_URL` | `http://a` | An address. |\n"
        "| `VLLM_KEY`, `VLLM_KEY_FILE`, `VLLM_<NAME>_KEY`, `VLLM_<NAME>_KEY_FILE` | none | Its key. |\n"
    )


@pytest.mark.usefixtures("four")
def test_a_readme_gets_the_table_of_what_is_needed_first_and_keeps_the_rest() -> None:
    table = (
        f"{ROWS}| `PORT` | `80` | Where `it` listens. More \\| of it. |\n"
        "| `VLLM_URL`, `VLLM_<NAME>_URL` | `http://a` | An address. |\n"
    )
    readme = "# x\n\n{}\n| a | b |\n|---|---|\n| \\1 | d |\n"
    assert with_table(readme.format(f"{ROWS}| `OLD` | 1 | x |\n")) == readme.format(table)
    assert with_table(readme.format(table)) == readme.format(table)


@pytest.mark.usefixtures("four")
def test_the_help_has_the_names_of_what_is_needed_first() -> None:
    assert first_names() == "  PORT VLLM_URL"


def test_no_line_of_the_example_is_wider_than_a_screen() -> None:
    assert max(map(len, example_env().splitlines())) <= 120


def test_the_files_of_the_repository_are_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "quickstart.md", tmp_path / "docs")
    reference.main()
    for name in (".env.example", "docs/configuration.md", "docs/quickstart.md"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()
