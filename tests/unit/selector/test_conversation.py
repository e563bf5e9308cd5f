"""What names a conversation: the client's id or the first user message, in every shape that clients write."""

import json
from collections.abc import Callable
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gomodel.selector.conversation import LIMIT_BYTES, TEXT_BYTES, ConversationScan, Named, named_at_a_look
from gomodel.selector.usual_opening import ID_LIMIT_BYTES, INPUT, MESSAGES, PROMPT, Opening

modest = settings(derandomize=True, deadline=None, database=None, max_examples=300)

# Too long for a look, so that what follows is left to the scan.
LONG = '"x":"' + "x" * 5000 + '",'
SAID = "What is a KV cache?"
OPENS = (crc32(SAID.encode()), len(SAID))


def scanned(body: bytes, opening: Opening = MESSAGES) -> Named:
    scan = ConversationScan(body, opening)
    scan.feed()
    while scan.paused:
        scan.feed()
    found = scan.named
    glance = named_at_a_look(body, opening)
    if glance is not None:
        assert glance[:2] == found
        if begins := glance[2]:  # what stands before the text is known the next time
            assert named_at_a_look(body, opening, body[:begins]) == (*found, 0)
            assert named_at_a_look(body, opening, body[:begins][:-1] + b"?") == glance
    return found


def both_ways(body: str | bytes, opening: Opening = MESSAGES) -> Named:
    """Also in a body that is too long for a look."""
    raw = body.encode() if isinstance(body, str) else body
    found = scanned(raw, opening)
    at = raw.find(b"{") + 1
    assert scanned(raw[:at] + LONG.encode() + raw[at:], opening) == found
    return found


def chat(*messages: str, before: str = "", after: str = "") -> str:
    return f'{{{before}"messages":[{",".join(messages)}]{after}}}'


USER = f'{{"role":"user","content":"{SAID}"}}'
ANSWER = '{"role":"assistant","content":"A store of attention keys."}'
MORE = '{"role":"user","content":"And why?"}'
SYSTEM = '{"role":"system","content":"Be brief."}'
TOOLS = (
    '"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"messages":'
    '{"type":"array","examples":[[{"role":"user","content":"not said"}]],"default":{"role":"user"}}}}}}]'
)
OPENINGS = {
    "alone": chat(USER),
    "later": chat(USER, ANSWER, MORE),
    "behind a system message": chat(SYSTEM, USER, ANSWER, MORE),
    "behind the model": chat(SYSTEM, USER, before='"model":"vllm/m",'),
    "before the model": chat(SYSTEM, USER, after=',"model":"vllm/m","stream":true'),
    "with spaces": chat(SYSTEM, USER, ANSWER).replace(":", " : ").replace(",", " ,\n ").replace("{", "{ "),
    "content before role": chat(f'{{"content":"{SAID}","role":"user"}}'),
    "all content before role": chat(
        '{"content":"Be brief.","role":"system"}', f'{{"content":"{SAID}","role":"user"}}', ANSWER
    ),
    "role far behind": chat(f'{{"content":"{SAID}","name":"a","x":{{"role":"system"}},"role":"user"}}', ANSWER),
    "one part": chat(f'{{"role":"user","content":[{{"type":"text","text":"{SAID}"}}]}}'),
    "one part that is cached": chat(
        f'{{"role":"user","content":[{{"type":"text","text":"{SAID}","cache_control":{{"type":"ephemeral"}}}}]}}'
    ),
    "a cached part written otherwise": chat(
        f'{{"content":[{{"cache_control":{{"type":"ephemeral"}},"text":"{SAID}","type":"text"}}],"role":"user"}}'
    ),
    "two parts": chat(
        f'{{"role":"user","content":[{{"type":"text","text":"{SAID[:9]}"}},{{"type":"text","text":"{SAID[9:]}"}}]}}'
    ),
    "parts that are strings": chat(f'{{"role":"user","content":["{SAID[:9]}","{SAID[9:]}"]}}'),
    "behind a system message in parts": chat(
        '{"role":"system","content":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral"}}]}', USER
    ),
    "behind tools that speak of messages": chat(USER, ANSWER, before=TOOLS + ","),
    "before tools": chat(SYSTEM, USER, after="," + TOOLS),
    "behind strings that look like it": chat(
        r'{"role":"system","content":"Say {\"role\":\"user\",\"content\":\"no\"} or \"messages\":[{\\"}', USER
    ),
    "beside Anthropic's system": chat(USER, ANSWER, before='"system":[{"type":"text","text":"Be brief."}],'),
    "behind a call and its result": chat(
        '{"role":"assistant","content":null,"tool_calls":[{"function":{"name":"user","arguments":"{\\"role\\":1}"}}]}',
        '{"role":"tool","tool_call_id":"a","content":"user"}',
        USER,
    ),
    "behind many": chat(*[SYSTEM] * 9, USER),
    "behind one that says nothing": chat('{"role":"user"}', USER),
    "behind what is no message": chat("1", '"user"', "[]", USER),
    "with a byte order mark": b"\xef\xbb\xbf" + chat(SYSTEM, USER).encode(),
    "beside names of many words": chat(
        USER, before='"x":"a_b_c_d_e_f_g_h_i_j_k",', after=',"y":"l_m_n_o_p_q_r_s_t_u_v"'
    ),
    "cut behind a part": f'{{"messages":[{{"role":"user","content":[{{"type":"text","text":"{SAID}"}}',
    "before what is no JSON": chat(SYSTEM, USER) + "]",
    "before what is broken": chat(SYSTEM, USER, "{"),
}
NOTHING = {
    "empty": b"",
    "an empty object": "{}",
    "no messages": '{"model":"m"}',
    "none in the list": chat(),
    "none of the user": chat(SYSTEM, ANSWER),
    "nothing said": chat('{"role":"user","content":""}'),
    "null": chat('{"role":"user","content":null}'),
    "no parts": chat('{"content":[],"role":"user"}'),
    "no list": '{"messages":{"role":"user","content":"x"}}',
    "only nested": f'{{"x":{chat(USER)}}}',
    "another role": chat('{"role":"user2","content":"x"}', '{"role":["user"],"content":"x"}'),
    "a list": f"[{chat(USER)}]",
    "no JSON": "messages",
    "broken before it": chat(USER, before="1,"),
    "a name without a value": chat('{"role" "user"}', USER),
}


