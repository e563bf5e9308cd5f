"""The id of a response that is continued: the top-level member, wherever it stands, and little held of the rest."""

import json
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gomodel.selector.previous_response import PreviousResponse

modest = settings(derandomize=True, deadline=None, database=None, max_examples=150)

ID = "resp_0a1B-c.d_9"
NAME = "previous_response_id"
BACKSLASH = "\\"


def feed(previous: PreviousResponse, piece: bytes) -> None:
    previous.feed(piece)
    while previous.paused:
        previous.feed(b"")


def fed(pieces: Iterable[bytes]) -> tuple[str | None, bool]:
    previous = PreviousResponse()
    for piece in pieces:
        feed(previous, piece)
        if previous.done:
            break
    return previous.id, previous.done


def every_way(body: bytes) -> tuple[str | None, bool]:
    """Whole, in small pieces and in two pieces cut anywhere, which must all agree."""
    outcome = fed([body])
    for size in (1, 2, 7):
        assert fed(body[at : at + size] for at in range(0, len(body), size)) == outcome
    for at in range(0, len(body), 1 + len(body) // 300):
        assert fed([body[:at], b"", body[at:]]) == outcome
    return outcome


def body(before: str = "", value: str = f'"{ID}"', after: str = "", name: str = NAME) -> bytes:
    return f'{{{before}"{name}":{value}{after}}}'.encode()


FOUND = {
    "alone": body(),
    "first": body(after=',"input":"x","model":"m"'),
    "last": body('"model":"m","input":"hi",'),
    "spaces": body(' \n"a" : [1] , ').replace(b'":"resp', b'"\t: \r\n "resp'),
    "behind a decoy in an object": body(f'"metadata":{{"{NAME}":"resp_x","a":[{{"{NAME}":"resp_y"}}]}},'),
    "behind a decoy in a string": body(rf'"a":"\"{NAME}\":\"resp_x\"","b":"\\\\",'),
    "behind other names": body(f'"{NAME}s":"resp_x","x{NAME}":"resp_y","{NAME.upper()}":"resp_z",'),
    "an escaped name": body(name=r"previous\u005fresponse_\u0069d"),
    "a name of escapes": body(name="".join(f"\\u{ord(each):04X}" for each in NAME)),
    "an escaped value": body(value=rf'"\u0072esp{ID[4:]}"'),
    "behind strings that end in backslashes": body(
        "".join(f'"a":"{BACKSLASH * 2 * count}",' for count in (1, 8, 31, 32, 33, 64, 65, 200))
    ),
    "behind escaped quotes": body('"a":"' + r"\"\\\"x" * 100 + '","b":{"c":["' + r"\\\"" * 100 + '"]},'),
    "behind deep nesting": body('"a":' + "[" * 300 + "]" * 300 + ',"b":' + '{"c":' * 300 + "1" + "}" * 300 + ","),
    "behind long names": body('"' + "n" * 3000 + '":1,'),
    "behind scalars": body('"a":-1.5e+30,"b":true,"c":null,'),
    "the first of two": body(after=f',"{NAME}":"resp_other"'),
    "before what is no JSON": body(after=",]"),
    "with a byte order mark": b"\xef\xbb\xbf" + body(),
}
NONE = {
    "an empty object": b"{}",
    "no such member": b'{"model":"m","input":"hi"}',
    "only in an object": f'{{"metadata":{{"{NAME}":"{ID}"}}}}'.encode(),
    "only in a list": f'{{"input":[{{"{NAME}":"{ID}"}}]}}'.encode(),
    "only in a string": rf'{{"input":"\"{NAME}\":\"{ID}\""}}'.encode(),
    "null": body(value="null"),
    "a number": body(value="7"),
    "an object": body(value=f'{{"id":"{ID}"}}'),
    "an empty id": body(value='""'),
    "an id that could lead elsewhere": body(value='"a/../b"'),
    "a long id": body(value='"' + "x" * 257 + '"'),
    "half a character": body(value=r'"\ud800"'),
    "no UTF-8": body().replace(b"resp_", b"resp_\xff"),
    "a list": b'["previous_response_id"]',
    "no JSON": b'{"a":]',
    "a comma too many": body(after="").replace(b"{", b'{"a":1,,'),
}
NOT_YET = {
    "nothing": b"",
    "a brace": b"{",
    "in a string": b'{"input":"' + b"x" * 500,
    "in the name": b'{"previous_resp',
    "before the value": b'{"previous_response_id":',
    "in the value": b'{"previous_response_id":"resp_',
}


@pytest.mark.parametrize("sent", FOUND.values(), ids=FOUND.keys())
def test_the_top_level_member_is_found_wherever_it_stands(sent: bytes) -> None:
    assert every_way(sent) == (ID, True)


@pytest.mark.parametrize("sent", NONE.values(), ids=NONE.keys())
def test_what_is_no_such_member_continues_nothing(sent: bytes) -> None:
    assert every_way(sent) == (None, True)


@pytest.mark.parametrize("sent", NOT_YET.values(), ids=NOT_YET.keys())
def test_the_search_goes_on_while_it_may_still_come(sent: bytes) -> None:
    assert every_way(sent) == (None, False)


@pytest.mark.parametrize("cut", range(1, 60))
def test_what_stands_before_a_name_that_is_cut_is_not_held_for_it(cut: int) -> None:
    sent = body('"input":"' + "x" * 50_000 + '",')
    assert fed([sent[:-cut], sent[-cut:]]) == (ID, True)


@pytest.mark.parametrize(
    "filler",
    [b"x", b'{"a":[1,"b"]},', b'"x",', b"[", b'\\"', b" ", b"1", b"\\\\x"],
    ids=["text", "objects", "strings", "brackets", "escapes", "spaces", "digits", "backslashes"],
)
def test_little_is_held_of_a_body_of_any_size(filler: bytes) -> None:
    opening = b'{"input":[' if filler[:1] in b'{"[' else b'{"input":"' if filler[:1] in b"x\\" else b'{"input":'
    piece = filler * (65536 // len(filler))
    previous = PreviousResponse()
    previous.feed(opening)
    tracemalloc.start()
    try:
        for _ in range(100):
            feed(previous, piece)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not previous.done
    assert peak < 4 * len(piece)


@pytest.mark.parametrize(
    ("opening", "filler"),
    [
        (b'{"', b"n"),
        (b'{"', b"\\"),
        (b'{"previous_response_id":"', b"n"),
        (b'{"previous_response_id":"', b"\\"),
        (b'{"input":"', b"\\"),
    ],
)
def test_a_name_or_an_id_without_end_ends_the_search_before_it_fills_memory(opening: bytes, filler: bytes) -> None:
    previous = PreviousResponse()
    previous.feed(opening)
    for _ in range(5):
        if not previous.done:
            previous.feed(filler * 1024)
    assert (previous.done, previous.id) == (True, None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=12) | st.sampled_from([NAME, ID, "\\", '"', '\\"']),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4) | st.just(NAME), inner, max_size=4),
    max_leaves=12,
)


@modest
@given(
    st.dictionaries(st.text(max_size=6) | st.sampled_from([NAME, "model"]), json_values, max_size=6),
    st.lists(st.integers(0, 600), max_size=12),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_any_object_in_any_pieces_says_what_a_parser_says(document, cuts, indent, ascii_only):
    if isinstance(value := document.get(NAME), str) and value not in ("", ID):
        document[NAME] = ID
    raw = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode()
    places = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    expected = document.get(NAME)
    found, done = fed(raw[one:other] for one, other in pairwise(places))
    assert (found, done) == (ID if expected == ID else None, True)


@modest
@given(st.binary(max_size=200), st.integers(1, 9))
def test_any_bytes_raise_nothing(raw, size):
    fed(raw[at : at + size] for at in range(0, len(raw), size))
