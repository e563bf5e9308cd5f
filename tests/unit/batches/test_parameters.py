"""What callers may say of files and batches, and how each thing they may not is refused."""

import json
from typing import Any

import pytest

from gomodel.batches import parameters
from gomodel.batches.ids import BATCH, FILE
from gomodel.errors import GatewayError, InvalidBody, InvalidValue

GOOD: dict[str, Any] = {
    "input_file_id": FILE + "0" * 30,
    "endpoint": "/v1/embeddings",
    "completion_window": "24h",
}


def test_a_batch_says_what_it_needs_and_may_say_more() -> None:
    body = {
        **GOOD,
        "metadata": {"a": "b"},
        "output_expires_after": {"anchor": "created_at", "seconds": 3600},
        "unknown": 1,
    }
    found = parameters.new_batch(json.dumps(body).encode())
    assert found == (GOOD["input_file_id"], "/v1/embeddings", "24h", 86400, {"a": "b"}, 3600)


@pytest.mark.parametrize(
    ("window", "seconds"),
    [
        ("24h", 86400),
        ("90m", 5400),
        ("7d", 604800),
        ("30d", 2592000),
        ("10", 10),
        ("1s", 1),
        ("0d0h0m000086400s", 86400),
    ],
)
def test_other_windows_are_accepted_too(window: str, seconds: int) -> None:
    assert parameters.new_batch(json.dumps({**GOOD, "completion_window": window}).encode()).window_s == seconds


@pytest.mark.parametrize(
    ("changes", "param", "code"),
    [
        ({"input_file_id": None}, "input_file_id", "required"),
        ({"endpoint": None}, "endpoint", "required"),
        ({"completion_window": None}, "completion_window", "required"),
        ({"input_file_id": 7}, "input_file_id", "invalid_value"),
        ({"input_file_id": "file-abc"}, "input_file_id", "invalid_value"),
        ({"input_file_id": "../" + GOOD["input_file_id"]}, "input_file_id", "invalid_value"),
        ({"input_file_id": GOOD["input_file_id"] + "\n"}, "input_file_id", "invalid_value"),
        ({"endpoint": "/v1/images/generations"}, "endpoint", "invalid_value"),
        ({"endpoint": ["/v1/embeddings"]}, "endpoint", "invalid_value"),
        ({"completion_window": "soon"}, "completion_window", "invalid_value"),
        ({"completion_window": "0s"}, "completion_window", "invalid_value"),
        ({"completion_window": "31d"}, "completion_window", "invalid_value"),
        ({"completion_window": "1" * 99}, "completion_window", "invalid_value"),
        ({"completion_window": "0d0h0m0000086400s"}, "completion_window", "invalid_value"),
        ({"completion_window": "999ms"}, "completion_window", "invalid_value"),
        ({"metadata": []}, "metadata", "invalid_value"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "invalid_value"),
        ({"metadata": {"k" * 65: "v"}}, "metadata", "invalid_value"),
        ({"metadata": {"": "v"}}, "metadata", "invalid_value"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_value"),
        ({"metadata": {"k": 1}}, "metadata.k", "invalid_value"),
        ({"output_expires_after": 3600}, "output_expires_after", "invalid_value"),
        ({"output_expires_after": {"seconds": 3600}}, "output_expires_after[anchor]", "invalid_value"),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": 3599}},
            "output_expires_after[seconds]",
            "invalid_value",
        ),
        (
            {"output_expires_after": {"anchor": "created_at", "seconds": True}},
            "output_expires_after[seconds]",
            "invalid_value",
        ),
    ],
)
def test_what_a_batch_may_not_say_is_named(changes: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parameters.new_batch(json.dumps({**GOOD, **changes}).encode())
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, code)


def test_metadata_may_be_as_large_as_openais() -> None:
    most = {f"{number:x>64}": "v" * 512 for number in range(16)}
    assert parameters.new_batch(json.dumps({**GOOD, "metadata": most}).encode()).metadata == most


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidBody):
        parameters.new_batch(body)


@pytest.mark.parametrize("text", [None, "", "batch_output", "fine-tune", "x" * 5000])
def test_an_upload_is_for_batches(text: str | None) -> None:
    with pytest.raises(InvalidValue) as caught:
        parameters.purpose(text)
    assert caught.value.param == "purpose"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("anchor", "seconds", "found"),
    [
        (None, None, None),
        ("created_at", "3600", 3600),
        ("created_at", 2592000, 2592000),
        ("created_at", None, "seconds"),
        ("created_at", "", "seconds"),
        ("created_at", "2592001", "seconds"),
        ("created_at", "1e9", "seconds"),
        ("created_at", "٣٦٠٠", "seconds"),
        ("now", "3600", "anchor"),
        (None, "3600", "anchor"),
    ],
)
def test_a_file_may_say_how_long_it_is_kept(anchor: Any, seconds: Any, found: int | str | None) -> None:
    if not isinstance(found, str):
        assert parameters.expires_after(anchor, seconds, name="expires_after") == found
        return
    with pytest.raises(InvalidValue) as caught:
        parameters.expires_after(anchor, seconds, name="expires_after")
    assert caught.value.param == f"expires_after[{found}]"
    if found == "seconds":
        assert caught.value.message == "'expires_after[seconds]' must be an integer from 3600 to 2592000."


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "9" * 30}, "limit"),
        ({"limit": "10001"}, "limit"),
        ({"order": "up"}, "order"),
        ({"purpose": "vision"}, "purpose"),
        ({"after": "nope"}, "after"),
        ({"after": ""}, "after"),
        ({"after": BATCH + "0" * 30}, "after"),
    ],
)
def test_a_list_is_asked_for_in_good_order(query: dict[str, str], param: str) -> None:
    with pytest.raises(GatewayError) as caught:
        parameters.file_page(query)
    assert caught.value.param == param


def test_lists_have_openais_limits() -> None:
    assert parameters.file_page({}) == (10000, None, False, None)
    assert parameters.batch_page({}) == (20, None, False, None)
    assert parameters.batch_page({"limit": "100", "after": BATCH + "0" * 30}) == (100, BATCH + "0" * 30, False, None)
    for query in ({"limit": "101"}, {"after": "nope"}, {"after": FILE + "0" * 30}):
        with pytest.raises(InvalidValue):
            parameters.batch_page(query)


@pytest.mark.parametrize(("text", "limit"), [("1", 1), ("20", 20), ("100", 100), ("000000001", 1)])
def test_a_page_may_be_as_short_and_as_long_as_they_say(text: str, limit: int) -> None:
    assert (parameters.file_page({"limit": text}).limit, parameters.batch_page({"limit": text}).limit) == (limit, limit)
    assert parameters.file_page({"limit": "10000"}).limit == 10000
    for longer in ("101", "0000000001"):
        with pytest.raises(InvalidValue):
            parameters.batch_page({"limit": longer})
