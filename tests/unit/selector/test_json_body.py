"""The selector of a JSON body: where it is found, what is refused, and that cutting its prefix changes nothing else."""

import json
import random
import tracemalloc
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gomodel.errors import GatewayError, InvalidBody, ModelRequired
from gomodel.selector.json_body import JsonScan, OneModel, usual
from gomodel.selector.selector import Selector, prefix_length, split

modest = settings(derandomize=True, deadline=None, database=None, max_examples=120)

Outcome = Selector | type[GatewayError] | None


def find(body: bytes) -> Selector | None:
    """As a whole body is read: at one look, or closely."""
    selector = usual(body)
    if selector is not None:
        assert selector == scanned(body)
        return selector
    return scanned(body)


def scanned(body: bytes) -> Selector | None:
    scan = JsonScan()
    selector = fed(scan, body)
    if selector is None:
        scan.finish()
    return selector


def fed(scan: JsonScan, piece: bytes) -> Selector | None:
    selector = scan.feed(piece)
    while scan.paused:
        selector = scan.feed(b"")
    return selector


def whole(body: bytes) -> Outcome:
    try:
        return find(body)
    except (InvalidBody, ModelRequired) as error:
        return type(error)


def pieced(pieces: list[bytes]) -> tuple[Outcome, int]:
    """What a JsonScan says of these pieces, and how many bytes it had been fed when it said so."""
    scan, length, outcome = JsonScan(), 0, None
    try:
        for piece in pieces:
            length += len(piece)
            outcome = fed(scan, piece)
            if outcome is not None:
                break
        scan.finish()
    except (InvalidBody, ModelRequired) as error:
        return type(error), length
    return outcome, length


