"""Forms as vLLM reads them: whatever python-multipart and Starlette make of one, the scan says the same or refuses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gomodel.errors import InvalidBody, ModelRequired
from gomodel.selector.form import MultipartScan

modest = settings(derandomize=True, deadline=None, database=None, max_examples=400)


class Refused(Exception):
    """vLLM answers 400."""


def vllm_reads(body: bytes, mark: bytes) -> bytes | None:
    """The field `model`, as Starlette's MultiPartParser has it from python-multipart: of several the last."""
    header, fields = [bytearray(), bytearray()], list[tuple[bytes, bool, bytearray]]()
    disposition = b""

    def part_begin() -> None:
        nonlocal disposition
        disposition = b""

    def header_end() -> None:
        nonlocal disposition
        if header[0].lower() == b"content-disposition":
            disposition = bytes(header[1])
        header[0].clear()
        header[1].clear()

    def headers_finished() -> None:
        options = parse_options_header(disposition)[1]
        if b"name" not in options:
            raise Refused
        fields.append((options[b"name"], b"filename" in options, bytearray()))

    callbacks = {
        "on_part_begin": part_begin,
        "on_header_field": lambda data, start, end: header[0].extend(data[start:end]),
        "on_header_value": lambda data, start, end: header[1].extend(data[start:end]),
        "on_header_end": header_end,
        "on_headers_finished": headers_finished,
        "on_part_data": lambda data, start, end: fields[-1][2].extend(data[start:end]),
    }
    parser = MultipartParser(mark, callbacks)
    parser.logger.disabled = True
    try:
        parser.write(body)
        parser.finalize()
    except FormParserError:
        raise Refused from None
    found = [None if is_file else bytes(value) for name, is_file, value in fields if name == b"model"]
    if found and found[-1] is None:
        raise Refused  # a file where text belongs
    return found[-1] if found else None


def we_read(body: bytes, mark: bytes) -> bytes | None:
    """The field `model` as the scan has it. Raises Refused."""
    scan = MultipartScan(mark)
    try:
        found = scan.feed(body)
        while scan.paused:
            found = scan.feed(b"")
        scan.finish()
    except (InvalidBody, ModelRequired):
        raise Refused from None
    if found is None:
        return None
    raw = found.value.encode()
    assert body[found.start :].startswith(raw)
    return raw


def agree(body: bytes, mark: bytes = b"B") -> None:
    try:
        ours, theirs = we_read(body, mark), vllm_reads(body, mark)
    except Refused:
        return
    assert ours == theirs


def form(disposition: bytes, before: bytes = b"") -> bytes:
    return before + b"--B\r\nContent-Disposition:" + disposition + b"\r\n\r\nvllm/m\r\n--B--"


FIELD = {
    "a parameter without a value before": b' form-data; x; name="model"',
    "a type that is called like a parameter": b' filename; name="model"',
    "a type with a value": b" filename=; name=model",
    "a type with a semicolon in quotes": b' "a;b"; name=model',
    "an empty parameter": b" form-data;; name=model;",
    "a file name in capitals without a value": b" form-data; FILENAME; name=model",
    "a value with spaces": b" form-data; x=a b c; name=model",
    "the last of two names": b' form-data; name=x; name="model"',
    "a quote inside a value": b' form-data; x=a";"b; name=model',
    "an escaped quote": rb' form-data; x="\";"; name=model',
    "no space": b"form-data;name=model",
}
NO_FIELD = {
    "a quoted pair": rb' form-data; name="mo\del"',
    "an open quote": b' form-data; name="model',
    "an open quote before": b' form-data; x="; name=model',
    "a file name without a value": b" form-data; filename; name=model",
    "a name without a value behind it": b" form-data; name=model; name",
    "escaped backslashes before a quote": rb' form-data; x="\\"; name=model; y="',
    "a quote within the name": b' form-data; name=mo"del"',
    "a line feed": b" form-data; name=model\n",
}


@pytest.mark.parametrize("disposition", FIELD.values(), ids=FIELD.keys())
def test_what_is_the_field_for_vllm_is_the_field(disposition: bytes) -> None:
    assert vllm_reads(form(disposition), b"B") == b"vllm/m"
    assert we_read(form(disposition), b"B") == b"vllm/m"


