"""A search of a body in pieces finds what a scan of all of it finds, or says that it is the scan's to say."""

import random
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gomodel.errors import GatewayError, InvalidBody
from gomodel.selector import json_search
from gomodel.selector.json_body import JsonScan, ending
from gomodel.selector.json_search import JsonSearch
from gomodel.selector.selector import VALUE_LIMIT_BYTES, Selector
from gomodel.selector.turns import SLICE_BYTES

from .test_json_body import DOCUMENTS, Pairs, cut, serialise

LONG = b'{"messages":[{"role":"user","content":"' + rb"She said: \"Hello.\"\n" * 2000 + b'"}],'
LAST = LONG + b'"model":"vllm/m","stream":true}'


class Shown:
    """What a search says of pieces, and how many of them it followed; `over`: it may first pass over those between."""

    def __init__(self, pieces: Iterable[bytes], *, over: bool = False) -> None:
        held: list[bytes] = []
        given = list(pieces)
        self.found: Selector | None = None
        search = JsonSearch()
        for at, piece in enumerate(given):
            held.append(piece)
            if over and 0 < at < len(given) - 1 and not search.paused and search.passes_over(piece):
                continue
            self.found = search.look(held, piece, last=at + 1 == len(given))
            while self.found is None and search.paused:
                self.found = search.go_on(held)
            if self.found is not None:
                break
        self.followed_bytes = search._followed_bytes
        if self.found is None:
            search.finish()


