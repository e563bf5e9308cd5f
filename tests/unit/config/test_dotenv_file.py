"""Each kind of line in a .env file, and what is said about those that are none."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.config import dotenv_file

VALUES = [
    ("", {}),
    ("\n\n", {}),
    ("# comment\n", {}),
    ("  # indented comment\n", {}),
    ("A=1", {"A": "1"}),
    ("A=1\n", {"A": "1"}),
    ("A=1\r\nB=2\r\n", {"A": "1", "B": "2"}),
    ("A=1\rB=2", {"A": "1", "B": "2"}),
    ("  A = 1  \n", {"A": "1"}),
    ("export A=1", {"A": "1"}),
    ("A=", {"A": ""}),
    ("A= # nothing\n", {"A": ""}),
    ("A=1 # one\n", {"A": "1"}),
    ("A=a#b\n", {"A": "a#b"}),
    ("A=a=b\n", {"A": "a=b"}),
    ("A=a b c\n", {"A": "a b c"}),
    ('A="a # b"\n', {"A": "a # b"}),
    ("A='a # b' # c\n", {"A": "a # b"}),
    ('A="a\\nb"\n', {"A": "a\nb"}),
    ("A='a\\nb'\n", {"A": "a\\nb"}),
    ('A="two\nlines"\nB=2\n', {"A": "two\nlines", "B": "2"}),
    ("A=1\nA=2\n", {"A": "2"}),
    ("A=$B\n", {"A": "$B"}),
    ("A=pa$$word\n", {"A": "pa$$word"}),
    ("spring.name=1\nx-y=2\n", {"spring.name": "1", "x-y": "2"}),
    ("\ufeffA=1\n", {"A": "1"}),
    ("A=ä\n", {"A": "ä"}),
]


@pytest.mark.parametrize(("text", "values"), VALUES)
def test_a_file_holds_these_values(tmp_path: Path, text: str, values: dict[str, str]) -> None:
    path = tmp_path / ".env"
    path.write_bytes(text.encode())
    file = dotenv_file.read(path, {})
    assert (file.values, file.problems, file.unresolved) == (values, (), frozenset())


MALFORMED = [
    ("A", [1]),
    ("A B=1", [1]),
    ("=1", [1]),
    ("export", [1]),
    ("export A", [1]),
    ("VLLM_BASE_URL http://gpu/v1", [1]),
    ("PORT: 8080", [1]),
    ("- PORT=8080", [1]),
    ("set PORT=8080", [1]),
    ("$env:PORT=8080", [1]),
    ("1A=1", [1]),
    ("A+=1", [1]),
    ("A:=1", [1]),
    ("[section]", [1]),
    ("{}", [1]),
    ('A="unterminated', [1]),
    ("A='unterminated", [1]),
    ('A="x" y', [1]),
    ("'A=1", [1]),
    ("A=1\nB\nC=3", [2]),
    ("\n\n\nB", [4]),
    ("\r\n\r\nB", [3]),
    ("# c\n\n  \n\tB\n\n\nC\nD=1\nE", [4, 7, 9]),
    ('A="two\nlines"\nB', [3]),
    ('A="two\nlines"\n\nB=1\nC', [5]),
    ("A='x\nB=1\n\nC", [1, 4]),
]


@pytest.mark.parametrize(("text", "lines"), MALFORMED)
def test_a_malformed_line_is_a_problem_with_its_number(text: str, lines: list[int]) -> None:
    file = dotenv_file.parse(text, {})
    assert file.problems == tuple(f".env line {line}: is not NAME=value" for line in lines)


def test_the_lines_around_a_malformed_one_are_read() -> None:
    assert dotenv_file.parse("A=1\nB\nC=3", {}).values == {"A": "1", "C": "3"}


@pytest.mark.parametrize("text", ['KEY "hunter2"', "hunter2", 'KEY="hunter2', "KEY=${hunter2:?x}"])
def test_a_problem_never_quotes_the_line(text: str) -> None:
    (problem,) = dotenv_file.parse(text, {}).problems
    assert "hunter2" not in problem


REFERENCES = [
    ("A=${X}", {"X": "1"}, "1"),
    ("A=a${X}b${X}c", {"X": "1"}, "a1b1c"),
    ('A="${X}"', {"X": "1"}, "1"),
    ("A='${X}'", {"X": "1"}, "1"),
    ("X=2\nA=${X}", {}, "2"),
    ("X=2\nA=${X}", {"X": "1"}, "1"),
    ("X=2\nX=3\nA=${X}", {}, "3"),
    ("A=1\nA=${A}2", {}, "12"),
    ("X=1\nY=${X}2\nA=${Y}3", {}, "123"),
    ("A=${X:-d}", {}, "d"),
    ("A=${X:-d}", {"X": ""}, "d"),
    ("A=${X:-d}", {"X": "1"}, "1"),
    ("X=\nA=${X:-d}", {}, "d"),
    ("A=${X:-}", {}, ""),
    ("A=${X:-http://gpu:8000/v1}", {}, "http://gpu:8000/v1"),
    ("A=http://${H:-gpu}:${P:-8000}/v1", {"P": "9000"}, "http://gpu:9000/v1"),
    ("A=${X}", {"X": "${Y}"}, "${Y}"),
    ("A=$${X}", {"X": "1"}, "$1"),
    ("A=${_x1}", {"_x1": "1"}, "1"),
]


@pytest.mark.parametrize(("text", "environ", "value"), REFERENCES)
def test_a_reference_is_filled_in_from_the_environment_over_the_lines_above(
    text: str, environ: dict[str, str], value: str
) -> None:
    file = dotenv_file.parse(text, environ)
    assert file.values["A"] == value
    assert file.problems == ()
    assert file.unresolved == frozenset()


UNSET = "is not set; set it in the environment or above this line, or write ${NAME:-default}"
MALFORMED_REFERENCE = "holds a reference that is neither ${NAME} nor ${NAME:-default}"
UNRESOLVED = [
    ("A=${X}", {}, [f"1: A: ${{X}} {UNSET}"]),
    ("A=${X}", {"X": ""}, [f"1: A: ${{X}} {UNSET}"]),
    ("X=\nA=${X}", {}, [f"2: A: ${{X}} {UNSET}"]),
    ("X=1\nA=${X}", {"X": ""}, [f"2: A: ${{X}} {UNSET}"]),
    ("A=${X}\nX=1", {}, [f"1: A: ${{X}} {UNSET}"]),
    ("A=${A}", {}, [f"1: A: ${{A}} {UNSET}"]),
    ("\n\nA=b${Y}c${X}", {}, [f"3: A: ${{X}}, ${{Y}} {UNSET}"]),
    ("A=${X}\nB=${Y}\nC=${Z:-1}", {}, [f"1: A: ${{X}} {UNSET}", f"2: B: ${{Y}} {UNSET}"]),
    ("A=${X}\nB=${A}\nC=${B}", {}, [f"1: A: ${{X}} {UNSET}"]),
    ("A=${X}\nB=${A}${Y}", {}, [f"1: A: ${{X}} {UNSET}", f"2: B: ${{Y}} {UNSET}"]),
    ("A=${X}\nA=1", {}, [f"1: A: ${{X}} {UNSET}"]),
    ("A=${}", {}, [f"1: A: {MALFORMED_REFERENCE}"]),
    ("A=${ X}", {"X": "1"}, [f"1: A: {MALFORMED_REFERENCE}"]),
    ("A=${X:?needed}", {"X": "1"}, [f"1: A: {MALFORMED_REFERENCE}"]),
    ("A=${X:+alt}", {"X": "1"}, [f"1: A: {MALFORMED_REFERENCE}"]),
    ("A=${X-d}", {}, [f"1: A: {MALFORMED_REFERENCE}"]),
    ("A=${X", {"X": "1"}, [f"1: A: {MALFORMED_REFERENCE}"]),
    ("A=${X:-${Y}}", {"X": "1", "Y": "2"}, [f"1: A: {MALFORMED_REFERENCE}"]),
    ("A=${1X:-d}", {}, [f"1: A: {MALFORMED_REFERENCE}"]),
]


@pytest.mark.parametrize(("text", "environ", "problems"), UNRESOLVED)
def test_an_unresolved_reference_is_a_problem_naming_variable_and_line(
    text: str, environ: dict[str, str], problems: list[str]
) -> None:
    file = dotenv_file.parse(text, environ)
    assert file.problems == tuple(f".env line {problem}" for problem in problems)
    assert "A" in file.unresolved


def test_an_unresolved_value_keeps_its_reference_and_is_named() -> None:
    file = dotenv_file.parse("A=${X}\nB=${A}\nC=1", {})
    assert file.values == {"A": "${X}", "B": "${A}", "C": "1"}
    assert file.unresolved == {"A", "B"}


def test_a_later_unresolved_line_takes_the_earlier_value_away() -> None:
    file = dotenv_file.parse("A=1\nA=${X}\nB=${A}", {})
    assert file.values == {"A": "${X}", "B": "${A}"}
    assert file.problems == (f".env line 2: A: ${{X}} {UNSET}",)


@pytest.mark.parametrize("value", ["1", ""])
def test_a_variable_of_the_environment_is_left_to_the_environment(value: str) -> None:
    file = dotenv_file.parse("A=${MISSING}\nB=2", {"A": value})
    assert (file.values, file.problems, file.unresolved) == ({"B": "2"}, (), frozenset())


def test_the_environment_of_the_process_is_neither_read_nor_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("X", "from the process")
    before = dict(os.environ)
    assert dotenv_file.parse("A=${X:-default}", {}).values == {"A": "default"}
    assert dict(os.environ) == before


def test_a_missing_file_is_an_empty_one(tmp_path: Path) -> None:
    assert dotenv_file.read(tmp_path / ".env", {}) == dotenv_file.DotenvFile()


def test_a_directory_in_the_place_of_the_file_is_a_problem(tmp_path: Path) -> None:
    file = dotenv_file.read(tmp_path, {})
    assert file == dotenv_file.DotenvFile(problems=(f"{tmp_path}: cannot be read: Is a directory",))


def test_a_path_below_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("A=1")
    (problem,) = dotenv_file.read(tmp_path / "file" / ".env", {}).problems
    assert problem == f"{tmp_path}/file/.env: cannot be read: Not a directory"


@pytest.mark.parametrize(
    ("content", "line"), [(b"\xff", 1), (b"A=1\nB=\xe4\n", 2), (b"\xef\xbb\xbfA=1\r\n\r\n\xc3", 3)]
)
def test_a_file_that_is_not_utf8_is_a_problem_with_its_line(tmp_path: Path, content: bytes, line: int) -> None:
    path = tmp_path / ".env"
    path.write_bytes(content)
    assert dotenv_file.read(path, {}).problems == (f"{path} line {line}: is not UTF-8",)


def test_problems_call_the_file_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "prod.env"
    path.write_text("A=1\nB\n")
    assert dotenv_file.read(path, {}).problems == (f"{path} line 2: is not NAME=value",)


@given(st.text(alphabet=st.sampled_from("AB=${}:-'\"\\# \t\r\nx1")))
def test_any_text_gives_values_or_problems_and_no_line_beyond_the_last(text: str) -> None:
    file = dotenv_file.parse(text, {"B": "2"})
    last = text.count("\n") + text.count("\r") + 1
    for problem in file.problems:
        assert 1 <= int(problem.split(":")[0].removeprefix(".env line ")) <= last
    assert bool(file.problems) >= bool(file.unresolved)


# "$" would start a reference; a lone surrogate has no UTF-8.
NAMES = st.from_regex(r"[A-Z_][A-Z0-9_]{0,8}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_characters="$", exclude_categories=["Cs"]))


@given(st.dictionaries(NAMES, TEXTS))
def test_a_quoted_value_comes_back_as_it_was_written(values: dict[str, str]) -> None:
    quoted = {name: value.replace("\\", "\\\\").replace('"', '\\"') for name, value in values.items()}
    text = "".join(f'{name}="{value}"\n' for name, value in quoted.items())
    assert dotenv_file.parse(text, {}).values == values


@pytest.mark.parametrize(("lines", "further"), [(19, 0), (20, 0), (21, 1), (5000, 4980)])
def test_a_file_of_another_kind_is_not_listed_line_by_line(lines: int, further: int) -> None:
    problems = dotenv_file.parse("what is this\n" * lines, {}).problems
    assert problems[:19] == tuple(f".env line {number}: is not NAME=value" for number in range(1, 20))
    assert problems[min(lines, 20) :] == ((f".env: {further} further lines are not NAME=value",) if further else ())


def test_a_name_that_is_set_often_is_one_warning() -> None:
    assert dotenv_file.parse("A=1\nA=2\nB=1\n\nA=3\nB=2\n", {}).warnings == (
        ".env line 5: A is set again; line 2 has no effect",
        ".env line 6: B is set again; line 3 has no effect",
    )
