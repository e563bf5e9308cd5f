"""No body holds the loop: whatever its bytes are, a scan does so much in a turn and no more.

What is counted is calls, of Python functions and into C, which is where a scan's time goes: a call costs about as much
whatever it is asked, and none may be asked to look closely at more than a slice.
"""

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gomodel.errors import GatewayError
from gomodel.selector.conversation import ConversationScan
from gomodel.selector.form import MultipartScan
from gomodel.selector.json_body import JsonScan
from gomodel.selector.previous_response import PreviousResponse
from gomodel.selector.realtime_event import TINY_FRAMES_LIMIT, SessionUpdate
from gomodel.selector.turns import SLICE_BYTES, STEPS
from gomodel.selector.usual_opening import MESSAGES

from ...harness.tunnels import PING, TEXT, frame

READ_BYTES = 48 << 10
# A step is no more calls than these.
CALLS = 32 * STEPS


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """Every pattern, since the first scan that needs one compiles it for all that follow."""
    ids = b'{"a":[1],"prompt_cache_key":0,"session_id":0,"metadata":{"user_id":0},"messages":0}'
    for scan in (JsonScan(), PreviousResponse()):
        scan.feed(ids)
    ConversationScan(ids, MESSAGES).feed()


class Scan(Protocol):
    paused: bool

    def feed(self, piece: bytes, /) -> Any: ...


def calls_of(do: Callable[[], Any]) -> tuple[int, Any]:
    """How many calls it makes, and what it returns or raises.

    Not by cProfile: from CPython 3.12 on that counts what other threads call meanwhile. Nor with the collector, which
    calls what others left behind.
    """
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    gc.disable()
    sys.setprofile(count)
    try:
        result = do()
    except GatewayError as error:
        result = error
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls, result


def worst_turn(scan: Scan, pieces: list[bytes]) -> int:
    """The most calls that one turn takes; the scan goes on for as long as it wants to."""
    worst, waiting = 0, pieces[::-1]
    while waiting:
        piece = waiting.pop()
        calls, result = calls_of(lambda piece=piece: scan.feed(piece))
        worst = max(worst, calls)
        if result is not None or getattr(scan, "done", False):
            break
        if scan.paused:
            waiting.append(b"")
    return worst