@pytest.mark.parametrize("body", OPENINGS.values(), ids=OPENINGS)
def test_a_chat_opens_with_all_that_the_user_said_first(body: str | bytes) -> None:
    assert both_ways(body) == (None, OPENS)


@pytest.mark.parametrize("body", NOTHING.values(), ids=NOTHING)
def test_what_has_no_such_message_opens_with_nothing(body: str | bytes) -> None:
    assert both_ways(body) == (None, None)


RESPONSES = {
    "text": f'{{"input":"{SAID}","model":"m"}}',
    "text behind the model": f'{{"model":"m","input":"{SAID}"}}',
    "messages": f'{{"input":[{USER},{ANSWER}],"model":"m"}}',
    "items": '{"model":"m","input":[{"type":"message","role":"user","content":[{"type":"input_text",'
    f'"text":"{SAID}"}}]}}]}}',
    "items behind a developer's": '{"input":[{"type":"message","role":"developer","content":[{"type":"input_text",'
    f'"text":"x"}}]}},{{"type":"reasoning","summary":[]}},{USER}]}}',
}


@pytest.mark.parametrize("body", RESPONSES.values(), ids=RESPONSES)
def test_a_response_opens_with_its_input(body: str) -> None:
    assert both_ways(body, INPUT) == (None, OPENS)


def test_a_completion_opens_with_its_prompt() -> None:
    assert both_ways(f'{{"model":"m","prompt":"{SAID}"}}', PROMPT) == (None, OPENS)
    assert both_ways('{"model":"m","prompt":[1,2,3]}', PROMPT) == (None, None)


def test_a_picture_tells_conversations_apart() -> None:
    def asked(url: str) -> str:
        picture = f'{{"type":"image_url","image_url":{{"url":"{url}"}}}}'
        return chat(f'{{"role":"user","content":[{{"type":"text","text":"{SAID}"}},{picture}]}}')

    assert both_ways(asked("http://a/1")) != both_ways(asked("http://a/2"))


def test_a_reminder_that_all_share_does_not_make_them_one() -> None:
    def asked(text: str) -> str:
        shared = '{"type":"text","text":"<system-reminder>' + "Mind the rules. " * 400 + '</system-reminder>"}'
        return chat(f'{{"role":"user","content":[{shared},{{"type":"text","text":"{text}"}}]}}')

    assert both_ways(asked("Fix the test")) != both_ways(asked("Write a test"))


def test_the_end_of_a_long_message_counts() -> None:
    long = "same " * 30_000
    first, second = (scanned(chat(f'{{"role":"user","content":"{long}{end}"}}').encode()) for end in "ab")
    assert first != second
    assert first[1] is not None
    assert first[1][1] == len(long) + 1


