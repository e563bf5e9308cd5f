"""What one look tells of a JSON body: at its beginning, at its end, and whether a piece may name the model at all."""

import pytest

from gomodel.errors import InvalidBody
from gomodel.selector.json_body import JsonScan, ending, names_model, usual
from gomodel.selector.selector import VALUE_LIMIT_BYTES, Selector
from gomodel.selector.turns import SLICE_BYTES

MOST = b"m" * VALUE_LIMIT_BYTES
FAR = b'{"a":"' + b"x" * 4096 + b'",'


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b'{"model":"vllm/org/m"}', Selector("vllm/org/m", 10, 20, 5)),
        (b'\xef\xbb\xbf {"a":[1,{"b":2}], "model" : "m","c":1}', Selector("m", 33, 34, 0)),
        (b'{"model":"' + MOST + b'"}', Selector(MOST.decode(), 10, 10 + VALUE_LIMIT_BYTES, 0)),
        (b'{"model":"m","a":"models"}', Selector("m", 10, 11, 0)),
        # All of these want a closer look.
        (b'{"model":"' + MOST + b'm"}', None),
        (b'{"model":"m","a":{"model":"x"}}', None),
        (rb'{"model":"m","\u006dodel":"x"}', None),
        (rb'{"model":"\u006d"}', None),
        (b'{"a":{"model":"x"}}', None),
        (b'{"model":1}', None),
        (FAR + b'"model":"m"}', None),
        (b"", None),
    ],
)
def test_most_bodies_are_known_by_how_they_begin(body: bytes, found: Selector | None) -> None:
    assert usual(body) == found


@pytest.mark.parametrize(
    ("tail", "found"),
    [
        (b'{"model":"m"}', Selector("m", 10, 11, 0)),
        (b'1,"model":"vllm/org/m"}', Selector("vllm/org/m", 11, 21, 5)),
        (b'x", "model" : "m" , "n":1 } \n', Selector("m", 15, 16, 0)),
        (b',"model":"m","a":1,"b":[{"c":"}"}]}', Selector("m", 10, 11, 0)),
        (b',"model":"' + MOST + b'"}', Selector(MOST.decode(), 10, 10 + VALUE_LIMIT_BYTES, 0)),
        (b',"model":"m"' + b" " * (SLICE_BYTES - 12) + b"}", Selector("m", 10, 11, 0)),
        (b',"model":"m"' + b" " * (SLICE_BYTES - 11) + b"}", None),
        (b',"model":"' + MOST + b'm"}', None),
        (b',"model":"m"}}', None),
        (b',"model":"m","a":1', None),
        (b',"model":"x"},"model":"m"}', None),  # named twice, so one may be another object's
        (rb'"\u006dodel":"x","model":"m"}', None),
        (rb',"model":"m","\u006dodel":"x"}', None),
        (rb',"model":"m","a":"\u0061"}', None),
        (rb',"model":"\u006d"}', None),
        (b'"model":"m"}', None),  # what stands before its quote is not here
    ],
)
def test_a_body_named_in_its_end_alone_is_known_by_what_follows(tail: bytes, found: Selector | None) -> None:
    assert ending(tail) == found


@pytest.mark.parametrize(
    ("piece", "may"),
    [
        (b'"model"', True),
        (b'{"a":1,"model":', True),
        (rb"\u006d", True),
        (rb"a\u006D\u006f", True),
        (b"", False),
        (b'"models" "mode"', False),
        (b"model", False),
        (rb"\u0070\u0026", False),
        (b"QUJD" * 20 + rb"\u006d", False),  # no quote before it, nor behind it in the next piece
        (b"QUJD" * 20 + rb'"mod\u0065l', True),
    ],
)
def test_a_piece_may_name_the_model_where_its_name_stands_or_one_of_its_letters_is_escaped(
    piece: bytes, may: bool
) -> None:
    assert names_model(piece) is may


def test_a_byte_that_can_begin_no_value_is_named_by_its_place() -> None:
    with pytest.raises(InvalidBody, match=r"unexpected byte at offset 9\."):
        JsonScan().feed(b'{"model":}')