@pytest.mark.parametrize("disposition", NO_FIELD.values(), ids=NO_FIELD.keys())
def test_what_is_another_field_for_vllm_is_another(disposition: bytes) -> None:
    assert we_read(form(disposition), b"B") is None
    try:
        assert vllm_reads(form(disposition), b"B") is None
    except Refused:
        pass


def part(name: bytes, content: bytes) -> bytes:
    return b'--B\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, content)


MODEL = part(b"model", b"vllm/m")
OTHER_MODEL = part(b"model", b"vllm/n").removesuffix(b"\r\n")
CLOSE = b"--B--\r\n"
# What begins a part's content, directly behind the empty line, is content: a delimiter has a line break before it.
TWO_FIELDS = {
    "behind content that begins with the closing delimiter": MODEL + part(b"y", b"--B--\r\n" + OTHER_MODEL) + CLOSE,
    "behind a part without headers": MODEL + b"--B\r\n\r\n--B--\r\n" + OTHER_MODEL + b"\r\n" + CLOSE,
    "behind content that is the closing delimiter": MODEL + part(b"y", b"--B--") + part(b"model", b"vllm/n") + CLOSE,
}
ONE_FIELD = {
    "before content that begins with a field": MODEL + part(b"y", OTHER_MODEL) + CLOSE,
    "behind content that is the closing delimiter": part(b"y", b"--B--") + MODEL + CLOSE,
    "behind content that is a delimiter": part(b"y", b"--B") + MODEL + CLOSE,
    "behind a part without content": part(b"y", b"") + MODEL + CLOSE,
}
NONE = {
    "in content that begins with it": part(b"y", OTHER_MODEL) + CLOSE,
    "in the content of a file": part(b'f"; filename="f', OTHER_MODEL) + CLOSE,
    "in the epilogue": part(b"y", b"x") + CLOSE + MODEL + CLOSE,
}


@pytest.mark.parametrize("body", TWO_FIELDS.values(), ids=TWO_FIELDS.keys())
def test_a_second_field_that_vllm_reads_is_refused(body: bytes) -> None:
    try:
        assert vllm_reads(body, b"B") == b"vllm/n"
    except Refused:
        assert b"--B\r\n\r\n" in body  # for want of a name, which other servers do not ask for
    with pytest.raises(Refused):
        we_read(body, b"B")


@pytest.mark.parametrize("body", ONE_FIELD.values(), ids=ONE_FIELD.keys())
def test_content_that_begins_with_a_delimiter_is_content(body: bytes) -> None:
    assert vllm_reads(body, b"B") == b"vllm/m"
    assert we_read(body, b"B") == b"vllm/m"


@pytest.mark.parametrize("body", NONE.values(), ids=NONE.keys())
def test_a_field_that_only_content_spells_is_none(body: bytes) -> None:
    assert vllm_reads(body, b"B") is None
    assert we_read(body, b"B") is None


SCRAPS = st.sampled_from(
    [b"form-data", b";", b"; ", b"=", b'"', b"\\", b"name", b"filename", b"model", b"x", b" ", b"\t", b"NAME", b"*",
     b"name=model", b'name="model"', b"\n", b"\r", b"\r\n ", b":", b"\xe9", b"\x00"]
)  # fmt: skip


@modest
@given(st.lists(SCRAPS, max_size=14).map(b"".join))
def test_any_content_disposition_is_read_as_vllm_reads_it(disposition: bytes) -> None:
    agree(form(disposition))
    agree(form(b"form-data; name=x\r\n" + disposition))
    agree(form(disposition, b"--B\r\nContent-Disposition: form-data; name=model\r\n\r\nfirst\r\n"))


PIECES = st.sampled_from(
    [b"\r\n", b"\n", b"\r", b"-", b"--", b"--B", b"\r\n--B", b"B", b" ", b"\t", b"x", b"m/n", b"\r\n\r\n", b"",
     b"Content-Disposition: form-data; name=model", b"Content-Disposition: form-data; name=x",
     b"--B\r\nContent-Disposition: form-data; name=model\r\n\r\nvllm/m\r\n", b"--B--", b"--B\r\n\r\n",
     b"--B\r\nContent-Disposition: form-data; name=x\r\n\r\n", b"--B--\r\n", b"\r\n--B--"]
)  # fmt: skip


@modest
@given(st.lists(PIECES, max_size=12).map(b"".join))
def test_any_form_is_divided_as_vllm_divides_it(body: bytes) -> None:
    agree(body)
