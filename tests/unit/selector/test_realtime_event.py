"""The selector in a realtime client's first event is shortened; every other bit of its frames stays as it is."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gomodel.selector.realtime_event import LIMIT_BYTES, TINY_BYTES, TINY_FRAMES_LIMIT, SessionUpdate

from ...harness.tunnels import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame

modest = settings(derandomize=True, database=None, deadline=None, max_examples=300)

# With a head of 8 bytes, what fills an update up to the longest frame that is looked at.
PADDING = " " * (LIMIT_BYTES - 8 - len('{"type":"session.update","model":"vllm/m"}'))
AUDIO = {"type": "input_audio_buffer.append", "audio": "AAAA"}


def event(model, **fields):
    return frame(json.dumps({"type": "session.update", "model": model, **fields}).encode())


def text(raw):
    return frame(raw.encode() if isinstance(raw, str) else raw)


def update(raw_model, before="", after=""):
    """A session.update written with these very bytes around its model."""
    return text(f'{{{before}"type":"session.update","model":"{raw_model}"{after}}}')


# What the client sends -> what goes on, and whether the next frame is looked at.
SHORTENED = {
    "plain": (event("vllm/m"), event("m")),
    "slashes in the model": (event("vllm/meta-llama/L-8B"), event("meta-llama/L-8B")),
    "prefix twice": (event("vllm/vllm/m"), event("vllm/m")),
    "an escaped slash": (update(r"vllm\/m"), update("m")),
    "an escaped letter": (update(r"\u0076llm/m"), update("m")),
    "an escaped slash by number": (update(r"vllm\u002fm\u002fx"), update(r"m\u002fx")),
    "an escaped name": (
        text(r'{"type":"session.update","mod\u0065l":"vllm/m"}'),
        text(r'{"type":"session.update","mod\u0065l":"m"}'),
    ),
    "an escaped type": (
        text(r'{"type":"session\u002eupdate","model":"vllm/m"}'),
        text(r'{"type":"session\u002eupdate","model":"m"}'),
    ),
    "first": (text('{"model":"vllm/m","type":"session.update"}'), text('{"model":"m","type":"session.update"}')),
    "spaces": (
        update("vllm/m", ' \n\t"a": [1, {"model":"vllm/x"}] , '),
        update("m", ' \n\t"a": [1, {"model":"vllm/x"}] , '),
    ),
    "decoy in a string": (
        update("vllm/m", r'"x":"\"model\":\"vllm/y\"",'),
        update("m", r'"x":"\"model\":\"vllm/y\"",'),
    ),
    "no model left": (event("vllm/"), event("")),
    "not ASCII": (event("vllm/modèle-模型"), event("modèle-模型")),
    "from 16 bits of length to 7": (update("vllm/m", after=" " * 90), update("m", after=" " * 90)),
    "a mask of zeros": (
        frame(b'{"type":"session.update","model":"vllm/m"}', key=bytes(4)),
        frame(b'{"type":"session.update","model":"m"}', key=bytes(4)),
    ),
    "a length in more bytes than needed": (
        frame(b'{"type":"session.update","model":"vllm/m"}', length_bytes=8),
        frame(b'{"type":"session.update","model":"m"}'),
    ),
    "the longest that is looked at": (
        update("vllm/m", after=PADDING),
        update("m", after=PADDING),
    ),
}
LAST = {
    "another instance": event("vllm-b/m"),
    "the instance in another case": event("VLLM/m"),
    "a bare model": event("m"),
    "a bare model with slashes": event("meta-llama/L-8B"),
    "the instance alone": event("vllm"),
    "no model": text('{"type":"session.update"}'),
    "binary": frame(b'{"type":"session.update","model":"vllm/m"}', BINARY),
    "compressed": frame(b'{"type":"session.update","model":"vllm/m"}', rsv=4),
    "in fragments": frame(b'{"type":"session.update",', fin=False) + frame(b'"model":"vllm/m"}', CONTINUATION),
    "not masked": frame(b'{"type":"session.update","model":"vllm/m"}', key=None),
    "unknown opcode": frame(b'{"type":"session.update","model":"vllm/m"}', 3),
    "binary and long": frame(b"x" * (LIMIT_BYTES + 1), BINARY),
    "compressed and long": frame(b"x" * (LIMIT_BYTES + 1), rsv=4),
    "a nested session": text('{"type":"session.update","session":{"model":"vllm/m"}}'),
}
PASSED_OVER = {
    "another event": text(json.dumps({**AUDIO, "model": "vllm/m"})),
    "ping": frame(b"vllm/m", PING),
    "pong": frame(b"", PONG),
    "close": frame(b"\x03\xe8", CLOSE),
    "no JSON": text('{"type":"session.update","model":"vllm/m"'),
    "no object": text('["session.update","vllm/m"]'),
    "a type that is no string": text('{"type":["session.update"],"model":"vllm/m"}'),
    "two models": text('{"type":"session.update","model":"vllm/m","model":"vllm/n"}'),
    "a model that is no string": text('{"type":"session.update","model":["vllm/m"]}'),
    "an empty model": event(""),
    "no UTF-8": text(b'{"type":"session.update","model":"vllm/\xff"}'),
    "half a character": text(r'{"type":"session.update","model":"vllm/\ud800"}'),
    "endless nesting": text("[" * 60_000),
    "nothing": frame(b""),
    "too long": update("vllm/m", after=PADDING * 2),
    "too long by one byte": update("vllm/m", after=PADDING + " "),
    "long audio": text(json.dumps({**AUDIO, "audio": "A" * 200_000})),
}
CASES = (
    [pytest.param(sent, expected, True, id=name) for name, (sent, expected) in SHORTENED.items()]
    + [pytest.param(sent, sent, True, id=name) for name, sent in LAST.items()]
    + [pytest.param(sent, sent, False, id=name) for name, sent in PASSED_OVER.items()]
)


def fed(pieces):
    update = SessionUpdate("vllm")
    return b"".join(update.feed(piece) for piece in pieces), update.done


@pytest.mark.parametrize(("sent", "expected", "done"), CASES)
def test_a_frame_passes_or_is_shortened_however_it_arrives(sent, expected, done):
    assert fed([sent]) == (expected, done)
    if len(sent) < 1000:
        assert fed([sent[at : at + 1] for at in range(len(sent))]) == (expected, done)
        for at in range(len(sent)):
            assert fed([sent[:at], b"", sent[at:]]) == (expected, done)
    else:
        for at in (1, 2, 3, 9, 10, 13, 14, 15, len(sent) // 2, len(sent) - 1):
            assert fed([sent[:at], sent[at:]]) == (expected, done)


def test_an_alias_is_replaced_by_its_model_however_long_that_is():
    model = "x" * 300 + '"'
    renamed = {"gpt-4o": model, "vllm/a": "b"}.get
    for said, meant in (("gpt-4o", model), ("vllm/a", "b"), ("vllm/m", "m"), ("other", "other")):
        update = SessionUpdate("vllm", renamed)
        assert (update.feed(event(said)), update.done) == (event(meant), True)
    padding = " " * (LIMIT_BYTES - 80)
    assert SessionUpdate("vllm", renamed).feed(event("gpt-4o", x=padding)) == event(model, x=padding)


@pytest.mark.parametrize(("sent", "expected", "done"), CASES)
def test_only_the_first_update_is_shortened(sent, expected, done):
    later = event("vllm/later") + frame(b"\xff" * 300, BINARY) + b"\x81"
    behind = later if done else event("later") + frame(b"\xff" * 300, BINARY) + b"\x81"
    assert fed([sent + later]) == (expected + behind, True)
    assert fed([sent, later]) == (expected + behind, True)


@pytest.mark.parametrize("name", PASSED_OVER)
def test_the_update_may_come_behind_what_is_none(name):
    sent = PASSED_OVER[name]
    assert fed([sent * 3 + event("vllm/m") + sent]) == (sent * 3 + event("m") + sent, True)


@pytest.mark.parametrize("tiny", [frame(b"", PING), frame(b""), frame(b"x" * 9), event("")], ids=["p", "0", "9", "e"])
def test_behind_more_tiny_frames_than_a_client_sends_nothing_is_looked_for(tiny):
    assert fed([tiny * (TINY_FRAMES_LIMIT - 1), event("vllm/m")]) == (tiny * (TINY_FRAMES_LIMIT - 1) + event("m"), True)
    for pieces in ([tiny * TINY_FRAMES_LIMIT + event("vllm/m")], [tiny] * TINY_FRAMES_LIMIT + [event("vllm/m")]):
        assert fed(pieces) == (b"".join(pieces), True)


def test_audio_may_come_before_it_for_as_long_as_it_likes():
    audio = frame(b"x" * TINY_BYTES) * (2 * TINY_FRAMES_LIMIT)
    assert fed([audio, event("vllm/m")]) == (audio + event("m"), True)


def test_of_what_looks_like_an_event_only_so_much_is_parsed():
    decoy = text(json.dumps({"type": "session.updates", "x": "x" * (LIMIT_BYTES // 2)}))
    assert fed([decoy + event("vllm/m")]) == (decoy + event("m"), True)
    assert fed([decoy * 2 + event("vllm/m")]) == (decoy * 2 + event("vllm/m"), True)


def test_an_event_that_takes_long_to_read_passes_as_it_is():
    members = rb'"\":1,' * 5000
    assert fed([update("vllm/m", members.decode())]) == (update("vllm/m", members.decode()), False)


def test_a_control_frame_is_not_held_back_by_the_search():
    ping = frame(b"are you there", PING)
    assert [SessionUpdate("vllm").feed(ping), fed([ping[:-1]])[0]] == [ping, b""]


def test_a_frame_over_the_limit_passes_as_it_comes_and_what_is_behind_it_is_looked_at():
    update = SessionUpdate("vllm")
    long = text(b"x" * (3 * LIMIT_BYTES))
    assert [update.feed(long[at : at + 1]) for at in range(10)] == [b""] * 9 + [long[:10]]
    assert update.feed(long[10:11]) == long[10:11]
    assert update.feed(long[11:100_000]) == long[11:100_000]
    assert update.feed(long[100_000:] + event("vllm/m")) == long[100_000:] + event("m")
    assert update.done


@pytest.mark.parametrize("at", [-15, -2, -1, 0, 1, 2, 7, 20])
def test_the_end_of_a_long_frame_may_come_with_any_part_of_the_next(at):
    long, sent = text(b"x" * (LIMIT_BYTES + 1)), text(b"x" * (LIMIT_BYTES + 1)) + event("vllm/m")
    cut = len(long) + at
    assert fed([sent[:1000], sent[1000:cut], sent[cut:]]) == (long + event("m"), True)


@pytest.mark.parametrize("length", [2**16, 2**31, 2**63, 2**64 - 1])
def test_no_declared_length_makes_it_wait(length):
    head = b"\x81\xff" + length.to_bytes(8, "big")
    update = SessionUpdate("vllm")
    assert [update.feed(head), update.feed(b"more"), update.feed(b"")] == [head, b"more", b""]


@pytest.mark.parametrize("before", [b"", frame(b"?", PING), text("{}")])
@pytest.mark.parametrize("cut", range(1, 10))
def test_a_length_counts_when_all_of_its_bytes_are_there(before, cut):
    # Without its last byte the number would already be over the limit.
    head = b"\x82\xff" + (LIMIT_BYTES << 9).to_bytes(8, "big")
    update = SessionUpdate("vllm")
    assert [update.feed(before + head[:cut]), update.feed(head[cut:])] == [before, head]
    assert update.feed(b"x" * 7) == b"x" * 7
    assert update._passing == (LIMIT_BYTES << 9) + 4 - 7


def test_the_shortest_frame_waits_for_nothing():
    update = SessionUpdate("vllm")
    assert update.feed(frame(b"", PING, key=None)) == frame(b"", PING, key=None)


FRAMES = st.one_of(
    st.sampled_from([(sent, expected, True) for sent, expected in SHORTENED.values() if len(sent) < 500]),
    st.sampled_from([(sent, sent, True) for sent in LAST.values() if len(sent) < 500]),
    st.sampled_from([(sent, sent, False) for sent in PASSED_OVER.values() if len(sent) < 500]),
    st.builds(
        lambda payload, key: (frame(payload, PING, key=key),) * 2 + (False,),
        st.binary(max_size=125),
        st.binary(min_size=4, max_size=4),
    ),
)


@modest
@given(st.lists(FRAMES, max_size=6), st.lists(st.integers(0, 800), max_size=8))
def test_any_frames_in_any_pieces_come_out_once_and_in_order(frames, cuts):
    sent = b"".join(each[0] for each in frames)
    expected, looking = b"", True
    for raw, shortened, last in frames:
        expected += shortened if looking else raw
        looking = looking and not last
    places = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    assert fed(sent[a:b] for a, b in itertools.pairwise(places)) == (expected, not looking)


@modest
@given(
    st.dictionaries(st.text(max_size=5).filter(lambda name: name not in ("type", "model")), st.text(), max_size=4),
    st.text(min_size=1).filter(lambda model: model.encode("utf-8", "replace").decode() == model),
    st.binary(min_size=4, max_size=4),
    st.booleans(),
)
def test_the_event_means_the_same_but_for_its_model(fields, model, key, ascii_only):
    content = {**fields, "type": "session.update", "model": f"vllm/{model}"}
    sent = frame(json.dumps(content, ensure_ascii=ascii_only).encode("utf-8", "replace"), key=key)
    out, done = fed([sent])
    expected = {**json.loads(json.dumps(content)), "model": model}
    assert (done, out) == (
        True,
        frame(json.dumps(expected, ensure_ascii=ascii_only).encode("utf-8", "replace"), key=key),
    )


@modest
@given(st.lists(st.binary(max_size=40), max_size=8), st.binary())
def test_any_bytes_pass_unchanged_or_are_held(pieces, last):
    """What is no JSON event in a text frame is nothing to shorten, whatever else it is."""
    update = SessionUpdate("vllm")
    out = b"".join(update.feed(piece) for piece in [*pieces, last])
    sent = b"".join(pieces) + last
    assert sent.startswith(out)
    assert out == sent or (not update.done and len(sent) - len(out) <= LIMIT_BYTES)


def test_opcodes_are_those_of_rfc_6455():
    assert (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG) == (0, 1, 2, 8, 9, 10)
    # RFC 6455 5.7: "A single-frame masked text message" that says Hello.
    assert frame(b"Hello", key=bytes.fromhex("37fa213d")) == bytes.fromhex("818537fa213d7f9f4d5158")
    assert frame(b"Hello", key=None) == bytes.fromhex("810548656c6c6f")
