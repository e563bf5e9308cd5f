"""A server's list of models is read in short turns, says what json would, and is never longer than can be handled."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gomodel.upstream.model_list as module
from gomodel.selector.turns import SLICE_BYTES
from gomodel.upstream.model_list import ENTRY_LIMIT_BYTES, MODELS_LIMIT, ListError, listed

from ..selector.test_scan_turns import CALLS, calls_of

modest = settings(derandomize=True, deadline=None, database=None, max_examples=80)


async def models(body: bytes) -> list[dict[str, Any]]:
    return [each async for each in listed(body)]


def read(body: bytes) -> list[dict[str, Any]]:
    """Without a loop: others having their turn is all that is waited for."""
    coroutine = models(body)
    while True:
        try:
            coroutine.send(None)
        except StopIteration as end:
            found: list[dict[str, Any]] = end.value
            return found


def entry(at: int, **more: Any) -> dict[str, Any]:
    return {
        "id": f"org/m-{at}",
        "object": "model",
        "max_model_len": 7,
        "permission": [{"id": "p", "group": None}],
        **more,
    }


LISTS = {
    "none": [],
    "one": [entry(1)],
    "many": [entry(at) for at in range(3000)],
    "large ones": [entry(at, root="x" * (SLICE_BYTES - 100)) for at in range(5)],
    "what is none between them": [1, None, "id", [], {}, {"id": 1}, entry(1), {"id": None}, entry(2), [entry(3)], True],
    "last": [entry(1), 7],
    "deep": [entry(1, a=json.loads("[" * 200 + "]" * 200)), entry(2)],
    "odd strings": [entry(1, a='}],"\\', b="\\\\\\\\"), entry(2, c="é\U0001f600\x00")],
}


@pytest.mark.parametrize("data", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("indent", [None, 1])
def test_the_models_of_a_list_are_what_json_says(data: list[Any], indent: int | None) -> None:
    expected = [each for each in data if isinstance(each, dict) and isinstance(each.get("id"), str)]
    for ascii_only in (True, False):
        text = json.dumps({"object": "list", "data": data, "more": [1]}, indent=indent, ensure_ascii=ascii_only)
        assert read(text.encode()) == expected
    assert read(json.dumps({"data": data}).encode()) == expected


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "no JSON"),
        (b"<html>", "no JSON"),
        (b"[]", "no JSON"),
        (b"7", "no JSON"),
        (b"{}", "no list of models"),
        (b'{"data":{}}', "no list of models"),
        (b'{"data":null}', "no list of models"),
        (b'{"data":[', "no JSON"),
        (b'{"data":[{"id":"a"}', "no JSON"),
        (b'{"data":[{"id":"a"},', "no JSON"),
        (b'{"data":[{"id":"a"},]}', "no JSON"),
        (b'{"data":[{"id":"a"}{"id":"b"}]}', "no JSON"),
        (b'{"data":[{"id":"a"}]', "no JSON"),
        (b'{"data":[{"id":"a"}}', "no JSON"),
        (b'{"data":[{"id":"a"}}}', "no JSON"),
        (b'{"data":[{"id":"a"}:"b":1}', "no JSON"),
        (b'{"data":[{"id":"a"}]} x', "no JSON"),
        (b'{"data":[{"id":}]}', "no JSON"),
        (b'{"data":[{"id":"a","n":NaN}]}', "no JSON"),
        (b'{"data":[],"data":[]}', "no JSON"),
        (b'{"data":[{"id":"\xff"}]}', "no JSON"),
        (b'{"data":' + b"[" * 200_000, "no JSON"),
        ('{"data":[]}'.encode("utf-16"), "no JSON"),
    ],
)
def test_what_is_no_list_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(ListError, match=f"^{reason}$"):
        read(body)


def test_a_list_has_so_many_models_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MODELS_LIMIT", 150)
    data = [entry(at) for at in range(151)]
    body = json.dumps({"data": data}).encode()
    assert read(body) == data[:150]
    with pytest.raises(ListError):
        read(body[:-1])
    assert MODELS_LIMIT == 10_000


def test_an_entry_that_is_too_large_is_left_out() -> None:
    room = ENTRY_LIMIT_BYTES - len(json.dumps(entry(2, root="")))
    largest, larger = entry(2, root="x" * room), entry(2, root="x" * (room + 1))
    assert read(json.dumps({"data": [entry(1), largest, larger, entry(3)]}).encode()) == [entry(1), largest, entry(3)]


BODIES = {
    "vLLM's": json.dumps({"data": [entry(at, created=at) for at in range(6000)]}).encode(),
    "small ones": json.dumps({"data": [{"id": f"{at}"} for at in range(12_000)]}).encode(),
    "no models": b'{"data":[' + b"1," * 300_000 + b"1]}",
    "lists ever deeper": b'{"data":[' + rb'["\\",' * 20_000,
    "odd names before": b"{" + rb'"\\":1,' * 20_000 + b'"data":[]}',
    "odd names behind": b'{"data":[],' + rb'"\\":1,' * 20_000 + b'"a":1}',
    "odd strings": b'{"data":[' + rb'"\\\\",' * 20_000 + b"1]}",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_no_turn_of_the_reading_is_long(body: bytes) -> None:
    coroutine, worst, turns, result = models(body), 0, 0, None
    while result is None:
        try:
            calls, result = calls_of(lambda: coroutine.send(None))
        except (StopIteration, ListError):
            break
        worst = max(worst, calls)
        turns += 1
    assert worst <= 2 * CALLS  # half of them ask what an entry is
    assert turns >= len(body) // SLICE_BYTES


async def test_others_have_their_turn_meanwhile() -> None:
    task = asyncio.ensure_future(models(BODIES["vLLM's"]))
    turns = 0
    while not task.done():
        await asyncio.sleep(0)
        turns += 1
    assert len(task.result()) == 6000
    assert turns > len(BODIES["vLLM's"]) // SLICE_BYTES


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(['"', "\\", "],", '},{"id":"x"}']),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "data", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@modest
@given(
    st.lists(VALUES, max_size=5), st.dictionaries(st.text(max_size=4), VALUES, max_size=3), st.sampled_from([None, 1])
)
def test_any_list_gives_what_json_gives(data: list[Any], around: dict[str, Any], indent: int | None) -> None:
    around.pop("data", None)
    body = json.dumps({**around, "data": data, "z": around}, indent=indent).encode()
    assert read(body) == [each for each in data if isinstance(each, dict) and isinstance(each.get("id"), str)]
