"""Who used how much: summed by what is asked for, over all workers, as JSON and as CSV."""

import csv
import io
import json
from typing import Any

import pytest

from gomodel.errors import ClientError
from gomodel.operations.usage import NUMBERS, Asked, as_csv, as_json, rows, since

ALL = ("key", "model", "instance")


def snapshot(*used: tuple[str, str, str, int], started: float = 0.0) -> dict[str, Any]:
    """Of (key, model, instance, tokens): a request that took as many tokens each way, and one that did not say."""
    places = [(instance, model, key) for key, model, instance, _ in used]
    return {
        "gomodel_tokens_total": [
            ((*place, kind), tokens)
            for place, (*_, tokens) in zip(places, used, strict=True)
            for kind in ("prompt", "completion", "cached")
        ],
        "gomodel_usage_requests_total": [((*place, kind), 1) for place in places for kind in ("known", "unknown")],
        "gomodel_generation_seconds_total": [(place, 1.25) for place in places],
        "gomodel_audio_seconds_total": [(places[0], 2.0)],
        "process_start_time_seconds": [((), started)],
    }


USED = snapshot(("a", "m", "vllm", 10), ("b", "m", "vllm", 30), ("a", "n", "vllm", 5), ("a", "m", "vllm-b", 1))


def numbers(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in NUMBERS)


def test_a_row_has_what_its_requests_took() -> None:
    first, *others = rows([USED], ALL)
    assert (first["key"], first["model"], first["instance"]) == ("b", "m", "vllm")
    assert numbers(first) == (2, 1, 30, 30, 30, 0, 1.25)
    assert [(each["key"], each["model"], each["instance"]) for each in others] == [
        ("a", "m", "vllm"),
        ("a", "n", "vllm"),
        ("a", "m", "vllm-b"),
    ]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (("key",), {("b",): 30, ("a",): 16}),
        (("model",), {("m",): 41, ("n",): 5}),
        (("instance",), {("vllm",): 45, ("vllm-b",): 1}),
        (("key", "instance"), {("b", "vllm"): 30, ("a", "vllm"): 15, ("a", "vllm-b"): 1}),
        ((), {(): 46}),
    ],
)
def test_rows_are_summed_by_what_is_asked_for(by: tuple[str, ...], expected: dict[tuple[str, ...], int]) -> None:
    found = rows([USED], by)
    assert {tuple(row[each] for each in by): row["prompt_tokens"] for row in found} == expected
    assert list(found[0]) == [*by, *NUMBERS]
    assert sum(row["requests"] for row in found) == 8


def test_workers_add_up() -> None:
    (row,) = rows([USED, USED, {}], ())
    assert numbers(row) == (16, 8, 92, 92, 92, 4.0, 10.0)
    assert (
        since([snapshot(("a", "m", "i", 1), started=50.0), USED | {"process_start_time_seconds": [((), 40.0)]}]) == 40
    )


def test_json_says_since_when() -> None:
    said = json.loads(as_json(rows([USED], ("key",)), ("key",), 1_700_000_000.5))
    assert (said["object"], said["since"], said["by"]) == ("usage", "2023-11-14T22:13:20Z", ["key"])
    assert [row["key"] for row in said["data"]] == ["b", "a"]


def test_csv_has_a_line_of_names_and_one_for_each_row() -> None:
    found = rows([USED], ALL)
    read = list(csv.DictReader(io.StringIO(as_csv(found, ALL).decode(), newline="")))
    assert [{name: str(value) for name, value in row.items()} for row in found] == read
    assert as_csv([], ("key",)).decode() == ",".join(["key", *NUMBERS]) + "\r\n"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx"])
def test_no_name_is_a_formula_in_a_spreadsheet(name: str) -> None:
    found = rows([snapshot(("k", name, "i", 1))], ("model",))
    assert next(csv.DictReader(io.StringIO(as_csv(found, ("model",)).decode())))["model"] == "'" + name


def test_a_name_that_is_no_text_is_written_all_the_same() -> None:
    assert as_csv(rows([snapshot(("k", "\udcff", "i", 1))], ("model",)), ("model",)).count(b"\r\n") == 2


@pytest.mark.parametrize(
    ("query", "accept", "by", "wants_csv"),
    [
        ("", "", ALL, False),
        ("", "text/csv", ALL, True),
        ("format=json", "text/csv", ALL, False),
        ("format=csv", "", ALL, True),
        ("by=instance,key", "", ("key", "instance"), False),
        ("by=model", "*/*", ("model",), False),
        ("by=", "", (), False),
    ],
)
def test_what_a_query_asks_for(query: str, accept: str, by: tuple[str, ...], wants_csv: bool) -> None:
    asked = Asked(query, accept)
    assert (asked.by, asked.csv) == (by, wants_csv)


@pytest.mark.parametrize("query", ["by=user", "by=key,user", "format=xml", "from=2026-01-01", "x", "by=key&x=1"])
def test_a_query_that_is_not_understood_is_an_error_that_says_so(query: str) -> None:
    with pytest.raises(ClientError) as raised:
        Asked(query, "")
    assert raised.value.status == 400
