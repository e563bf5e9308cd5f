"""Who used how much: what may be asked for, summed by that, as JSON and as CSV."""

import csv
import io
import json
from typing import Any

import pytest

from gomodel.errors import ClientError
from gomodel.routes.query import parameters
from gomodel.telemetry.usage_table import DIMENSIONS, NUMBERS, Asked, as_csv, as_json, summed

NOW = 1_700_000_000.0
HOUR = 3600


def row(key: str, model: str, instance: str, tokens: int) -> dict[str, Any]:
    counts = {"requests": 2, "requests_of_unknown_usage": 1, "prompt_tokens": tokens, "completion_tokens": tokens}
    return {"key": key, "model": model, "instance": instance, **counts, "generation_seconds": 1.2504}


ROWS = [row("a", "m", "vllm", 10), row("b", "m", "vllm", 30), row("a", "n", "vllm", 5), row("a", "m", "vllm-b", 1)]


def asked(query: str = "", accept: str = "") -> Asked:
    return Asked(parameters("?" + query), accept, NOW)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (DIMENSIONS, {("b", "m", "vllm"): 30, ("a", "m", "vllm"): 10, ("a", "n", "vllm"): 5, ("a", "m", "vllm-b"): 1}),
        (("key",), {("b",): 30, ("a",): 16}),
        (("model",), {("m",): 41, ("n",): 5}),
        (("instance",), {("vllm",): 45, ("vllm-b",): 1}),
        (("key", "instance"), {("b", "vllm"): 30, ("a", "vllm"): 15, ("a", "vllm-b"): 1}),
        ((), {(): 46}),
    ],
)
def test_rows_are_summed_by_what_is_asked_for(by: tuple[str, ...], expected: dict[tuple[str, ...], int]) -> None:
    found = summed(ROWS, by)
    assert {tuple(each[name] for name in by): each["prompt_tokens"] for each in found} == expected
    assert list(found[0]) == [*by, *NUMBERS]
    assert [each["prompt_tokens"] for each in found] == sorted(expected.values(), reverse=True)
    assert sum(each["requests"] for each in found) == 8


def test_a_part_may_have_some_of_the_numbers() -> None:
    place = {"key": "k", "model": "m", "instance": "i"}
    (found,) = summed([place | {"cached_tokens": 3}, place | {"audio_seconds": 1.5}, place | {"cached_tokens": 4}], ())
    assert [found[name] for name in NUMBERS] == [0, 0, 0, 7, 0, 1.5, 0]


def test_json_says_of_which_time() -> None:
    question = asked("by=key")
    said = json.loads(as_json(summed(ROWS, question.by), question, NOW - 0.5, NOW))
    assert (said["object"], said["by"]) == ("usage", ["key"])
    assert (said["since"], said["until"]) == ("2023-11-14T22:13:19Z", "2023-11-14T22:13:20Z")
    assert [each["key"] for each in said["data"]] == ["b", "a"]
    assert said["data"][0]["generation_seconds"] == 1.25


def test_csv_has_a_line_of_names_and_one_for_each_row() -> None:
    found = summed(ROWS, DIMENSIONS)
    read = list(csv.DictReader(io.StringIO(as_csv(found, asked()).decode(), newline="")))
    assert [{name: str(value) for name, value in each.items()} for each in found] == read
    assert as_csv([], asked("by=key")).decode() == ",".join(["key", *NUMBERS]) + "\r\n"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"])
def test_no_name_is_a_formula_in_a_spreadsheet(name: str) -> None:
    text = as_csv(summed([row("k", name, "i", 1)], ("model",)), asked("by=model")).decode()
    assert next(csv.DictReader(io.StringIO(text)))["model"] == "'" + name


def test_a_name_that_is_no_text_is_written_all_the_same() -> None:
    assert as_csv(summed([row("k", "\udcff", "i", 1)], ("model",)), asked("by=model")).count(b"\r\n") == 2


@pytest.mark.parametrize(
    ("query", "accept", "by", "wants_csv"),
    [
        ("", "", DIMENSIONS, False),
        ("", "text/csv", DIMENSIONS, True),
        ("format=json", "text/csv", DIMENSIONS, False),
        ("format=csv", "", DIMENSIONS, True),
        ("by=instance,key", "", ("key", "instance"), False),
        ("by=model", "*/*", ("model",), False),
        ("by=", "", (), False),
    ],
)
def test_what_a_query_asks_for(query: str, accept: str, by: tuple[str, ...], wants_csv: bool) -> None:
    question = asked(query, accept)
    assert (question.by, question.csv, question.window) == (by, wants_csv, None)


@pytest.mark.parametrize(
    ("query", "since", "until"),
    [
        ("from=1970-01-02&to=1970-01-03", 24 * HOUR, 48 * HOUR),
        ("from=1970-01-01T05:59:59Z&to=1970-01-01T07:00:01Z", 5 * HOUR, 8 * HOUR),
        ("from=1970-01-01T05:00:00%2B02:00&to=1970-01-01T05:00:00+02:00", 3 * HOUR, 3 * HOUR),
        ("from=7200&to=10800", 2 * HOUR, 3 * HOUR),
        ("to=3601", 0, 2 * HOUR),
        ("from=1699999200", 1699999200, 1700002800),
    ],
)
def test_a_window_is_of_whole_hours_and_holds_what_is_asked_for(query: str, since: int, until: int) -> None:
    assert asked(query).window == (since, until)


@pytest.mark.parametrize(
    "query",
    ["by=user", "by=key,user", "format=xml", "format=", "from=yesterday", "to=", "from=2026-13-01", "to=-5"],
)
def test_a_query_that_is_not_understood_is_an_error_that_says_so(query: str) -> None:
    with pytest.raises(ClientError) as raised:
        asked(query)
    error = raised.value
    assert (error.status, error.code, error.param) == (400, "invalid_parameter", query.partition("=")[0])