@pytest.mark.parametrize("text", [r"a \"quoted\" word", r"back\\", r"\\\"", "\\u00e9\\n", "é"])
def test_escapes_end_no_text(text: str) -> None:
    assert both_ways(chat(SYSTEM, f'{{"role":"user","content":"{text}"}}', ANSWER)) == (
        None,
        (crc32(text.encode()), len(text.encode())),
    )


NESTED = '"x":{"prompt_cache_key":"no"}'
IDS = {
    "a cache key": chat(USER, before='"prompt_cache_key":"c-1",'),
    "a cache key last": chat(USER, after=',"prompt_cache_key":"c-1"'),
    "a cache key almost last": chat(USER, after=',"prompt_cache_key" : "c-1" , "store":false,"x":{"a":[1,"}"]}}'[:-1]),
    "a cache key behind a nested one": chat(USER, before=NESTED + ",", after=',"prompt_cache_key":"c-1"'),
    "a cache key before a nested one": chat(USER, before='"prompt_cache_key":"c-1",', after="," + NESTED),
    "a cache key before a session": chat(USER, before='"session_id":"s",', after=',"prompt_cache_key":"c-1"'),
    "a session": chat(USER, before='"session_id":"c-1",'),
    "a session last": chat(USER, after=',"session_id":"c-1"'),
    "a session before a user": chat(USER, before='"metadata":{"user_id":"u_session_1"},', after=',"session_id":"c-1"'),
    "a cache key before names of many words": chat(
        USER, before='"prompt_cache_key":"c-1",', after=',"y":"l_m_n_o_p_q_r_s_t_u_v"'
    ),
    "a session before names of many words": chat(
        USER, before='"session_id":"c-1",', after=',"y":"l_m_n_o_p_q_r_s_t_u_v"'
    ),
    "a cache key that is null": chat(USER, before='"prompt_cache_key":null,', after=',"session_id":"c-1"'),
    "a cache key that is empty": chat(USER, before='"session_id":"c-1",', after=',"prompt_cache_key":""'),
    # Of several members of one name Python's json, and so vLLM, takes the last.
    "two cache keys": chat(USER, before='"prompt_cache_key":"c-0",', after=',"prompt_cache_key":"c-1"'),
    "two cache keys behind each other": chat(USER, after=',"prompt_cache_key":"c-0","prompt_cache_key":"c-1"'),
    "two cache keys before the messages": chat(USER, before='"prompt_cache_key":"c-0","prompt_cache_key":"c-1",'),
    "two cache keys and a nested one": chat(
        USER, before='"prompt_cache_key":0,', after=',"prompt_cache_key":"c-1",' + NESTED
    ),
    "two sessions": chat(USER, before='"session_id":["c-0"],', after=',"session_id":"c-1"'),
    "two cache keys of which the last is null": chat(
        USER, before='"prompt_cache_key":"c-0","session_id":"c-1",', after=',"prompt_cache_key":null'
    ),
    "two cache keys of which the last is none": chat(
        USER, before='"prompt_cache_key":"c-0","session_id":"c-1",', after=',"prompt_cache_key":{"a":[1]},"x":1'
    ),
    "a cache key before what is broken": chat(
        USER, before='"prompt_cache_key":"c-1",', after=',],"prompt_cache_key":1'
    ),
}


@pytest.mark.parametrize("body", IDS.values(), ids=IDS)
def test_an_id_of_the_client_goes_before_the_opening(body: str) -> None:
    assert both_ways(body)[0] == b"c-1"
    assert both_ways(body, PROMPT)[0] == b"c-1"


@pytest.mark.parametrize("size", [1, 2, ID_LIMIT_BYTES - 1, ID_LIMIT_BYTES])
@pytest.mark.parametrize("name", ["prompt_cache_key", "session_id"])
def test_an_id_may_be_as_long_as_the_limit(name: str, size: int) -> None:
    assert both_ways(chat(USER, after=f',"{name}":"{"c" * size}"'))[0] == b"c" * size


@pytest.mark.parametrize(
    "user", ["user_1a_account_2b_session_3c", r"{\"device_id\":\"1\",\"session_id\":\"3c\"}"], ids=["word", "object"]
)
def test_claude_code_names_its_session_in_the_user(user: str) -> None:
    for body in (
        chat(USER, before=f'"metadata":{{"user_id":"{user}"}},'),
        chat(USER, after=f',"metadata":{{"x":{{"user_id":"no_session_"}},"user_id":"{user}"}}'),
    ):
        assert both_ways(body)[0] == user.encode()


