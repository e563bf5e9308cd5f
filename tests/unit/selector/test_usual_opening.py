"""Which bodies are plain enough to be read at a look, and what is found in them; all others are the scan's."""

import pytest

from gomodel.selector.turns import SLICE_BYTES
from gomodel.selector.usual_opening import ID_LIMIT_BYTES, INPUT, MESSAGES, cache_key

LONG = b"x" * SLICE_BYTES
SYSTEM = b'{"role":"system","content":"Be brief."}'
USER = b'{"role":"user","content":"said"}'
BEFORE_ROLE = b'{"content":"Be brief.","role":"system"}'


def chat(*messages: bytes) -> bytes:
    return b'{"model":"m","messages":[' + b",".join(messages) + b"]}"


def part(text: bytes, behind: bytes = b"") -> bytes:
    return b'{"role":"user","content":[{"type":"text","text":"' + text + b'"' + behind + b"}]}"


CACHED = b',"cache_control":{"type":"ephemeral"}'
PLAIN = {
    "first": chat(USER),
    "behind another": chat(SYSTEM, USER),
    "behind as many as are passed over": chat(SYSTEM, SYSTEM, SYSTEM, USER),
    "with a type": chat(b'{"type":"message","role":"user","content":"said"}'),
    "in one part": chat(part(b"said")),
    "in one part that is cached": chat(SYSTEM, part(b"said", CACHED)),
    "before its role": chat(b'{"content":"said","role":"user"}'),
    "all before their roles": chat(BEFORE_ROLE, b'{"content":"said","role":"user"}'),
    "behind escapes": chat(rb'{"role":"system","content":"\"a\\"}', USER),
    "with spaces": chat(SYSTEM, USER).replace(b":", b" : ").replace(b",", b" , ").replace(b"{", b"{\n"),
    "behind a mark": b"\xef\xbb\xbf" + chat(USER),
    "before more": chat(USER, SYSTEM, USER.replace(b"said", b"more")),
    "before what is broken": chat(USER)[:-1],
}
LEFT_TO_THE_SCAN = {
    "nothing": b"",
    "no member": b'{"model":"m"}',
    "no list": b'{"messages":null}',
    "an empty list": chat(),
    "more before it than are passed over": chat(SYSTEM, SYSTEM, SYSTEM, SYSTEM, USER),
    "a member more": chat(b'{"role":"user","name":"a","content":"said"}'),
    "behind a member more": chat(b'{"role":"system","content":"x","name":"a"}', USER),
    "behind a member more before its role": chat(b'{"content":"x","name":"a","role":"system"}', USER),
    "two parts": chat(b'{"role":"user","content":[{"type":"text","text":"sa"},{"type":"text","text":"id"}]}'),
    "a part without end": chat(USER.replace(b'"said"', b'[{"type":"text","text":"said')),
    "none of the user": chat(SYSTEM),
    "text without end": chat(USER)[: chat(USER).index(b"said") + 4],
    "escaped text without end": chat(USER)[: chat(USER).index(b"said") + 4] + b'\\"',
    "another's text without end": chat(SYSTEM)[: chat(SYSTEM).index(b"brief")],
    "too far behind escapes": chat(b'{"role":"system","content":"' + LONG + rb'\"x"}', USER),
    "a part with more behind it than is looked at": chat(part(b"said", b" " * SLICE_BYTES)),
}


@pytest.mark.parametrize("body", PLAIN.values(), ids=PLAIN.keys())
def test_what_most_clients_write_is_found_at_a_look(body: bytes) -> None:
    start = body.index(b"said")
    assert MESSAGES.text(body)[:2] == (start, start + 4)


@pytest.mark.parametrize("body", LEFT_TO_THE_SCAN.values(), ids=LEFT_TO_THE_SCAN.keys())
def test_what_takes_more_is_left_to_the_scan(body: bytes) -> None:
    assert MESSAGES.text(body)[1] == -1


@pytest.mark.parametrize(
    "text", [b"said", b"", LONG + LONG, rb"\"", rb"\\", rb"sa\"id", rb"said\\", rb"\u0022", rb"\\\"\\"]
)
@pytest.mark.parametrize("role_first", [True, False])
def test_a_text_ends_at_the_first_quote_that_is_not_escaped(text: bytes, role_first: bool) -> None:
    body = b'{"input":"' + text + b'","model":"m"}'
    assert INPUT.text(body) == (10, 10 + len(text), True)
    message = b'{"role":"user","content":"%b"}' if role_first else b'{"content":"%b","role":"user"}'
    body = chat(SYSTEM, message % text, SYSTEM)
    start = body.index(b'content":"', body.index(b"brief") if role_first else body.index(b'brief."}')) + 10
    assert MESSAGES.text(body) == (start, start + len(text), role_first)


KEYS: dict[str, tuple[bytes, bytes | None]] = {
    "last": (b'{"model":"m","prompt_cache_key":"k-1"}', b"k-1"),
    "alone": (b'{"prompt_cache_key":"k-1"}', b"k-1"),
    "spaces": (b'{ "prompt_cache_key" : "k-1" } ', b"k-1"),
    "before others": (b'{"prompt_cache_key":"k-1","stream":true,"x":[{"y":"}"}]}', b"k-1"),
    "as long as may be": (b'{"prompt_cache_key":"' + b"k" * ID_LIMIT_BYTES + b'"}', b"k" * ID_LIMIT_BYTES),
    "too long": (b'{"prompt_cache_key":"' + b"k" * (ID_LIMIT_BYTES + 1) + b'"}', None),
    "empty": (b'{"prompt_cache_key":""}', None),
    "escaped": (rb'{"prompt_cache_key":"\u006b"}', None),
    "no string": (b'{"prompt_cache_key":1}', None),
    "nested": (b'{"x":{"prompt_cache_key":"k-1"}}', None),
    "in a string": (rb'{"x":"{\"prompt_cache_key":"k-1"}', None),
    "cut": (b'{"prompt_cache_key":"k-1"', None),
    "as far from the end as is looked": (
        b'{"prompt_cache_key":"k-1","x":[' + b"1" * (SLICE_BYTES - 32) + b"]}",
        b"k-1",
    ),
    "further": (b'{"prompt_cache_key":"k-1","x":[' + b"1" * (SLICE_BYTES - 31) + b"]}", None),
}


@pytest.mark.parametrize(("body", "expected"), KEYS.values(), ids=KEYS.keys())
def test_a_cache_key_of_the_body_itself_is_known_by_what_follows_it(body: bytes, expected: bytes | None) -> None:
    assert cache_key(body, body.rindex(b'"prompt_cache_key"')) == expected