def single_bytes(body: bytes) -> list[bytes]:
    """Of a long body those at its ends, and as many pieces of what lies between."""
    if len(body) > 4 * MANY:
        between = body[MANY:-MANY]
        return [*single_bytes(body[:MANY]), *pieces_of(between, len(between) // MANY), *single_bytes(body[-MANY:])]
    return pieces_of(body, 1)


def pieces_of(body: bytes, size: int) -> list[bytes]:
    return [body[at : at + size] for at in range(0, len(body), size)]


def found(body: bytes, value: str, raw: bytes | None = None) -> tuple[bytes, Selector]:
    raw = value.encode() if raw is None else raw
    start = body.index(b'"' + raw + b'"') + 1
    return body, Selector(value, start, start + len(raw), prefix_length(raw))


LONG = b"x" * 5000
DEEP = 100_000
MANY = 12_000

FOUND = {
    "model first": found(b'{"model":"vllm/a","stream":true}', "vllm/a"),
    "model last": found(b'{"messages":[{"role":"user","content":"hi"}],"model":"vllm/a"}', "vllm/a"),
    "odd whitespace": found(b' \t\r\n{ \n"a" \t:\r1 ,"model"\n\t: \r"vllm/a" } ', "vllm/a"),
    "first slash is not special here": found(b'{"model":"vllm/meta-llama/L"}', "vllm/meta-llama/L"),
    "scalars before": found(b'{"a":1,"b":-1.5e+10,"c":null,"d":true,"e":NaN,"f":-Infinity,"model":"m"}', "m"),
    "a number of a million digits": found(b'{"a":' + b"1" * 2**20 + b',"model":"m"}', "m"),
    "name escaped, lower case": found(rb'{"mod\u0065l":"m"}', "m"),
    "name escaped, upper case": found(rb'{"\u006D\u006F\u0064\u0065\u006C":"m"}', "m"),
    "name escaped after others": found(rb'{"a\\":1,"\u006D\u006f\u0064e\u006c" : "m"}', "m"),
    "solidus escaped": found(rb'{"model":"vllm\/x"}', "vllm/x", rb"vllm\/x"),
    "letters escaped": found(rb'{"model":"\u0076llm/x"}', "vllm/x", rb"\u0076llm/x"),
    "surrogate pair": found(rb'{"model":"\ud83d\ude00/x"}', "\U0001f600/x", rb"\ud83d\ude00/x"),
    "quote and backslash in the value": found(rb'{"model":"a\"\\"}', 'a"\\', rb"a\"\\"),
    "UTF-8 in the value": found('{"model":"vllm/é€"}'.encode(), "vllm/é€"),
    "as long as may be": found(b'{"model":"' + b"m" * 8192 + b'"}', "m" * 8192),
    "as long as may be, escaped": found(b'{"model":"' + rb"\u006d" * 8192 + b'"}', "m" * 8192, rb"\u006d" * 8192),
    "DEL in the value": found(b'{"model":"a\x7f"}', "a\x7f"),
    "BOM": found(b'\xef\xbb\xbf{"model":"m"}', "m"),
    "BOM and space": found(b'\xef\xbb\xbf \n{"model":"m"}', "m"),
    "nested model": found(b'{"a":{"model":"x"},"b":[{"model":"y"}],"model":"m"}', "m"),
    "model in a string": found(rb'{"a":"\",\"model\":\"x\"","model":"m"}', "m"),
    "model as a value": found(b'{"a":"model","model":"m"}', "m"),
    "similar names": found(b'{"models":1,"mode":2,"Model":3,"":4," model":5,"model ":6,"model":"m"}', "m"),
    "similar escaped name": found(rb'{"\\u006dodel":1,"mod\u0065m":2,"model":"m"}', "m"),
    "names longer than any cap": found(b'{"' + LONG + b'":1,"' + LONG + rb'\"":2,"model":"m"}', "m"),
    "brackets in strings": found(b'{"a":["}]",{"]":"["}],"b":"}{","model":"m"}', "m"),
    "brackets in escaped strings": found(rb'{"a":[["\"]","\\",{"\"}":"\\\"["}]],"model":"m"}', "m"),
    "runs of backslashes": found(b'{"a":"' + rb"\\" * 5000 + rb"\"" + rb"\\" * 17 + b'","model":"m"}', "m"),
    "five backslashes": found(rb'{"a":"\\\\\",","b":["\\\\\","],"model":"m"}', "m"),
    "quotes in a name": found(rb'{"a\":1,\"model\":\"x\",\"b":2,"model":"m"}', "m"),
    "long strings": found(b'{"a":"' + LONG + b'","b":[{"c":"' + LONG + rb"\"" + LONG + b'"}],"model":"m"}', "m"),
    "many escaped quotes": found(b'{"a":[{"b":"' + rb"\"" * 5000 + rb"\\\"" * 5000 + b'"}],"model":"m"}', "m"),
    "empty containers": found(b'{"a":{},"b":[],"c":[{},[[]]],"model":"m"}', "m"),
    "deeper than is unrolled": found(b'{"a":' + b'[{"x":"y","z":' * 9 + b"0" + b"}]" * 9 + b',"model":"m"}', "m"),
    "100 000 brackets": found(b'{"a":' + b"[" * DEEP + b"]" * DEEP + b',"model":"m"}', "m"),
    "100 000 objects": found(b'{"a":' + b'{"a":' * DEEP + b"0" + b"}" * DEEP + b',"model":"m"}', "m"),
    "second model nested after it": found(b'{"model":"m","a":{"model":"x"},"b":["model"],"c":"\\u006d"}', "m"),
    "second model after the object": found(b'{"model":"m"}{"model":"x"}', "m"),
    "second model after breakage": found(b'{"model":"m",,"model":"x"}', "m"),
    "broken after it": found(b'{"model":"m" oops', "m"),
    "cut after it": found(b'{"model":"m"', "m"),
}

REFUSED = {
    "space": (b" \n", InvalidBody),
    "BOM only": (b"\xef\xbb\xbf", InvalidBody),
    "half a BOM": (b"\xef\xbb", InvalidBody),
    "two BOMs": (b'\xef\xbb\xbf\xef\xbb\xbf{"model":"m"}', InvalidBody),
    "BOM after space": (b' \xef\xbb\xbf{"model":"m"}', InvalidBody),
    "array": (b'[{"model":"m"}]', InvalidBody),
    "string": (b'"model"', InvalidBody),
    "number": (b"1", InvalidBody),
    "null": (b"null", InvalidBody),
    "garbage": (b"model=m", InvalidBody),
    "form feed is not JSON's white space": (b'{\x0c"model":"m"}', InvalidBody),
    "UTF-16 LE": ('{"model":"m"}'.encode("utf-16-le"), InvalidBody),
    "UTF-16 BE": ('{"model":"m"}'.encode("utf-16-be"), InvalidBody),
    "UTF-16 BOM": ('{"model":"m"}'.encode("utf-16"), InvalidBody),
    "UTF-32 BOM": ('{"model":"m"}'.encode("utf-32"), InvalidBody),
    "brace only": (b"{", InvalidBody),
    "brackets only": (b'{"a":[[[', InvalidBody),
    "name not quoted": (b'{model:"m"}', InvalidBody),
    "single quotes": (b"{'model':'m'}", InvalidBody),
    "colon missing": (b'{"model" "m"}', InvalidBody),
    "colon missing before": (b'{"a" 1,"model":"m"}', InvalidBody),
    "comma missing": (b'{"a":1 "model":"m"}', InvalidBody),
    "comma missing after nesting": (b'{"a":[]"model":"m"}', InvalidBody),
    "comma first": (b'{,"model":"m"}', InvalidBody),
    "comma twice": (b'{"a":1,,"model":"m"}', InvalidBody),
    "comma last": (b'{"a":1,}', InvalidBody),
    "comma last after space": (b'{"a":[1] , }', InvalidBody),
    "value missing": (b'{"a":,"model":"m"}', InvalidBody),
    "value of model missing": (b'{"model":}', InvalidBody),
    "wrong closing bracket": (b'{"a":1]', InvalidBody),
    "trailing garbage without model": (b'{"a":1} x', InvalidBody),
    "cut in a name": (b'{"mod', InvalidBody),
    "cut before the colon": (b'{"model"', InvalidBody),
    "cut after the colon": (b'{"model":', InvalidBody),
    "cut in the value": (b'{"model":"vllm/', InvalidBody),
    "cut at an escaped quote": (rb'{"model":"vllm\"', InvalidBody),
    "cut in a number": (b'{"a":12', InvalidBody),
    "cut in a string": (b'{"a":"' + LONG, InvalidBody),
    "cut after a member": (b'{"a":1', InvalidBody),
    "too long": (b'{"model":"' + b"m" * 8193 + b'"}', InvalidBody),
    "too long by escapes": (b'{"model":"' + rb"\u006d" * 8193 + b'"}', InvalidBody),
    "invalid escape": (rb'{"model":"a\x62"}', InvalidBody),
    "short unicode escape": (rb'{"model":"\u12"}', InvalidBody),
    "raw control character": (b'{"model":"a\nb"}', InvalidBody),
    "the last control character": (b'{"model":"a\x1fb"}', InvalidBody),
    "NUL in the value": (b'{"model":"a\x00b"}', InvalidBody),
    "lone high surrogate": (rb'{"model":"\ud800/x"}', InvalidBody),
    "lone low surrogate": (rb'{"model":"\udc00/x"}', InvalidBody),
    "surrogates the wrong way round": (rb'{"model":"\ude00\ud83d"}', InvalidBody),
    "invalid UTF-8": (b'{"model":"vllm/\xff"}', InvalidBody),
    "overlong UTF-8 solidus": (b'{"model":"vllm\xc0\xafx"}', InvalidBody),
    "surrogate in UTF-8": (b'{"model":"\xed\xa0\x80"}', InvalidBody),
    "surrogate in UTF-8 beside an escape": (b'{"model":"\xed\xa0\xbd\\ude00"}', InvalidBody),
    "empty": (b'{"model":""}', ModelRequired),
    "null model": (b'{"model":null}', ModelRequired),
    "number model": (b'{"model":-1}', ModelRequired),
    "bool model": (b'{"model": true}', ModelRequired),
    "array model": (b'{"model":["m"]}', ModelRequired),
    "object model": (b'{"model":{"model":"m"}}', ModelRequired),
    "escaped name, null": (rb'{"mod\u0065l":null}', ModelRequired),
}

SECOND = {
    "at once": b'{"model":"a","model":"b"}',
    "the same": b'{"model":"a","model":"a"}',
    "far": b'{"model":"a","messages":[{"content":"' + LONG + rb'\""}],"n":1 , "model" :"b"}',
    "escaped": rb'{"model":"a","\u006Dodel":"b"}',
    "first escaped": rb'{"\u006Dodel":"a","model":"b"}',
    "value escaped": rb'{"model":"\u0061","model":"b"}',
    "not a string": b'{"model":"a","model":null}',
    "deep between": b'{"model":"a","x":' + b"[" * DEEP + b"]" * DEEP + b',"model":"b"}',
    "after a broken value": b'{"model":"a","x":nope,"model":"b"}',
    "value not there yet": b'{"model":"a","model":',
}

ABSENT = {
    "empty object": b"{}",
    "empty object with space": b" { \n} \n",
    "other members": b'{"a":1,"b":[{"model":"x"}],"c":{"model":"y"}}',
    "scalar last": b'{"a":[],"b":12 }',
    "string last": b'{"b":"' + LONG + b'"}\n',
}


def table(cases: dict[str, Any]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases.values(), ids=cases.keys())


@table(FOUND)
def test_the_top_level_model_is_found_with_its_offsets(case: tuple[bytes, Selector]) -> None:
    body, selector = case
    assert whole(body) == selector
    assert whole(body + b' \n,"tail":[') == selector
    assert pieced([body]) == (selector, len(body))
    assert pieced([b"", body[:1], b"", body[1:]])[0] == selector


@table(FOUND)
def test_byte_by_byte_it_is_found_at_its_closing_quote(case: tuple[bytes, Selector]) -> None:
    body, selector = case
    assert pieced(single_bytes(body)) == (selector, selector.end + 1)


@table(REFUSED)
def test_a_body_without_a_clear_selector_is_refused(case: tuple[bytes, type[GatewayError]]) -> None:
    body, refusal = case
    assert whole(body) is refusal
    assert pieced([body])[0] is refusal
    assert pieced(single_bytes(body))[0] is refusal


@table(SECOND)
def test_a_second_top_level_model_in_what_is_held_is_refused(case: bytes) -> None:
    assert whole(case) is InvalidBody
    assert pieced([case])[0] is InvalidBody
    assert pieced([case[:9], case[9:]])[0] is InvalidBody
    with pytest.raises(InvalidBody, match="second top-level"):
        find(case)


@table(SECOND)
def test_a_second_model_that_has_not_arrived_is_not_waited_for(case: bytes) -> None:
    first = pieced(single_bytes(case))[0]
    assert isinstance(first, Selector)
    assert first.value == "a"


@table(ABSENT)
def test_an_object_without_model_is_no_error(case: bytes) -> None:
    assert whole(case) is None
    assert pieced([case]) == (None, len(case))
    assert pieced(single_bytes(case))[0] is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_another_unicode_encoding_is_named_as_the_reason(encoding: str) -> None:
    with pytest.raises(InvalidBody, match="send UTF-8"):
        find('{"model":"vllm/m"}'.encode(encoding))


@pytest.mark.parametrize("at", [0, 1, 5, 40_000])
def test_a_nul_byte_is_named_with_its_place(at: int) -> None:
    start = b'{"a":' + b" " * 40_000
    with pytest.raises(InvalidBody, match=rf"NUL byte at offset {at}:"):
        find(start[:at] + b"\0" + start[at:])


@pytest.mark.parametrize("control", ["\x00", "\n", "\x1f"])
def test_a_control_character_in_the_value_is_named(control: str) -> None:
    with pytest.raises(InvalidBody, match=f"byte {ord(control):#04x}, which JSON"):
        find(b'{"model":"a' + control.encode() + b'b"}')


def followed(pieces: list[bytes]) -> type[GatewayError] | None:
    """What a OneModel says of a body in these pieces."""
    scan = OneModel()
    try:
        for piece in pieces:
            scan.feed(piece)
            while scan.paused:
                scan.feed(b"")
        scan.finish()
    except InvalidBody as error:
        return type(error)
    return None


BROKEN_BEHIND = {"second model after the object", "second model after breakage", "broken after it", "cut after it"}
FOLLOWED = {
    **{name: (body, InvalidBody if name in BROKEN_BEHIND else None) for name, (body, _) in FOUND.items()},
    **{f"second, {name}": (body, InvalidBody) for name, body in SECOND.items()},
    **{f"none, {name}": (body, None) for name, body in ABSENT.items()},
    "nothing": (b"", InvalidBody),
    "no object": (b"[]", InvalidBody),
    "a value without end": (b'{"model":"m","a":"', InvalidBody),
    "space behind the end": (b'{"model":"m"} \n', None),
    "a byte behind the end": (b'{"model":"m"} x', InvalidBody),
}


@pytest.mark.parametrize(("body", "expected"), FOLLOWED.values(), ids=FOLLOWED.keys())
def test_a_body_that_is_read_to_its_end_is_one_object_with_one_model_at_most(
    body: bytes, expected: type[GatewayError] | None
) -> None:
    assert followed([body]) is expected
    if len(body) < 50_000:
        assert followed(single_bytes(body)) is expected


def test_a_name_without_end_in_it_ends_the_search_before_it_fills_memory() -> None:
    name, behind = b"n" * (64 << 10), b'":1,"model":"m"}'
    assert followed([b'{"', name[:-40], behind]) is None
    assert followed([b'{"', name, behind]) is InvalidBody
    assert followed([b'{"' + name + behind]) is None
    assert followed([b'{"a":"', name, name, b'","model":"m"}']) is None


def test_an_empty_body_has_no_selector_and_is_no_error() -> None:
    assert pieced([]) == (None, 0)
    assert pieced([b"", b""]) == (None, 0)
    assert pieced([b" ", b""]) == (InvalidBody, 1)


@pytest.mark.parametrize("piece", [b'"a":"' + b"x" * 60_000 + b'",', b'"":[1,{"b":2}],' * 4000, b" " * 60_000])
def test_little_is_held_of_what_stands_before_the_model(piece: bytes) -> None:
    scan = JsonScan()
    fed(scan, b"{")
    tracemalloc.start()
    try:
        for _ in range(16):
            fed(scan, piece)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(piece)
    assert held < 8192
    start = 1 + 16 * len(piece) + len(b'"model":"')
    assert fed(scan, b'"model":"vllm/m"}') == Selector("vllm/m", start, start + 6, 5)


@pytest.mark.parametrize("size", [1, 7, 5000])
def test_an_unexpected_byte_is_named_by_its_offset_in_the_body(size: int) -> None:
    body = b'{"a":"' + b"x" * 9000 + b'",?'
    scan = JsonScan()
    with pytest.raises(InvalidBody, match=f"unexpected byte at offset {len(body) - 1}"):
        deque((fed(scan, body[at : at + size]) for at in range(0, len(body), size)), maxlen=0)


def test_messages_hold_nothing_of_the_body() -> None:
    with pytest.raises(InvalidBody) as caught:
        find(b'{"a": "secret", "b": secret!')
    assert "secret" not in caught.value.message


# Whitespace, escapes and member order are drawn from a seed, so that hypothesis spends its effort on the document.
ALPHABET = st.sampled_from('model"\\/{}[]:, \n\té€\U0001f600\x7fx0u')
NAMES = st.sampled_from(["model", "mode", "models", "", "a", "\\model", 'mo"del', "\\u006dodel", "k" * 70]) | st.text(
    ALPHABET, max_size=8
)
TEXTS = st.text(ALPHABET, max_size=20) | st.sampled_from(["vllm/m", "\\" * 5, "t" * 2100, '\\"' * 70, "[" * 9])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS


class Pairs(list[tuple[str, Any]]):
    """An object as its members in order, which may repeat a name."""


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Pairs]:
    return st.lists(st.tuples(NAMES, values), max_size=5).map(Pairs)


VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | objects(inner), max_leaves=12)
DOCUMENTS = st.builds(
    lambda before, model, after: Pairs([*before, *(("model", value) for value in model), *after]),
    objects(VALUES),
    st.lists(TEXTS | VALUES, max_size=2) | st.lists(TEXTS, min_size=1, max_size=1),
    objects(VALUES),
)