NO_IDS = {
    "a user without a session": chat(USER, before='"metadata":{"user_id":"alice"},'),
    "a user beside metadata": chat(USER, before='"user_id":"u_session_1",'),
    "a user elsewhere": chat(USER, after=',"metadata":{"a":1},"x":{"user_id":"u_session_1"}'),
    "a user beside metadata that is none": chat(USER, after=',"metadata":7,"x":{"user_id":"u_session_1"}'),
    "an id in metadata": chat(USER, after=',"metadata":{"session_id":"s"}'),
    "an id in a tool": chat(USER, before='"tools":[{"properties":{"session_id":"s","prompt_cache_key":"s"}}],'),
    "an id in a message": chat(USER, r'{"role":"user","content":"\"session_id\":\"s\",\"prompt_cache_key\":\"s\""}'),
    "an id that is a number": chat(USER, after=',"session_id":7'),
    "an id that is too long": chat(USER, after=f',"prompt_cache_key":"{"x" * (ID_LIMIT_BYTES + 1)}"'),
    "the word": chat(USER, '{"role":"user","content":"my session_id"}'),
}


@pytest.mark.parametrize("body", NO_IDS.values(), ids=NO_IDS)
def test_what_only_looks_like_an_id_is_none(body: str) -> None:
    assert both_ways(body) == (None, OPENS)
    assert both_ways(body, PROMPT) == (None, None)


def test_what_stands_behind_the_limit_names_nothing() -> None:
    long = "x" * LIMIT_BYTES
    open_end = chat(f'{{"role":"user","content":"{long}')
    behind = chat(USER, f'{{"role":"user","content":"{long}"}}', after=',"prompt_cache_key":"c"')
    assert scanned(behind.encode()) == (None, OPENS)
    # What is before the limit is the same however much of the rest is here.
    found = {scanned((open_end + more).encode()) for more in ("", "x", "xyz" * 1000 + '"}]}')}
    assert found == {(None, (crc32(b"x" * TEXT_BYTES), TEXT_BYTES))}


SIZES = [TEXT_BYTES - 1, TEXT_BYTES, TEXT_BYTES + 1, LIMIT_BYTES - 200, LIMIT_BYTES, 2 * LIMIT_BYTES]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "content",
    [
        json.dumps,
        lambda text: json.dumps([{"type": "text", "text": text}]),
        lambda text: json.dumps([{"type": "text", "text": text[:1000]}, {"type": "text", "text": text[1000:]}]),
    ],
    ids=["text", "part", "parts"],
)
def test_what_stands_before_a_long_text_does_not_change_what_counts_of_it(
    content: Callable[[str], str], size: int
) -> None:
    text = "".join(map(str, range(size // 4)))[:size]
    message = f'{{"role":"user","content":{content(text)}}}'
    counts = text.encode()[:TEXT_BYTES]
    for before in ("", '"temperature":0.5,', LONG, f'"x":"{"y" * 60_000}",'):
        assert scanned(chat(message, before=before).encode()) == (None, (crc32(counts), len(counts)))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["messages", "model", "tools", "session_id", "prompt_cache_key", "metadata", "x"])
ROLES = st.sampled_from(["user", "system", "assistant", "tool"])
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=9)}), max_size=3)
MESSAGE = st.fixed_dictionaries({"role": ROLES, "content": st.text(max_size=9) | PARTS}) | st.fixed_dictionaries(
    {"content": st.text(max_size=9), "role": ROLES}, optional={"name": st.text(max_size=3)}
)
BODIES = st.dictionaries(NAMES, JSON, max_size=4).flatmap(
    lambda members: st.lists(MESSAGE, max_size=4).map(lambda messages: {**members, "messages": messages})
)


def expected(body: dict[str, object]) -> tuple[bool, bool]:
    """Whether an id is there, and whether a user message that says something."""
    ids = [body.get(name) for name in ("prompt_cache_key", "session_id")]
    said = [each["content"] for each in body["messages"] if each["role"] == "user"]  # type: ignore[attr-defined]
    first = said[0] if said else ""
    return any(isinstance(each, str) and each for each in ids), bool(
        first if isinstance(first, str) else "".join(part["text"] for part in first)
    )


@modest
@given(body=BODIES, spaced=st.booleans(), ascii_only=st.booleans())
def test_a_look_and_the_scan_agree_on_any_body(body: dict[str, object], spaced: bool, ascii_only: bool) -> None:
    raw = json.dumps(body, separators=(", ", ": ") if spaced else (",", ":"), ensure_ascii=ascii_only)
    session, text = both_ways(raw.encode(errors="replace"))
    named, opens = expected(body)
    assert (session is not None) is named
    assert named or (text is not None) is opens
