"""A whole file is looked at before a line of it runs, and what is wrong is said line by line."""

import io
import json
from pathlib import Path

import pytest

from gomodel.batches.validation import MOST_LINES, Verdict, read_lines, validate

CHAT = "/v1/chat/completions"


def line(custom_id: object, model: str = "m") -> str:
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"model": model}})


def looked_at(tmp_path: Path, content: bytes | str, limit_bytes: int = 10_000) -> Verdict:
    path = tmp_path / "file"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return validate(path, CHAT, limit_bytes)


def test_a_good_file_says_how_many_lines_and_which_models(tmp_path: Path) -> None:
    text = "\n".join(["\ufeff" + line("a"), "", line("b", "n"), "  \r", line("c"), ""])
    assert looked_at(tmp_path, text) == Verdict(3, {"m": 1, "n": 3}, [])


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    assert looked_at(tmp_path, line("a")).errors == []


@pytest.mark.parametrize("content", ["", "\n\n", " \r\n"])
def test_a_file_without_lines_is_refused(tmp_path: Path, content: str) -> None:
    assert [(each["code"], each["line"]) for each in looked_at(tmp_path, content).errors] == [("empty_file", None)]


def test_every_bad_line_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    text = "\n".join([line("a"), "{", "", line("a"), line(5)])
    assert [(each["code"], each["line"], each["param"]) for each in looked_at(tmp_path, text).errors] == [
        ("invalid_json_line", 2, None),
        ("duplicate_custom_id", 4, "custom_id"),
        ("invalid_custom_id", 5, "custom_id"),
    ]


def test_two_spellings_of_one_id_are_one_id(tmp_path: Path) -> None:
    other = line("a").replace('"a"', '"\\u0061"')
    assert [each["code"] for each in looked_at(tmp_path, f"{line('a')}\n{other}").errors] == ["duplicate_custom_id"]


def test_errors_end_where_nobody_reads_them_any_more_and_say_so(tmp_path: Path) -> None:
    assert [each["code"] for each in looked_at(tmp_path, "{\n" * 100).errors] == ["invalid_json_line"] * 100
    *listed, last = looked_at(tmp_path, "{\n" * 5000).errors
    assert [each["line"] for each in listed] == list(range(1, 101))
    assert (last["code"], last["line"]) == ("too_many_errors", 101)


def test_a_line_over_the_limit_is_not_read_to_its_end(tmp_path: Path) -> None:
    errors = looked_at(tmp_path, line("a") + "\n" + "x" * 1000 + "\n" + "{", 100).errors
    assert [(each["code"], each["line"]) for each in errors] == [("line_too_large", 2)]


def test_lines_are_read_as_they_stand_and_one_over_the_limit_ends_them() -> None:
    for mark in ("", "\ufeff"):
        read = list(read_lines(io.BytesIO(f"{mark}123\n\n\u00e9a\n1234\nnever".encode()), 4))
        assert read == [b"123\n", b"\n", "\u00e9a\n".encode(), b"1234\n"]
        assert list(read_lines(io.BytesIO(f"{mark}".encode()), 4)) == []
        (first,) = read_lines(io.BytesIO(f"{mark}12345678\nnever".encode()), 4)
        assert first.startswith(b"12345")


def test_a_mark_is_one_at_the_beginning_of_the_file_alone(tmp_path: Path) -> None:
    errors = looked_at(tmp_path, line("a") + "\n\ufeff" + line("b")).errors
    assert [(each["code"], each["line"]) for each in errors] == [("invalid_json_line", 2)]


def test_a_line_may_be_as_long_as_the_limit(tmp_path: Path) -> None:
    text = line("a") + "\n" + line("b")
    assert looked_at(tmp_path, text, len(line("a")) + 1) == Verdict(2, {"m": 1}, [])


def test_a_file_has_so_many_lines_at_the_most(tmp_path: Path) -> None:
    lines = [line(number).replace(f": {number},", f': "{number}",') for number in range(MOST_LINES + 5)]
    assert looked_at(tmp_path, "\n".join(lines[:MOST_LINES])).errors == []
    errors = looked_at(tmp_path, "\n".join(lines)).errors
    assert [(each["code"], each["line"]) for each in errors] == [("too_many_lines", MOST_LINES + 1)]