def serialise(document: Any, dice: random.Random) -> Iterator[str]:
    space = "".join(dice.choices(" \t\r\n", k=dice.choice((0, 0, 0, 1, 3))))
    yield space
    if isinstance(document, Pairs):
        yield "{"
        for at, (name, value) in enumerate(document):
            yield "," * bool(at) + space
            yield written(name, dice) + space + ":"
            yield from serialise(value, dice)
        yield space + "}"
    elif isinstance(document, list):
        yield "["
        for at, value in enumerate(document):
            yield "," * bool(at)
            yield from serialise(value, dice)
        yield space + "]"
    else:
        yield written(document, dice) if isinstance(document, str) else json.dumps(document)
    yield space


def written(text: str, dice: random.Random) -> str:
    """A JSON string in which any character may be escaped in any way that means the same."""
    share = dice.choice((0.0, 0.0, 0.1, 0.9))
    return '"' + "".join(escaped(character, dice, share) for character in text) + '"'


def escaped(character: str, dice: random.Random, share: float) -> str:
    must = character < " " or character in '"\\'
    if not must and dice.random() >= share:
        return character
    short = {'"': '\\"', "\\": "\\\\", "/": "\\/", "\n": "\\n", "\t": "\\t"}.get(character)
    if short and dice.random() < 0.7:
        return short
    units = character.encode("utf-16-be").hex()
    units = units.upper() if dice.random() < 0.5 else units
    return "".join("\\u" + units[at : at + 4] for at in range(0, len(units), 4))


