"""`result_file`: what is a file of answers, and what is never touched."""

from pathlib import Path

import pytest

from gomodel.batches.result_file import ForeignFile, read_results

ONE = b'{"id":"batch_req_1","custom_id":"1","response":{"status_code":200,"body":{}},"error":null}\n'
NOT_RUN = b'{"id":"batch_req_2","custom_id":"2","response":null,"error":{"code":"batch_expired","message":"late"}}\n'
GOOD = {
    "nothing": (b"", b"", {}),
    "answers": (ONE, ONE, {"1": 200}),
    "one that was not run": (NOT_RUN + ONE, NOT_RUN + ONE, {"1": 200}),
    "blank lines": (ONE + b"\n", ONE + b"\n", {"1": 200}),
    "a byte order mark": (b"\xef\xbb\xbf" + ONE + ONE[:40], b"\xef\xbb\xbf" + ONE, {"1": 200}),
    "half a line": (ONE + NOT_RUN[:50], ONE, {"1": 200}),
    "half a line of another writer": (ONE + b'{"custom', ONE, {"1": 200}),
    "half a line alone": (ONE[:40], b"", {}),
    "the beginning of one": (b'{"id"', b"", {}),
    "no line end": (ONE[:-1], ONE, {"1": 200}),
}
FOREIGN = {
    "text": b"not json\n",
    "text without a line end": b"not json",
    "text behind answers": ONE + b"notes",
    "other JSON": b'{"foo":1}\n',
    "other JSON without a line end": b'{"id":"batch_req_1","foo":1}',
    "other JSON behind answers": ONE + b'{"foo":1}',
    "half of other JSON": b'{"foo":',
    "requests": b'{"custom_id":"1","method":"POST","url":"/v1/x","body":{}}\n',
    "half a request": b'{"custom_id":"1","method":"PO',
    "a list": b"[1]\n",
    "a number": b"1\n",
    "neither an answer nor an error": b'{"custom_id":"1","response":null}\n',
    "no status": b'{"custom_id":"1","response":{}}\n',
    "a response of text": b'{"custom_id":"1","response":"x"}\n',
    "an id that is no text": b'{"custom_id":[],"response":{"status_code":200}}\n',
    "no UTF-8": b"\xff\xfe\n",
    "very deep": b"[" * 200_000 + b"\n",
}


@pytest.mark.parametrize("name", GOOD)
def test_answers_are_read_and_their_end_is_mended(name: str, tmp_path: Path) -> None:
    before, after, found = GOOD[name]
    path = tmp_path / "out"
    path.write_bytes(before)
    assert (read_results(path), path.read_bytes()) == (found, after)
    assert read_results(path) == found


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_file_of_answers_is_refused_untouched(name: str, tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(FOREIGN[name])
    with pytest.raises(ForeignFile, match="is no file of answers"):
        read_results(path)
    assert path.read_bytes() == FOREIGN[name]


def test_a_file_that_is_not_there_has_no_answers_and_is_not_made(tmp_path: Path) -> None:
    assert read_results(tmp_path / "out") == {}
    assert not (tmp_path / "out").exists()