def filled(filler: bytes, size: int = READ_BYTES) -> bytes:
    return filler * (size // len(filler) + 1)


SLOW = {
    "names that end in an escaped backslash": (b"{", rb'"\\":1,'),
    "strings that end in two": (b"{", rb'"a":"\\\\",'),
    "members": (b"{", b'"":1,'),
    "members with lists": (b"{", b'"":[],'),
    "members cut short": (b"{", b'"' + b"n" * 64 + b'":[[[[[[[[]]]]]]]],'),
    "lists ever deeper": (b'{"a":', rb'["\\",'),
    "lists ever deeper beside empty ones": (b'{"a":', b"[[],"),
    "objects ever deeper": (b'{"a":', rb'{"\\":'),
    "strings that look like ends, ever deeper": (b'{"a":', b'["]",'),
    "deep lists side by side": (b'{"a":[', b"[[[[[[[[[]]]]]]]]],"),
    "one bracket after the other": (b'{"a":' + b"[" * 50_000, b"]1"),
    "escaped quotes": (b'{"a":"', rb"\\\\\""),
    "escaped quotes in a list": (b'{"a":[[[[[[["', rb"\\\\\""),
    "escaped quotes in a name": (b'{"', rb"\\\\\""),
    "spaces": (b'{"a":', b" "),
    "digits": (b'{"a":', b"1"),
}


@pytest.mark.parametrize("scan", [JsonScan, PreviousResponse])
@pytest.mark.parametrize(("start", "filler"), SLOW.values(), ids=SLOW)
def test_a_turn_of_a_slow_body_is_short(scan: Callable[[], Scan], start: bytes, filler: bytes) -> None:
    assert worst_turn(scan(), [start + filled(filler), filled(filler)]) <= CALLS


@pytest.mark.parametrize(
    "before", [b"{", b'{"messages":[{', b'{"session_id":0,"user_id":0,', b'{"prompt_cache_key":0,']
)
@pytest.mark.parametrize(("start", "filler"), SLOW.values(), ids=SLOW)
def test_a_turn_of_a_slow_conversation_is_short(before: bytes, start: bytes, filler: bytes) -> None:
    scan = ConversationScan(before + start[1:] + filled(filler), MESSAGES)
    assert worst_turn(scan, [b""]) <= CALLS


MESSAGES_OF_NOTHING = (
    b"{},",
    b"1,",
    b'{"role":"a"},',
    b'{"role":"user"},',
    b'{"content":[{},1,{"a":1},',
    b'{"a":1,"content":"",',
)


@pytest.mark.parametrize("filler", MESSAGES_OF_NOTHING)
def test_a_turn_of_messages_that_say_nothing_is_short(filler: bytes) -> None:
    for role in (b"", b'{"role":"user","content":['):
        scan = ConversationScan(b'{"messages":[' + role + filled(filler), MESSAGES)
        assert worst_turn(scan, [b""]) <= CALLS


@pytest.mark.parametrize(("start", "filler"), SLOW.values(), ids=SLOW)
def test_a_turn_of_a_slow_body_behind_its_model_is_short(start: bytes, filler: bytes) -> None:
    body = b'{"model":"m",' + start[1:] + filled(filler) + b'"model"'
    assert worst_turn(JsonScan(), [body]) <= CALLS


def test_a_slow_body_takes_many_turns_and_is_read_to_its_end() -> None:
    scan, turns = JsonScan(), 1
    found = scan.feed(b"{" + filled(rb'"\\":1,') + b'"model":"m"}')
    while scan.paused:
        found = scan.feed(b"")
        turns += 1
    assert found is not None
    assert found.value == "m"
    assert turns > READ_BYTES // len(rb'"\\":1,') // STEPS


def test_a_plain_body_takes_a_turn_for_every_slice() -> None:
    scan = JsonScan()
    sent = b'{"a":[' + filled(b'"some text",', 3 * SLICE_BYTES + 100)
    assert scan.feed(sent) is None
    for _ in range(3):
        assert scan.paused
        scan.feed(b"")
    assert not scan.paused


def test_a_long_string_is_passed_over_in_one_turn() -> None:
    scan = JsonScan()
    scan.feed(b'{"a":"' + bytes(READ_BYTES).replace(b"\x00", b"A"))
    assert not scan.paused


def test_but_not_one_of_many_escaped_quotes_far_from_each_other() -> None:
    scan, turns = JsonScan(), 1
    long = filled(b"x" * 2100 + rb"\"", 4 * READ_BYTES)
    found = scan.feed(b'{"a":"' + long + b'","model":"m"}')
    while scan.paused:
        found = scan.feed(b"")
        turns += 1
    assert found is not None
    assert (found.value, found.start) == ("m", len(long) + 17)
    assert turns > 2


FORMS = {
    "empty parts": b"\r\n--b\r\n\r\n",
    "tiny parts": b"\r\n--b\r\nA: b\r\n\r\nx",
    "parts of long headers": b"\r\n--b\r\n" + b"a\r\n" * 2000 + b"\r\n",
    "parts of headers that end a turn": b"\r\n--b\r\nA: " + b"b" * 80 + b"\r\n\r\n",
    "parts of many parameters": b"\r\n--b\r\nContent-Disposition: x" + b";a=" * 2000 + b"\r\n\r\n",
    "what looks like a delimiter": b"\r\n--bX",
    "what is almost one": b"\r\n--b\r",
    "line breaks": b"\r\n",
}


@pytest.mark.parametrize("filler", FORMS.values(), ids=FORMS)
def test_a_turn_of_a_slow_form_is_short(filler: bytes) -> None:
    assert worst_turn(MultipartScan(b"b"), [b"--b\r\n\r\n" + filled(filler), filled(filler)]) <= CALLS


@pytest.mark.parametrize(
    "tiny",
    [frame(b""), frame(b"", PING), frame(b"x"), frame(b"", TEXT, fin=False), frame(rb'{"type":"session.update"}\\')],
    ids=["empty", "ping", "one byte", "fragment", "event"],
)
def test_tiny_frames_on_a_realtime_session_are_soon_looked_at_no_more(tiny: bytes) -> None:
    update = SessionUpdate("vllm")
    assert calls_of(lambda: update.feed(filled(tiny)))[0] <= 60 * TINY_FRAMES_LIMIT
    assert update.done


# Anything that means something to a scanner, so that slow ways nobody thought of are found.
TOKENS = st.sampled_from(
    [b'"', b"\\", b'\\"', b"\\\\", b"[", b"]", b"{", b"}", b":", b",", b'"a":', b'"":1,', b'"a"', b"[]", b"1", b" ",
     b"\n", b'"\\\\"', b'"model"', b"\\u006d", b"x" * 70, b"x" * 2100, b'["', b'"],', b"[[[[[[[", b"]]]]]]]"]
)  # fmt: skip
STARTS = st.sampled_from([b"{", b'{"a":', b'{"a":[', b'{"a":"', b'{"', b'{"a":' + b"[" * 30_000, b'{"model":"m",'])


@settings(derandomize=True, database=None, deadline=None, max_examples=30)
@given(start=STARTS, tokens=st.lists(TOKENS, min_size=1, max_size=6), again=st.booleans())
@example(start=b'{"a":', tokens=[b"[", b'"\\\\"', b","], again=True)
def test_no_bytes_make_a_turn_long(start: bytes, tokens: list[bytes], again: bool) -> None:
    filler = filled(b"".join(tokens), 2 * SLICE_BYTES)
    for scan in (JsonScan(), PreviousResponse()):
        assert worst_turn(scan, [start + filler] + [filler] * again) <= CALLS
    assert worst_turn(ConversationScan(start + filler, MESSAGES), [b""]) <= CALLS
