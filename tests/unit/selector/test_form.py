"""The selector of a form body: which part is the field, where its value stands, and how little is held meanwhile."""

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gomodel.errors import GatewayError, InvalidBody, ModelRequired
from gomodel.selector.form import HEADERS_LIMIT_BYTES, PARTS_LIMIT, MultipartScan
from gomodel.selector.form_headers import boundary
from gomodel.selector.selector import VALUE_LIMIT_BYTES, Selector

modest = settings(derandomize=True, deadline=None, database=None, max_examples=200)

Outcome = Selector | type[GatewayError] | None

BOUNDARY = b"----b0undary"


def fed(scan: MultipartScan, piece: bytes) -> Selector | None:
    found = scan.feed(piece)
    while scan.paused:
        found = scan.feed(b"")
    return found


def scanned(pieces: list[bytes], boundary: bytes = BOUNDARY) -> Outcome:
    scan = MultipartScan(boundary)
    try:
        for piece in pieces:
            if found := fed(scan, piece):
                scan.finish()
                return found
        scan.finish()
    except (InvalidBody, ModelRequired) as error:
        return type(error)
    return None


def every_way(body: bytes, boundary: bytes = BOUNDARY) -> Outcome:
    """Whole, byte by byte, and in two pieces cut anywhere, which must all agree."""
    outcome = scanned([body], boundary)
    assert scanned([body[at : at + 1] for at in range(len(body))], boundary) == outcome
    for at in range(0, len(body), 1 + len(body) // 500):
        assert scanned([body[:at], b"", body[at:]], boundary) == outcome
    return outcome


def part(headers: bytes, content: bytes, padding: bytes = b"", boundary: bytes = BOUNDARY) -> bytes:
    return b"--" + boundary + padding + b"\r\n" + headers + b"\r\n\r\n" + content + b"\r\n"


def field(content: bytes, disposition: bytes = b'form-data; name="model"') -> bytes:
    return part(b"Content-Disposition: " + disposition, content)


FILE = part(
    b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav',
    b"RIFF\r\n--\r\n----b0undar\r\n------b0undar\r\n\r\n\x00\xff------b0undary\r\n------b0undary-\n",
)
LANGUAGE = field(b"de", b'form-data; name="language"')
END = b"--" + BOUNDARY + b"--"
MODEL = field(b"vllm/m")

FOUND = {
    "alone": MODEL + END,
    "first": MODEL + FILE + END,
    "last": FILE + LANGUAGE + MODEL + END + b"\r\n",
    "headers too long behind it": MODEL + part(b"X: " + b"x" * 2 * HEADERS_LIMIT_BYTES, b"") + END,
    "another follows at once": MODEL + FILE,
    "preamble of line breaks": b"\r\n\r\n" + MODEL + END,
    "first line like a delimiter": b"------b0undaryX\r\n------b0undary-\r\n" + MODEL + END,
    "epilogue": MODEL + END + b"\r\nepilogue",
    "padding": part(b"Content-Disposition: form-data; name=model", b"vllm/m", b" \t" * 100) + END,
    "part without headers": part(b"", b"x").replace(b"\r\n\r\n\r\n", b"\r\n\r\n") + MODEL + END,
    "part without content": part(b"X: y", b"") + MODEL + END,
    "part without anything": part(b"", b"").replace(b"\r\n\r\n\r\n", b"\r\n\r\n") + MODEL + END,
    "content that begins with a delimiter": part(b"X: y", END + b"\r\nx") + MODEL + END,
    "token": field(b"vllm/m", b"form-data; name=model") + END,
    "any case": part(b'cOnTeNt-dIsPoSiTiOn:form-data;NAME="model"', b"vllm/m") + END,
    "spaces": part(b'Content-Disposition : \t form-data ;\t name = "model" ', b"vllm/m") + END,
    "folded": part(b'Content-Disposition: form-data;\r\n\t name="model"', b"vllm/m") + END,
    "other parameters": field(b"vllm/m", b'form-data; x="; name=y"; name="model"; y=z') + END,
    "other headers": part(b'A: b\r\nContent-Disposition: form-data; name="model"\r\nC: d', b"vllm/m") + END,
    "the last of two headers": part(
        b'Content-Disposition: form-data; name="file"\r\nContent-Disposition: form-data; name="model"', b"vllm/m"
    )
    + END,
    "extended name ignored": field(b"vllm/m", b"form-data; name=\"model\"; name*=utf-8''file") + END,
    "extended file name ignored": field(b"vllm/m", b"form-data; name=\"model\"; filename*=utf-8''m") + END,
    "a file named model before": field(b"x", b'form-data; name="model"; filename="x"') + MODEL + END,
    "headers at their limit": part(b"X: " + b"x" * (HEADERS_LIMIT_BYTES - 5), b"") + MODEL + END,
}

NONE = {
    "no part": END,
    "other parts": FILE + LANGUAGE + END + b"\r\n",
    "another name": field(b"m", b'form-data; name="models"') + END,
    "name in another case": field(b"m", b'form-data; name="Model"') + END,
    "file": field(b"m", b'form-data; name="model"; filename="m.txt"') + END,
    "file with an empty name": field(b"m", b'form-data; FileName=""; name="model"') + END,
    "only an extended name": field(b"m", b"form-data; name*=utf-8''model") + END,
    "inside a quoted string": field(b"m", b'form-data; x="; name=model"') + END,
    "another backslash": field(b"m", rb'form-data; name="mo\del"') + END,
    "no name": field(b"m", b"form-data") + END,
    "no headers": part(b"", b"model") + END,
    "header of another name": part(b'X-Content-Disposition: form-data; name="model"', b"m") + END,
    "in the epilogue": END + b"\r\n" + MODEL + END,
    "in a file": part(b'Content-Disposition: form-data; name="file"; filename="x"', MODEL.replace(b"--", b"-")) + END,
}

REFUSED = {
    "nothing": (b"", InvalidBody),
    "not multipart": (b"model=vllm/m", InvalidBody),
    "another boundary": (MODEL.replace(b"b0undary", b"boundary"), InvalidBody),
    "bare line feeds": ((MODEL + END).replace(b"\r\n", b"\n"), InvalidBody),
    "bare carriage returns": ((MODEL + END).replace(b"\r\n", b"\r"), InvalidBody),
    "preamble": (b"This is a message in MIME format.\r\n\r\n" + MODEL + END, InvalidBody),
    "preamble of a bare line feed": (b"\n" + MODEL + END, InvalidBody),
    "preamble of a bare carriage return": (b"\r" + MODEL + END, InvalidBody),
    "preamble of a line break and words": (b"\r\nx" + MODEL + END, InvalidBody),
    "delimiter in the middle of a line": (b"x" + MODEL, InvalidBody),
    "too much padding": (b"--" + BOUNDARY + b" " * 256 + b"\r\n", InvalidBody),
    "cut in a file": (FILE[:-20], InvalidBody),
    "cut in the headers": (MODEL[:30], InvalidBody),
    "cut in the value": (MODEL[:-4], InvalidBody),
    "cut before the delimiter": (MODEL, InvalidBody),
    "cut in the delimiter": (MODEL + END[:-2], InvalidBody),
    "closing delimiter cut": (LANGUAGE + END[:-1], InvalidBody),
    "empty": (field(b"") + END, ModelRequired),
    "without a line break before the delimiter": (MODEL[: MODEL.index(b"vllm")] + END, InvalidBody),
    "not UTF-8": (field(b"vllm/\xff") + END, InvalidBody),
    "too long": (field(b"m" * (VALUE_LIMIT_BYTES + 1)) + END, InvalidBody),
    "far too long": (field(b"m" * 2 * VALUE_LIMIT_BYTES), InvalidBody),
    "headers too long": (part(b"X: " + b"x" * (HEADERS_LIMIT_BYTES - 4), b"") + MODEL + END, InvalidBody),
    "headers without end": (b"--" + BOUNDARY + b"\r\n" + b"x" * 2 * HEADERS_LIMIT_BYTES, InvalidBody),
}


@pytest.mark.parametrize("body", FOUND.values(), ids=FOUND.keys())
def test_the_field_is_found_with_its_offsets(body: bytes) -> None:
    start = body.index(b"vllm/m")
    assert every_way(body) == Selector("vllm/m", start, start + 6, 5)


@pytest.mark.parametrize("body", NONE.values(), ids=NONE.keys())
def test_a_form_without_the_field_is_no_error(body: bytes) -> None:
    assert every_way(body) is None


@pytest.mark.parametrize(("body", "refusal"), REFUSED.values(), ids=REFUSED.keys())
def test_a_broken_form_is_refused(body: bytes, refusal: type[GatewayError]) -> None:
    assert every_way(body) is refusal


SECOND = {
    "at once": MODEL + field(b"other") + END,
    "the same": MODEL + MODEL + END,
    "behind a file": MODEL + FILE + field(b"other") + END,
    "written otherwise": MODEL + field(b"x", b"form-data; x; NAME=model") + END,
    "without its value": MODEL + field(b""),
    "empty": MODEL + field(b"") + END,
}


@pytest.mark.parametrize("body", SECOND.values(), ids=SECOND.keys())
def test_a_second_field_in_what_has_arrived_is_refused(body: bytes) -> None:
    scan = MultipartScan(BOUNDARY)
    with pytest.raises(InvalidBody, match="second field"):
        fed(scan, body)
    assert scanned([body[:9], body[9:]]) is InvalidBody


@pytest.mark.parametrize("body", SECOND.values(), ids=SECOND.keys())
def test_a_second_field_that_has_not_arrived_is_not_waited_for(body: bytes) -> None:
    first = scanned([body[at : at + 1] for at in range(len(body))])
    assert isinstance(first, Selector)
    assert first.value == "vllm/m"


@pytest.mark.parametrize(
    "value", ["vllm/é€\U0001f600", " m ", "a\r\nb", "\r\n", "\r\n--", "m" * VALUE_LIMIT_BYTES, '"m"', r"a\u002fb/c"]
)
def test_a_value_is_taken_as_it_stands(value: str) -> None:
    raw = value.encode()
    body = FILE + field(raw) + END
    start = len(FILE) + len(field(b"")) - 2
    assert every_way(body) == Selector(value, start, start + len(raw), raw.find(b"/") + 1)


def test_the_field_is_found_when_its_delimiter_line_ends() -> None:
    scan = MultipartScan(BOUNDARY)
    assert scan.feed(MODEL + END[:-2]) is None
    assert scan.feed(b"-") is None
    assert scan.feed(b"-") is not None


def followed(pieces: list[bytes]) -> tuple[Outcome, int]:
    """What a scan that reads a form to its end says of it, and how many pieces it took to find the field."""
    scan, outcome, said = MultipartScan(BOUNDARY, whole=True), None, 0
    try:
        for at, piece in enumerate(pieces):
            if found := fed(scan, piece):
                assert outcome is None
                outcome, said = found, at + 1
        scan.finish()
    except (InvalidBody, ModelRequired) as error:
        return type(error), 0
    return outcome, said


FIELD = Selector("vllm/m", MODEL.index(b"vllm"), MODEL.index(b"vllm") + 6, 5)
FOLLOWED: dict[str, tuple[bytes, Outcome]] = {
    "the field alone": (MODEL + END, FIELD),
    "line breaks behind the end": (MODEL + END + b"\r\n\n\r", FIELD),
    "a file behind the field": (MODEL + FILE + END, FIELD),
    "no field": (FILE + END, None),
    "a byte behind the end": (MODEL + END + b"\r\nx", InvalidBody),
    "a field behind the end": (MODEL + END + b"\r\n" + MODEL + END, InvalidBody),
    "a byte behind the end of no field": (FILE + END + b"x", InvalidBody),
    "no end": (MODEL + FILE, InvalidBody),
    "a second field": (MODEL + FILE + MODEL + END, InvalidBody),
    "headers too long behind the field": (MODEL + part(b"X: " + b"x" * HEADERS_LIMIT_BYTES, b"") + END, InvalidBody),
}


@pytest.mark.parametrize(("body", "expected"), FOLLOWED.values(), ids=FOLLOWED.keys())
def test_a_form_that_is_read_to_its_end_is_found_there_and_nothing_may_follow(body: bytes, expected: Outcome) -> None:
    assert followed([body])[0] == expected
    outcome, said = followed([body[at : at + 1] for at in range(len(body))])
    assert outcome == expected
    if isinstance(expected, Selector):
        assert said == body.rindex(END) + len(END)
    for at in range(0, len(body), 1 + len(body) // 500):
        assert followed([body[:at], body[at:]])[0] == expected


def test_so_many_parts_may_stand_before_the_field_and_any_number_behind() -> None:
    start = len(LANGUAGE) * (PARTS_LIMIT - 1) + MODEL.index(b"vllm/m")
    body = LANGUAGE * (PARTS_LIMIT - 1) + MODEL + LANGUAGE * PARTS_LIMIT + END
    assert scanned([body]) == Selector("vllm/m", start, start + 6, 5)
    assert scanned([LANGUAGE + body]) is InvalidBody


def test_what_follows_the_field_goes_unread() -> None:
    scan = MultipartScan(BOUNDARY)
    assert fed(scan, MODEL + LANGUAGE) is not None
    assert scan.feed(field(b"other") + b"garbage") is None
    scan.finish()


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        (b"multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; boundary="abc"', b"abc"),
        ('Multipart/Form-Data;charset=utf-8 ; BOUNDARY="a b"; x=y', b"a b"),
        (r'multipart/form-data; boundary="a\b"', None),
        ("multipart/form-data; x; boundary=a", b"a"),
        ('multipart/form-data; charset="UTF-8"; boundary=a', b"a"),
        ("multipart/form-data; charset=utf-16; boundary=a", None),
        ("multipart/form-data; charset=utf-7; charset=utf-8; boundary=a", None),
        (
            "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
        ("multipart/form-data; boundary='()+_,-./:=?'", b"'()+_,-./:=?'"),
        ('multipart/form-data; x="; boundary=no"; boundary=yes', b"yes"),
        ("multipart/form-data; boundary=a;", b"a"),
        ("multipart/form-data; boundary=" + "a" * 70, b"a" * 70),
        ("multipart/form-data; boundary=" + "a" * 71, None),
        ("multipart/form-data", None),
        ("multipart/form-data; boundary", None),
        ("multipart/form-data; boundary=", None),
        ('multipart/form-data; boundary=""', None),
        ('multipart/form-data; boundary="a ', None),
        ('multipart/form-data; boundary="a "', None),
        ('multipart/form-data; boundary="a\r\nb"', None),
        ("multipart/form-data; boundary=a b", None),
        ("multipart/form-data; boundary=a; boundary=b", None),
        ("multipart/form-data; boundary=é", None),
        ("multipart/form-data; boundary=\udcff", None),
        (b"multipart/form-data; boundary=\xff", None),
        ("multipart/form-data; boundary*=utf-8''a", None),
        ("multipart/form-data; boundary=a" + "; x=y" * 300, None),
        ("multipart/form-data; boundary=a" + ";x" * 98, b"a"),
        ("multipart/form-data; boundary=a" + ";x" * 99, None),
        ('multipart/form-data; boundary="', None),
        ('multipart/form-data; boundary=a"', None),
        ('multipart/form-data; boundary="a";charset=""', None),
        ("boundary=a", None),
        ("", None),
    ],
)
def test_a_boundary_is_read_from_the_content_type(content_type: str | bytes, expected: bytes | None) -> None:
    if expected is None:
        with pytest.raises(InvalidBody):
            boundary(content_type)
    else:
        assert boundary(content_type) == expected


@pytest.mark.parametrize(
    "piece", [b"x" * 65536, b"\r\n--" * 16384, b"\r\n------b0undaryX" * 4096], ids=["x", "--", "b"]
)
def test_a_file_of_any_size_is_not_held(piece: bytes) -> None:
    scan = MultipartScan(BOUNDARY)
    scan.feed(FILE[:-2])
    tracemalloc.start()
    try:
        for _ in range(16):
            fed(scan, piece)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(piece)
    assert held < 4096
    assert scan.feed(b"\r\n" + MODEL + END) == Selector("vllm/m", *offsets(len(FILE) - 2 + 16 * len(piece) + 2), 5)


def offsets(of_the_field: int) -> tuple[int, int]:
    start = of_the_field + MODEL.index(b"vllm/m")
    return start, start + 6


BCHARS = "0123456789abcXYZ'()+_,-./:=? "
BOUNDARIES = st.text(BCHARS, min_size=1, max_size=70).filter(lambda text: not text.endswith(" ")).map(str.encode)
SCRAPS = st.sampled_from(
    [b"\r\n", b"\r", b"\n", b"--", b"-", b"x", b"\x00\xff", b'name="model"', b"\r\n\r\n", b"/", b"BOUNDARY"]
)
CONTENTS = st.lists(SCRAPS, max_size=8).map(b"".join) | st.binary(max_size=30)
NAMES = st.sampled_from(["model", "file", "Model", "model ", 'mo"del', "mo\\del", "", "; name=model", "é"])


@st.composite
def forms(draw: st.DrawFn) -> tuple[bytes, bytes, Outcome, bool]:
    """A boundary, a well-formed body, what must be said of its first field, and whether there is a second."""
    mark = draw(BOUNDARIES)
    line = b"\r\n--" + mark
    body = draw(st.sampled_from([b"", b"\r\n", b"\r\n\r\n"]))
    outcome: Outcome = None
    second = False
    for _ in range(draw(st.integers(0, 4))):
        name, is_file = draw(NAMES), draw(st.booleans())
        quoted = name.replace("\\", "\\\\").replace('"', '\\"').encode()
        content = draw(CONTENTS).replace(b"BOUNDARY", mark)
        while line in b"\r\n" + content:
            content = (b"\r\n" + content).replace(line, b"")
        body += b"--" + mark + draw(st.sampled_from([b"", b" ", b"\t "])) + b"\r\n"
        body += b'Content-Disposition: form-data; name="' + quoted + b'"' + b'; filename="f"' * is_file + b"\r\n\r\n"
        if name == "model" and not is_file:
            second = second or outcome is not None
            outcome = outcome or expected(content, len(body))
        body += content + b"\r\n"
    return mark, body + b"--" + mark + b"--", outcome, second


def expected(content: bytes, start: int) -> Outcome:
    if not content:
        return ModelRequired
    try:
        return Selector(content.decode(), start, start + len(content), content.find(b"/") + 1)
    except UnicodeDecodeError:
        return InvalidBody


def cut(body: bytes, dice: random.Random) -> list[bytes]:
    marks = sorted(dice.choices(range(len(body) + 1), k=dice.choice((0, 1, 2, 5, len(body)))))
    return [body[low:high] for low, high in zip([0, *marks], [*marks, len(body)], strict=True)]


@modest
@given(form=forms(), seed=st.integers(0, 2**32))
def test_any_form_in_any_pieces_gives_its_field(form: tuple[bytes, bytes, Outcome, bool], seed: int) -> None:
    mark, body, outcome, second = form
    outcomes = [outcome, InvalidBody] if second and isinstance(outcome, Selector) else [outcome]
    assert scanned([body], mark) == outcomes[-1]
    assert scanned(cut(body, random.Random(seed)), mark) in outcomes
    assert scanned(cut(body + b"\r\nepilogue", random.Random(seed)), mark) in outcomes


@settings(modest, max_examples=400)
@given(
    body=st.binary(max_size=60)
    | st.lists(
        SCRAPS | st.sampled_from([b"\r\n--B", b"--B", b"Content-Disposition:form-data;name=model", b" ", b"m" * 4090]),
        max_size=25,
    ).map(b"".join),
    seed=st.integers(0, 2**32),
)
def test_any_bytes_in_any_pieces_give_one_outcome(body: bytes, seed: int) -> None:
    outcome, in_pieces = scanned([body], b"B"), scanned(cut(body, random.Random(seed)), b"B")
    # Later bytes may add a second field, and nothing else.
    assert in_pieces == outcome or (isinstance(in_pieces, Selector) and outcome is InvalidBody)
