"""Each spelling of a value and of an address, accepted and refused, as a vector."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.config import addresses, values
from gomodel.config.header_fields import bearer_token, fixed_fields, header_names
from gomodel.config.servers import servers

ACCEPTED: list[tuple[Callable[[str], Any], str, Any]] = [
    *[(values.boolean, text, True) for text in ("true", "1", "yes", "on", "TRUE", "True", "YES", "On", "oN")],
    *[(values.boolean, text, False) for text in ("false", "0", "no", "off", "FALSE", "False", "NO", "Off")],
    (values.duration_s, "600", 600.0),
    (values.duration_s, "0", 0.0),
    (values.duration_s, "0s", 0.0),
    (values.duration_s, "007", 7.0),
    (values.duration_s, "2.5", 2.5),
    (values.duration_s, "500ms", 0.5),
    (values.duration_s, "100ms", 0.1),
    (values.duration_s, "700ms", 0.7),
    (values.duration_s, "1ms", 0.001),
    (values.duration_s, "0.5ms", 0.0005),
    (values.duration_s, "30s", 30.0),
    (values.duration_s, "1.5s", 1.5),
    (values.duration_s, "10m", 600.0),
    (values.duration_s, "1h", 3600.0),
    (values.duration_s, "1h30m", 5400.0),
    (values.duration_s, "1h30s", 3630.0),
    (values.duration_s, "1h30m15s", 5415.0),
    (values.duration_s, "1h2m3s4ms", 3723.004),
    (values.duration_s, "1.5h", 5400.0),
    (values.duration_s, "90m", 5400.0),
    (values.duration_s, "1m500ms", 60.5),
    (values.duration_s, "876000h", 876000 * 3600.0),
    (values.timeout_s, "1ms", 0.001),
    (values.timeout_s, "30s", 30.0),
    (values.optional_timeout_s, "0", None),
    (values.optional_timeout_s, "0s", None),
    (values.optional_timeout_s, "none", None),
    (values.optional_timeout_s, "None", None),
    (values.optional_timeout_s, "10m", 600.0),
    (values.size_bytes, "1", 1),
    (values.size_bytes, "1048576", 1048576),
    (values.size_bytes, "500K", 512000),
    (values.size_bytes, "10M", 10 * 1024**2),
    (values.size_bytes, "1G", 1024**3),
    (values.size_bytes, "10m", 10 * 1024**2),
    (values.size_bytes, "10MB", 10 * 1024**2),
    (values.size_bytes, "10mb", 10 * 1024**2),
    (values.size_bytes, "10MiB", 10 * 1024**2),
    (values.size_bytes, "7B", 7),
    (values.size_bytes, "64KiB", 65536),
    (values.size_between("1K", "1M"), "1024", 1024),
    (values.size_between("1K", "1M"), "1M", 1024**2),
    (values.integer(0, 65535), "0", 0),
    (values.integer(0, 65535), "65535", 65535),
    (values.integer(0, 65535), "08080", 8080),
    (values.integer(1), "1", 1),
    (values.integer(1), "2147483647", 2147483647),
    (values.number(0, 1), "0", 0.0),
    (values.number(0, 1), "1", 1.0),
    (values.number(0, 1), "0.1", 0.1),
    (values.number(0, 1), "1.0", 1.0),
    (values.number(1, 1000), "1.5", 1.5),
    (values.choice("text", "json"), "JSON", "json"),
    (values.choice("warning", aliases={"warn": "warning"}), "Warn", "warning"),
    (fixed_fields, "X-Team: search", (("X-Team", "search"),)),
    (
        fixed_fields,
        " X-Team :search: b |x-caller:\t{key}\t",
        (("X-Team", "search: b"), ("x-caller", "{key}")),
    ),
    (values.aliases, "gpt=vllm/m", (("gpt", "vllm/m"),)),
    (values.aliases, " a* = b/c=d , e=f", (("a*", "b/c=d"), ("e", "f"))),
    (values.comma_list, "a", ("a",)),
    (values.comma_list, "a,b", ("a", "b")),
    (values.comma_list, " a , b ,", ("a", "b")),
    (values.comma_list, ",,b,,a,", ("b", "a")),
    (values.comma_list, "b,a,b", ("b", "a")),
    (values.comma_list, "org/model:v1,Org/Model:v1", ("org/model:v1", "Org/Model:v1")),
    (values.comma_list, "my model", ("my model",)),
    (values.lower_set, "VLLM, openai,vllm", frozenset({"vllm", "openai"})),
    (header_names, "X-Vllm-Priority,x-session-id", frozenset({"x-vllm-priority", "x-session-id"})),
    (header_names, "X_Under.score!", frozenset({"x_under.score!"})),
    (bearer_token, "sk-123", "sk-123"),
    (bearer_token, "a+/=~!\"'\\$#", "a+/=~!\"'\\$#"),
    (addresses.listen_host, "0.0.0.0", "0.0.0.0"),
    (addresses.listen_host, "127.0.0.1", "127.0.0.1"),
    (addresses.listen_host, "::", "::"),
    (addresses.listen_host, "[::]", "::"),
    (addresses.listen_host, "::1", "::1"),
    (addresses.listen_host, "[::1]", "::1"),
    (addresses.listen_host, "fe80::1%eth0", "fe80::1%eth0"),
    (addresses.listen_host, "localhost", "localhost"),
    (addresses.listen_host, "gpu_1.lan", "gpu_1.lan"),
    (addresses.listen_host, "3com.example", "3com.example"),
    (addresses.socket_path, "/run/gomodel.sock", "/run/gomodel.sock"),
    (addresses.socket_path, "/" + "a" * 106, "/" + "a" * 106),
    (addresses.socket_path, "/run/with space.sock", "/run/with space.sock"),
    (addresses.route_path, "/", ""),
    (addresses.route_path, "/g", "/g"),
    (addresses.route_path, "/g/", "/g"),
    (addresses.route_path, "/a/b.c/d-e_f~g", "/a/b.c/d-e_f~g"),
    (addresses.route_path, "/a@b:c;d=e,f", "/a@b:c;d=e,f"),
    (addresses.route_path, "/...", "/..."),
    (addresses.route_path, "/.well-known", "/.well-known"),
]

REFUSED: list[tuple[Callable[[str], Any], str, str]] = [
    (values.comma_list, "a,b\x07", "'b\\x07' holds a control character; use a comma list such as a,b"),
    *[
        (values.boolean, text, "true, 1, yes, on or false, 0, no, off")
        for text in ("", " ", "2", "-1", "tru", "y", "n", "t", "enabled", "none", "true ", "ja", "01", "１")
    ],
    *[
        (values.duration_s, text, "is not a duration; use seconds (600) or 500ms, 30s, 10m, 1h30m")
        for text in (
            *(
                "",
                " ",
                "s",
                "ms",
                "h",
                "10 s",
                "10S",
                "10M",
                "10H",
                "500MS",
                "10w",
                "10us",
                "10sec",
                "10min",
                "+5",
                "1e3",
            ),
            *(
                "1h30",
                "30m1h",
                "1s1h",
                "5s5s",
                "1h1h",
                "inf",
                "nan",
                "none",
                ".5",
                "5.",
                "1.2.3",
                "1_000",
                "1,5",
                "0x10",
            ),
            *("١٠", "５s", "10s\n", "9" * 16, "9" * 5000, "1h 30m", "P1D"),
        )
    ],
    *[(values.duration_s, text, "is negative") for text in ("-1", "-5s", "-0", "-")],
    *[
        (values.duration_s, text, "is longer than 100 years")
        for text in ("876001h", "999999999999", "999999999999999h")
    ],
    *[(values.timeout_s, text, "would time out at once") for text in ("0", "0s", "0ms", "0h0m")],
    (values.timeout_s, "x", "is not a duration"),
    (values.timeout_s, "-1s", "is negative"),
    *[(values.optional_timeout_s, text, "is not a duration") for text in ("off", "never", "infinite", "")],
    (values.optional_timeout_s, "-1", "is negative"),
    *[
        (values.size_bytes, text, "is not a size; use bytes or 500K, 10M, 1G")
        for text in (
            "",
            "M",
            "10 M",
            "1.5G",
            "-1",
            "+1",
            "10T",
            "10P",
            "1e6",
            "10Ki",
            "10iB",
            "0x10",
            "1_000",
            "１０M",
            "9" * 16,
        )
    ],
    *[(values.size_bytes, text, "would refuse every body") for text in ("0", "0M", "00K")],
    *[
        (values.size_between("1K", "1M"), text, "use a size from 1K to 1M")
        for text in ("0", "1023", "1048577", "2M", "1", "99G")
    ],
    (values.size_between("1K", "1M"), "-1", "is not a size"),
    *[
        (values.integer(0, 65535), text, "use an integer, from 0 to 65535")
        for text in (
            "65536",
            "-1",
            "+1",
            "",
            " 1",
            "1.0",
            "1e3",
            "0x1",
            "1_0",
            "８",
            "http",
            "tcp://10.0.0.1:8080",
            "9" * 5000,
        )
    ],
    *[(values.integer(1), text, "use an integer, 1 or more") for text in ("0", "-1", "2147483648", "two")],
    *[
        (values.number(0, 1), text, "use a number from 0 to 1")
        for text in ("1.1", "-0.1", "2", "nan", "inf", "1e-1", ".5", "1.", "0,5", "", "½")
    ],
    *[(values.number(1, 1000), text, "use a number from 1 to 1000") for text in ("0.99", "0", "1001", "-2")],
    *[
        (values.choice("debug", "warning", aliases={"warn": "warning"}), text, "use debug, warning, warn")
        for text in ("", "trace", "warning ", "10")
    ],
    *[
        (fixed_fields, text, "has no name and value")
        for text in ("", "X-Team", "X-Team:", ": a", "X Team: a", "X-Team: a|", "|X-Team: a", "X\u00e9: a", "(X): a")
    ],
    (fixed_fields, "X-A: a|X-B", "field 2 has no name and value"),
    *[(fixed_fields, f"X-Team: a{text}b", "outside printable ASCII") for text in ("\r\n", "\x00", "\x7f", "\u00e9")],
    *[
        (fixed_fields, f"{name}: a", "is the gateway's own to write")
        for name in ("Host", "CONNECTION", "te", "Content-Length", "Authorization", "X-Gomodel-Replica", "X-Request-Id")
    ],
    (fixed_fields, "X-Team: a|x-team: b", "'x-team' is there twice"),
    *[(values.aliases, text, "is not 'alias=<instance>/<model>'") for text in ("gpt", "=b/c", "gpt=", " = ")],
    *[(values.aliases, text, "an alias may have one '*'") for text in ("a**=b/c", "a*b*=c", "a=b*", "a*=b/*")],
    *[(values.aliases, text, "holds a control character") for text in ("a\x00=b/c", "a=b\u2028c")],
    (values.aliases, "a=b/c,d=e/f,a=g/h", "'a' stands for two models"),
    (values.aliases, "a=b,b=c/d", "'b', which is an alias"),
    *[(values.comma_list, text, "names nothing") for text in ("", ",", " , ,", "\t")],
    *[(values.comma_list, text, "holds a control character") for text in ("a\x00", "a,b\nc", "a\x7fb")],
    *[
        (header_names, text, "is not a header name")
        for text in ("X Foo", "X:Foo", "X-Foo:", "a,(b)", "ä", "X-Foo;X-Bar", "X/Y", '"X"')
    ],
    *[(header_names, text, "delimits the body") for text in ("Content-Length", "x-foo, TRANSFER-ENCODING")],
    *[
        (header_names, text, "gomodel writes its own")
        for text in ("Host", "x-foo,X-Request-ID", "UPGRADE", "connection")
    ],
    (header_names, ",", "names nothing"),
    *[
        (bearer_token, text, "holds whitespace, a control character or a character outside ASCII")
        for text in ("", " ", "a b", " a", "a ", "a\n", "a\t", "\x00", "a\x7f", "clé", "ключ", "a\udc80", "a\u00a0b")
    ],
    *[
        (addresses.listen_host, text, "is not a host")
        for text in (
            *(
                "",
                " ",
                "*",
                "0.0.0.0:8080",
                "http://0.0.0.0",
                "localhost:80",
                "[localhost]",
                "[127.0.0.1]",
                "[::1",
                "::1]",
            ),
            *(
                "256.0.0.1",
                "1.2.3",
                "0",
                "010.0.0.1",
                "1.2.3.4.5",
                ":::",
                "a b",
                "a..b",
                ".a",
                "ä.example",
                "a/b",
                "[::1]:80",
            ),
        )
    ],
    *[
        (addresses.socket_path, text, "is not a socket path")
        for text in (
            "",
            "/",
            "run/x.sock",
            "./x.sock",
            "/run/",
            "unix:/x",
            "@abstract",
            "/a\x00b",
            "/a\n",
            "/" + "a" * 107,
            "/" + "ä" * 54,
        )
    ],
    *[(addresses.route_path, text, "does not start with /") for text in ("", "g", "g/", "http://h/g", "?", "\\g")],
    *[(addresses.route_path, text, "has an empty path segment") for text in ("//", "//g", "/a//b", "/g//")],
    *[
        (addresses.route_path, text, "has a dot segment")
        for text in ("/.", "/..", "/a/../b", "/a/./b", "/a/..", "/a/../")
    ],
    *[(addresses.route_path, text, "holds a percent sign") for text in ("/%41", "/%2e%2e", "/a%", "/a%2Fb")],
    *[
        (addresses.route_path, text, "does not belong there")
        for text in ("/a b", "/a?b", "/a#b", "/a\\b", "/ä", "/{x}", '/"', "/<x>", "/a\n", "/a\x00")
    ],
]


def vector_id(value: object) -> str:
    if callable(value):
        return getattr(value, "__qualname__", "parser").split(".")[0]
    if isinstance(value, frozenset):
        return ascii(sorted(value))[:30]  # in one order for every process that runs a part of the suite
    return ascii(value)[:30]


@pytest.mark.parametrize(("parse", "text", "expected"), ACCEPTED, ids=vector_id)
def test_an_accepted_spelling_has_this_value(parse: Callable[[str], Any], text: str, expected: object) -> None:
    value = parse(text)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(("parse", "text", "message"), REFUSED, ids=vector_id)
def test_any_other_spelling_is_refused_with_this_message(parse: Callable[[str], Any], text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(text)


@pytest.mark.parametrize(("parse", "text", "message"), REFUSED, ids=vector_id)
def test_a_message_is_one_printable_line_of_bounded_length(
    parse: Callable[[str], Any], text: str, message: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse(text)
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 250
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [("", "''"), ("a\n", "'a\\n'"), ("x" * 60, f"'{'x' * 60}'"), ("x" * 61, f"'{'x' * 57}...'"), ("é", "'é'")],
)
def test_what_is_quoted_is_cut_behind_sixty_characters(text: str, shown: str) -> None:
    assert values.quoted(text) == shown


@pytest.mark.parametrize("text", ["hunter2 ", "\nhunter2", "hunter2é"])
def test_a_refused_key_is_never_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="bearer token") as caught:
        bearer_token(text)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("text", "expected"), [
    ("${A}", True), ("http://${HOST}/v1", True), ("${}", True), ("${A:-b}", True), ("${A:?x}", True), ("a${b}c", True),
    ("", False), ("$A", False), ("{A}", False), ("${", False), ("${A", False), ("$ {A}", False), ("A}${", False),
])  # fmt: skip
def test_a_reference_is_a_dollar_and_a_pair_of_braces(text: str, expected: bool) -> None:
    assert values.has_reference(text) is expected


PARSERS = sorted({parse for parse, _, _ in [*ACCEPTED, *REFUSED]} | {servers}, key=vector_id)


@given(st.text())
def test_no_text_makes_a_parser_fail_in_any_other_way_than_a_printable_valueerror(text: str) -> None:
    for parse in PARSERS:
        message = ""
        try:
            parse(text)
        except ValueError as error:
            message = str(error)
        assert message.isprintable()


@given(st.integers(0, 100), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: int, millis: int) -> None:
    expected = (hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + millis) / 1000
    assert values.duration_s(f"{hours}h{minutes}m{seconds}s{millis}ms") == expected


@pytest.mark.parametrize(
    "text",
    [
        "redis://redis:6379/0",
        "redis://:p%40ss@redis",
        "rediss://user:pass@redis.example:6380/1",
        "unix:///run/redis.sock",
    ],
)
def test_a_redis_may_be_anywhere_that_its_client_knows(text: str) -> None:
    assert values.redis_url(text) == text


@pytest.mark.parametrize(
    "text",
    ["redis:6379", "xredis://:hunter2@redis", "http://:hunter2@redis", "redis://", "unix://", "redis://:hunter2@a b"],
)
def test_another_url_is_no_redis_and_is_not_quoted(text: str) -> None:
    with pytest.raises(ValueError, match="is no URL such as") as caught:
        values.redis_url(text)
    assert "hunter2" not in str(caught.value)


def test_without_the_package_a_redis_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install gomodel\[redis\]"):
        values.redis_url("redis://redis")