def cut(body: bytes, dice: random.Random) -> list[bytes]:
    marks = sorted(dice.choices(range(len(body) + 1), k=dice.choice((0, 1, 2, 5, len(body)))))
    return [body[low:high] for low, high in zip([0, *marks], [*marks, len(body)], strict=True)]


def truth(body: bytes) -> tuple[Any, int]:
    """The first top-level `model` according to json, and how many there are."""
    members = json.loads(body, object_pairs_hook=Pairs)
    models = [value for name, value in members if name == "model"]
    return (models[0] if models else None), len(models)


@modest
@given(document=DOCUMENTS, seed=st.integers(0, 2**32))
@example(document=Pairs([("model", "vllm/m")]), seed=0)
def test_any_document_in_any_pieces_gives_what_json_gives(document: Pairs, seed: int) -> None:
    dice = random.Random(seed)
    body = dice.choice((b"", b"", b"\xef\xbb\xbf")) + "".join(serialise(document, dice)).encode()
    model, count = truth(body)
    outcome = whole(body)
    in_pieces, length = pieced(cut(body, dice))
    assert outcome == pieced([body])[0]
    if count == 0:
        assert outcome is None
        assert in_pieces is None
    elif not isinstance(model, str) or not model:
        assert outcome is in_pieces is ModelRequired
    else:
        assert outcome is InvalidBody if count > 1 else isinstance(outcome, Selector)
        first = outcome if isinstance(outcome, Selector) else pieced(single_bytes(body))[0]
        assert isinstance(first, Selector)
        assert first.value == model
        assert json.loads(body[first.start - 1 : first.end + 1]) == model
        assert in_pieces == pieced([body[:length]])[0]
        assert_only_the_prefix_goes(body, first)


