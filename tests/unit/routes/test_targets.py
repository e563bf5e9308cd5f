"""Raw request targets: which forms are taken, which spellings are refused, and that nothing is rewritten."""

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.errors import BadTarget
from gomodel.routes.targets import check_target, decoded_segments, shown_path, split_target


@pytest.mark.parametrize(
    ("raw", "path", "query"),
    [
        ("/", "/", ""),
        ("/v1/chat/completions", "/v1/chat/completions", ""),
        ("/a?", "/a", "?"),
        ("/a?x=1;y=2&z=a+b%20c&%2B=%26", "/a", "?x=1;y=2&z=a+b%20c&%2B=%26"),
        ("/a?b?c=/d", "/a", "?b?c=/d"),
        ("//evil.test/a", "//evil.test/a", ""),
        ("/a%3Fb", "/a%3Fb", ""),
        ("http://evil.test/a", "/a", ""),
        ("HTTPS://evil.test:8443/a?x", "/a", "?x"),
        ("http://[::1]:80/a", "/a", ""),
        ("http://evil.test", "/", ""),
        ("http://evil.test?x", "/", "?x"),
        ("http://evil.test//b/a", "//b/a", ""),
    ],
)
def test_origin_form_and_absolute_form_yield_their_path_and_query(raw: str, path: str, query: str) -> None:
    assert split_target(raw) == (path, query)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "*",
        "h:80",
        "a/b",
        "?x",
        "#f",
        " /a",
        "\\\\evil\\a",
        "http:",
        "http:/a",
        "http:///a",
        "http://?x",
        "http://user@h/a",
        "http://user:pw@h/a",
        "http://h\\@evil/a",
        "http://h#f",
        "ftp://h/a",
        "unix:///run/x",
        "xhttp://h/a",
    ],
)
def test_other_forms_are_bad_targets(raw: str) -> None:
    with pytest.raises(BadTarget):
        split_target(raw)


DOT_SEGMENTS = [
    "/a/../b",
    "/a/./b",
    "/..",
    "/.",
    "/a/..",
    "/a/../",
    "/%2e%2e/b",
    "/%2E%2e/b",
    "/.%2e/b",
    "/%2e./b",
    "/%2e/b",
    "/a/..;/b",
    "/a/.;/b",
    "/a/..;x=1/b",
    "/a/..%3b/b",
    "/a/%2e%2e%3Bx/b",
    "/a%2F../b",
    "/a/..%2fb",
    "/a%2f%2e%2e%2Fb",
    "/a%2F..",
    "//../b",
]


@pytest.mark.parametrize("path", DOT_SEGMENTS)
def test_a_dot_segment_in_any_spelling_is_refused(path: str) -> None:
    with pytest.raises(BadTarget, match="dot segment"):
        check_target(path, "")


@pytest.mark.parametrize(
    "path",
    [
        "/a\\b",
        "/a%5Cb",
        "/a%5cb",
        "/..%5c..",
        "/a%00",
        "/a%0d%0aX:y",
        "/a%1f",
        "/a%1F",
        "/a%7f",
        "/a%7F",
        "/%zz",
        "/%4",
        "/%",
        "/a%",
        "/a%2",
        "/%%41",
        "/%u0041",
        "/% 41",
        "/a b",
        "/a\x00",
        "/a\tb",
        "/a\r\nb",
        "/a\x7f",
        "/a#frag",
        "/#",
        "/é",
        "/\u2028",
        "/\udcff",
    ],
)
def test_what_servers_read_differently_is_refused_in_the_path(path: str) -> None:
    with pytest.raises(BadTarget):
        check_target(path, "")


@pytest.mark.parametrize("query", ["?a#b", "?a b", "?\x00", "?\n", "?\x7f", "?é", "?\udcff"])
def test_raw_controls_raw_bytes_and_fragments_are_refused_in_the_query(query: str) -> None:
    with pytest.raises(BadTarget):
        check_target("/a", query)


@pytest.mark.parametrize(
    "query", ["", "?", "?a=%zz&b=%4&%", "?p=../..&q=%2e%2e/", "?w=a\\b%5c", "?n=%00%0d%0a", "?a=1&a=2"]
)
def test_an_encoded_or_odd_query_is_data(query: str) -> None:
    check_target("/a", query)


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/a%2Fb",
        "/a%2fb",
        "/a//b/",
        "/...",
        "/a..b/.c/d.",
        "/.../x",
        "/a;..",
        "/%252e%252e/b",
        "/%C3%A9",
        "/%FF",
        "/%20",
        "/%23%3F",
        "/Llama-3.1-8B",
        "/~user/!$&'()*+,;=:@",
    ],
)
def test_harmless_paths_pass(path: str) -> None:
    check_target(path, "")


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/a/b", ["", "a", "b"]),
        ("/a%2Fb", ["", "a", "b"]),
        ("/%73leep;x=1/", ["", "sleep", ""]),
        ("/a%252Fb", ["", "a%2Fb"]),
    ],
)
def test_decoded_segments_are_the_most_generous_reading(path: str, segments: list[str]) -> None:
    assert decoded_segments(path) == segments


_PIECES = st.sampled_from(
    ["/", ".", "..", ";", "%2e", "%2F", "%5c", "\\", "%00", "%25", "%", "a", "?", "#", "é", "\udc80"]
)


@given(st.lists(_PIECES | st.characters(), max_size=12).map("".join))
def test_what_passes_has_no_dot_segment_and_only_visible_ascii(tail: str) -> None:
    raw = "/" + tail
    path, query = split_target(raw)
    assert path + query == raw
    try:
        check_target(path, query)
    except BadTarget:
        return
    assert all(0x21 <= ord(char) <= 0x7E and char != "#" for char in raw)
    decoded = unquote_to_bytes(path)
    assert b"\\" not in decoded
    assert all(byte >= 0x20 and byte != 0x7F for byte in decoded)
    assert all(segment not in (b".", b"..") for segment in decoded.split(b"/"))


SHOWN = [
    ("/p/vllm/v1/files", "/p/vllm/v1/files"),
    ("/a?b=c", "/a"),
    ("/a#b?c", "/a"),
    ("/a?b#c", "/a"),
    ("http://host/a/b?c", "/a/b"),
    ("HTTP://user:secret@host:1/a", "/a"),
    ("ftp://user:secret@host", "/"),
    ("user:secret@host:443", ""),
    ("*", ""),
    ("", ""),
    ("?a", ""),
    ("/%0A%41", "/%0A%41"),
    ("/\x1b[31m\x7f", "/%1B[31m%7F"),
    ("/\u202ecod.exe", "/%E2%80%AEcod.exe"),
    ("/\udcff", "/%FF"),
    ("/a b", "/a%20b"),
    ("/" + "x" * 17, "/" + "x" * 17),
    ("/" + "x" * 18, "/" + "x" * 17 + "..."),
    ("/" + "\u202e" * 12, "/%E2%80%AE%E2%80%A..."),
]


@pytest.mark.parametrize(("raw", "path"), SHOWN)
def test_a_path_is_shown_without_what_may_be_a_secret_or_an_order_to_a_terminal(raw, path):
    assert shown_path(raw, 18) == path


@given(st.lists(_PIECES | st.characters(exclude_categories=["Cs"]), max_size=40).map("".join))
def test_what_is_shown_of_any_target_is_short_visible_ascii(raw: str) -> None:
    shown = shown_path(raw, 20)
    assert len(shown) <= 23
    assert all("!" <= char <= "~" for char in shown)
    assert "?" not in shown
    assert "#" not in shown