def in_pieces(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize("size", [1000, 30_000, 1 << 20])
@pytest.mark.parametrize(
    ("body", "followed"),
    [
        (LAST, False),
        (LONG + b'"model" : "vllm/m" } \n', False),
        (LONG + b'"a":{"b":[1,2]},"model":"vllm/m","tools":[{"c":"d"}],"e":null}', False),
        (b" {" + LONG[1:] + b'"model":"vllm/m"}', False),
        (LONG + b'"tools":{"model":1},"model":"vllm/m"}', True),
        (LONG + rb'"model":"vllm\/m"}', True),
        (LONG + rb'"mod\u0065l":"vllm/m"}', True),
        (LONG + rb'"\u006dodel":"vllm/m"}', True),
        (b"\xef\xbb\xbf" + LAST, True),
        (b'{"a":{"model":1},' + LONG[1:] + b'"model":"vllm/m"}', True),
        (LONG + b'"model":"vllm/m","a":"' + b"x" * (2 * SLICE_BYTES) + b'"}', True),
    ],
)
def test_what_stands_near_the_end_of_a_long_body_is_found_without_following_it(body, followed, size, over):
    shown = Shown(in_pieces(body, size), over=over)
    assert shown.found is not None
    assert shown.found.value == "vllm/m"
    raw = body[shown.found.start :]
    assert raw.startswith((b"vllm/m", rb"vllm\/m"))
    assert (shown.followed_bytes > 0) is followed


@pytest.mark.parametrize("over", [False, True])
def test_an_image_before_the_model_is_not_followed(over):
    body = b'{"image":"' + b"QUJD" * 300_000 + b'","model":"m"}'
    shown = Shown(in_pieces(body, 65536), over=over)
    assert shown.found == Selector("m", len(body) - 3, len(body) - 2, 0)
    assert shown.followed_bytes == 0


def test_a_selector_near_the_start_is_found_with_the_first_piece():
    body = b'{"model":"vllm/m",' + LONG[1:] + b'"a":1}'
    pieces = in_pieces(body, 20_000)
    assert JsonSearch().look([pieces[0]], pieces[0], last=False) == Selector("vllm/m", 10, 16, 5)


@pytest.mark.parametrize(
    "body",
    [
        LONG + b'"a":{"model":"vllm/m"}}',
        LONG + b'"a":[{"model":"vllm/m"}]}',
        LONG + b'"a":"model"}',
        LONG + b'"a":["model","b"]}',
        LONG[:-1] + b"}",
    ],
)
def test_what_is_not_the_bodys_own_is_no_selector(body):
    for size in (1000, 1 << 20):
        assert Shown(in_pieces(body, size)).found is None


@pytest.mark.parametrize(
    "body",
    [
        LONG + b'"model":"a","model":"b"}',
        b'{"model":"a",' + LONG[1:] + b'"model":"b"}',
        LONG + b'"model":"a","b":1',
        LONG + b'"model":"' + b"x" * (VALUE_LIMIT_BYTES + 1) + b'"}',
        LONG + b'"model":"\xff"}',
        b"[" + LONG + b'"model":"a"}]',
        b"{\x00" + LONG + b'"model":"a"}',
    ],
)
def test_what_is_refused_of_a_whole_body_is_refused(body):
    outcomes = []
    for pieces in ([body], in_pieces(body, 30_000)):
        try:
            outcomes.append(Shown(pieces).found)
        except InvalidBody:
            outcomes.append("refused")
    # Before its end a second one is not waited for, and a body that ends too soon has said whose it is.
    assert outcomes[0] == "refused" or body == LONG + b'"model":"a","b":1'
    assert outcomes[1] == "refused" or outcomes[1].value == "a"


def test_nothing_is_refused_before_it_is_clear_and_a_body_that_cannot_be_an_object_at_once():
    with pytest.raises(InvalidBody):
        JsonSearch().look([b"GET / "], b"GET / ", last=False)
    search, held = JsonSearch(), [b'{"a":', b"1,,"]
    assert search.look(held[:1], held[0], last=False) is None
    assert search.look(held, held[1], last=False) is None
    with pytest.raises(InvalidBody):
        Shown([*held, b'"model":"m"}'])


def test_a_long_body_that_must_be_followed_gives_way_after_each_piece():
    search, held, turns = JsonSearch(), in_pieces(b'{"b":{"model":1},' + LONG[1:] + b'"model":"m"}', 10_000), 0
    search.look(held[:1], held[0], last=False)
    found = search.look(held, held[-1], last=True)
    while found is None:
        assert search.paused
        found = search.go_on(held)
        turns += 1
    assert turns >= len(held) - 2
    assert found.value == "m"


@pytest.mark.parametrize("at", range(1, len(b'"model"')))
def test_a_name_that_is_cut_in_two_is_found_before_the_end(at):
    body = LONG + b'"model":"vllm/m",'
    middle = len(LONG) + at
    search, held = JsonSearch(), [body[:middle], body[middle:]]
    assert search.look(held[:1], held[0], last=False) is None
    found = search.look(held, held[1], last=False)
    while found is None and search.paused:
        found = search.go_on(held)
    assert found is not None
    assert (found.value, found.start) == ("vllm/m", len(LONG) + len(b'"model":"'))


@pytest.mark.parametrize(("body", "complete"), [(b"", True), (b'{"a":1}', True), (b'{"a":1', False), (LONG, False)])
def test_a_body_without_a_selector_has_to_be_complete(body, complete):
    search = JsonSearch()
    found = search.look([body], body, last=True)
    while found is None and search.paused:
        found = search.go_on([body])
    assert found is None
    if complete:
        search.finish()
    else:
        with pytest.raises(InvalidBody):
            search.finish()


def test_the_end_of_a_body_may_come_by_itself():
    search, held = JsonSearch(), [b'{"model":"m', b'"']
    assert search.look(held[:1], held[0], last=False) is None
    assert search.look(held, held[1], last=False) == Selector("m", 10, 11, 0)
    search = JsonSearch()
    assert search.look([b'{"a":1}'], b'{"a":1}', last=False) is None
    assert search.look([b'{"a":1}'], b"", last=True) is None
    search.finish()


@pytest.mark.parametrize(
    "tail", [b"", b'"model":"m"}', b'x"model":"m"}', rb'\"model":"m"}', b',"model":"m"', b',"model":1}']
)
def test_an_end_that_does_not_tell_tells_nothing(tail):
    assert ending(tail) is None


@settings(derandomize=True, database=None, deadline=None, max_examples=25)
@given(document=DOCUMENTS, seed=st.integers(0, 1 << 30))
def test_any_document_in_any_pieces_gives_what_a_scan_of_it_gives(document: Pairs, seed: int) -> None:
    dice = random.Random(seed)
    body = "".join(serialise(document, dice)).encode()
    before, json_search._LONG_BYTES = json_search._LONG_BYTES, 0
    try:
        in_pieces, whole = outcome([piece for piece in cut(body, dice) if piece], over=bool(seed & 1)), scanned(body)
        # A second model in bytes that are not there yet is not waited for.
        assert in_pieces == whole or (whole is InvalidBody and isinstance(in_pieces, Selector))
    finally:
        json_search._LONG_BYTES = before


def outcome(pieces: list[bytes], *, over: bool) -> Any:
    try:
        found = Shown(pieces, over=over).found
    except GatewayError as error:
        return type(error)
    return found


def scanned(body: bytes) -> Any:
    scan = JsonScan()
    try:
        found = scan.feed(body)
        while found is None and scan.paused:
            found = scan.feed(b"")
        if found is None:
            scan.finish()
    except GatewayError as error:
        return type(error)
    return found


@pytest.mark.parametrize("name", [b'"model"', rb'"\u006d\u006f\u0064\u0065\u006c"', rb'"mod\u0065l"'])
def test_no_name_is_passed_over_wherever_it_is_cut(name):
    before, behind = b'{"image":"' + b"QUJD" * 3000 + b'",', b':"vllm/m","a":"' + b"QUJD" * 100 + b'"}'
    for first in range(len(name) + 1):
        for second in range(first, len(name) + 1):
            pieces = [before[:20], before[20:] + name[:first], name[first:second], name[second:] + behind, b" "]
            shown = Shown(filter(None, pieces), over=True)
            assert shown.found is not None
            assert shown.found.value == "vllm/m"


def test_the_first_piece_is_not_passed_over():
    assert not JsonSearch().passes_over(b"QUJD" * 100)