def assert_only_the_prefix_goes(body: bytes, selector: Selector) -> None:
    length = selector.prefix_bytes
    assert (length > 0) == ("/" in selector.value)
    shortened = body[: selector.start] + body[selector.start + length :]
    before = json.loads(body, object_pairs_hook=Pairs)
    after = json.loads(shortened, object_pairs_hook=Pairs)
    at = next(at for at, (name, _) in enumerate(before) if name == "model")
    parts = split(selector.value)
    before[at] = ("model", parts[1] if parts else selector.value)
    assert repr(after) == repr(before)  # by repr, since a NaN is not equal to itself


BROKEN = st.one_of(
    st.binary(max_size=60),
    st.lists(
        st.sampled_from(
            [b'"model"', b'"model":"m"', b'"', b'"a"', b":", b",", b"{", b"}", b"[", b"]", b"\\", b'\\"', b"\\u006d",
             b"1", b"null", b" ", b"\n", b"\x00", b"\xef\xbb\xbf", b"\xff", b"/", b"odel", b"x" * 2100]
        ),
        max_size=30,
    ).map(lambda tokens: b"{" + b"".join(tokens)),
)  # fmt: skip


def assert_one_outcome(body: bytes, dice: random.Random) -> None:
    """Pieces never change what is said of the bytes they hold; later bytes may only add a second `model`."""
    outcome = whole(body)
    assert pieced([body])[0] == outcome
    in_pieces, length = pieced(cut(body, dice))
    assert in_pieces == pieced([body[:length]])[0]
    if in_pieces != outcome:
        assert isinstance(in_pieces, Selector)
        assert outcome is InvalidBody
        assert in_pieces == pieced(single_bytes(body))[0]


@settings(modest, max_examples=600)
@given(body=BROKEN, seed=st.integers(0, 2**32))
def test_any_bytes_in_any_pieces_give_one_outcome(body: bytes, seed: int) -> None:
    assert_one_outcome(body, random.Random(seed))


@settings(modest, max_examples=150)
@given(document=DOCUMENTS, seed=st.integers(0, 2**32))
def test_a_document_with_a_byte_changed_or_cut_gives_one_outcome(document: Pairs, seed: int) -> None:
    dice = random.Random(seed)
    body = bytearray("".join(serialise(document, dice)).encode())
    at = dice.randrange(len(body))
    if dice.random() < 0.5:
        body[at] = dice.choice(b'"\\{}[]:,m \x00')
    else:
        del body[at:]
    assert_one_outcome(bytes(body), dice)
