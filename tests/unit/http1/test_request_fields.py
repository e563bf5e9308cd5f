"""Which fields cross, each way, by the rules alone: raw pairs in, raw lines out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.errors import BadRequest
from gomodel.http1.field_kinds import SESSION_NAMES, kinds_of_fields
from gomodel.http1.head import request_head, written_head
from gomodel.http1.hop_by_hop import connection_options
from gomodel.http1.private_fields import BATCH_OF, OWNER
from gomodel.http1.request_fields import RequestFields
from gomodel.http1.response_fields import ResponseFields

NO_STRIP: frozenset[bytes] = frozenset()
OWN = b"Host: vllm:8000\r\nAuthorization: Bearer k\r\n"
# Every name whose value some rule looks at, and others; in all cases a name may be written in.
NAMES = [
    *("Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "TE", "Trailer"),
    *("Transfer-Encoding", "Upgrade", "HTTP2-Settings", "Host", "Authorization", "X-Api-Key", "Api-Key", "Cookie"),
    *("Expect", "X-Request-Id", "Content-Length", "Content-Type", "Traceparent", "Accept", "User-Agent", "Via"),
    *("X-Custom", "Date", "Server", "Set-Cookie", "Cache-Control", "Content-Encoding", "X-Accel-Buffering"),
]
ENDS_HERE_IN_REQUESTS = {name.lower() for name in NAMES[:17]}


def fields(*pairs: tuple[bytes, bytes], strip: frozenset[bytes] = NO_STRIP) -> RequestFields:
    return RequestFields(pairs, strip)


def upstream_lines(made: RequestFields, removed: int = 0) -> list[bytes]:
    """The head's field lines."""
    head = request_head("POST", "/v1/x?y=%2F", made, OWN, b"id-1", removed)
    start, *lines = head.split(b"\r\n")
    assert start == b"POST /v1/x?y=%2F HTTP/1.1"
    assert lines[-2:] == [b"", b""]
    return lines[:-2]


def crossing(*pairs: tuple[bytes, bytes], strip: frozenset[bytes] = NO_STRIP, removed: int = 0) -> list[bytes]:
    """The lines of a request that cross, without those the gateway writes itself."""
    lines = upstream_lines(fields(*pairs, strip=strip), removed)
    assert lines[:2] == [b"Host: vllm:8000", b"Authorization: Bearer k"]
    assert lines[-1] == b"X-Request-Id: id-1"
    return lines[2:-1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", [str.lower, str.upper, str.title, str])
def test_a_request_field_crosses_or_ends_here_in_any_case_even_when_empty(name, case):
    raw = case(name).encode()
    for value in (b"1", b""):
        if name == "Content-Length" and not value:
            continue  # refused by the parser
        got = crossing((raw, value))
        if name == "Transfer-Encoding":
            assert got == [b"Transfer-Encoding: chunked"]
        elif name.lower() in ENDS_HERE_IN_REQUESTS:
            assert got == []
        else:
            assert got == [raw + b": " + value]


FIELD = st.tuples(
    st.sampled_from([b"X-A", b"x-a", b"Set-Cookie", b"Via", b"Warning"]),
    st.binary(max_size=20).map(lambda value: value.translate(None, b"\0\r\n")),
)


@given(st.lists(FIELD, max_size=12))
def test_what_crosses_keeps_order_duplicates_and_every_byte_both_ways(pairs):
    assert crossing(*pairs) == [name + b": " + value for name, value in pairs]
    assert ResponseFields(pairs).lines == [name + b": " + value + b"\r\n" for name, value in pairs]


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ([b"close"], {b"close"}),
        ([b"Keep-Alive, X-A"], {b"keep-alive", b"x-a"}),
        ([b" x-a\t, ,,\tX-B "], {b"x-a", b"x-b"}),
        ([b"x-a", b"x-b, x-c"], {b"x-a", b"x-b", b"x-c"}),
        ([b"", b" , "], set()),
        ([b"x-a;q=1"], {b"x-a;q=1"}),
    ],
)
def test_connection_options_are_of_all_lines_without_case_or_space(values, options):
    assert connection_options(values) == options


def test_what_connection_names_in_a_request_ends_here():
    made = fields(
        (b"X-A", b"1"), (b"Connection", b"x-a, close"), (b"x-b", b"2"), (b"X-AB", b"3"), (b"connection", b"X-B")
    )
    made.check(http_10=False)
    assert upstream_lines(made)[2:-1] == [b"X-AB: 3"]


@pytest.mark.parametrize("option", [b"Content-Length", b"TRANSFER-ENCODING", b"host", b"close, host"])
def test_a_request_whose_connection_names_framing_or_routing_is_refused(option):
    with pytest.raises(BadRequest):
        fields((b"Connection", option)).check(http_10=False)


@pytest.mark.parametrize(
    ("codings", "http_10", "good"),
    [
        ([b"chunked"], False, True),
        ([b"Chunked"], False, True),
        ([b"chunked"], True, False),
        ([b"gzip, chunked"], False, False),
        ([b"chunked, chunked"], False, False),
        ([b"chunked", b"chunked"], False, False),
        ([b"gzip"], False, False),
        ([b""], False, False),
    ],
)
def test_the_only_coding_of_a_request_is_chunked_and_not_in_http_1_0(codings, http_10, good):
    made = fields(*((b"Transfer-Encoding", coding) for coding in codings))
    if good:
        made.check(http_10)
        assert made.chunked
    else:
        with pytest.raises(BadRequest):
            made.check(http_10)


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"a",
        b"a.b-c_d:80",
        b"a:",
        b"127.0.0.1:8080",
        b"[::1]",
        b"[2001:db8::1]:443",
        b"xn--bcher-kva.example",
        b"%41",
    ],
)
def test_a_host_is_a_name_or_an_address_and_a_port(host):
    fields((b"Host", host)).check(http_10=False)


@pytest.mark.parametrize(
    "host",
    [
        b"a b",
        b"a/c",
        b"u@a",
        b"a:b",
        b"a:123456",
        b"[::1",
        b"::1",
        b"a,b/c",
        b"a\xff",
        b"a?b",
        b"a#b",
        b"a\\b",
        b"[a]b",
        b"<a>",
    ],
)
def test_any_other_host_is_refused(host):
    with pytest.raises(BadRequest):
        fields((b"Host", host)).check(http_10=False)


@pytest.mark.parametrize("given_id", [b"a", b"A-Z_0.9", b"x" * 128])
def test_a_clients_request_id_is_taken(given_id):
    assert fields((b"x-REQUEST-id", given_id)).request_id == given_id


@pytest.mark.parametrize("given_id", [b"", b"x" * 129, b"a b", b"a\n", b"a,b", b"\xff", b"a/b", "\u00e9".encode()])
def test_a_request_id_that_could_not_be_copied_anywhere_is_not(given_id):
    assert fields((b"X-Request-Id", given_id)).request_id is None


TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_the_operators_list_takes_fields_away():
    pairs = [(b"X-Vllm-Priority", b"1"), (b"x-data-PARALLEL-rank", b"2"), (b"X-Kept", b"3"), (b"Traceparent", b"00-1")]
    strip = frozenset({b"x-vllm-priority", b"x-data-parallel-rank", b"traceparent"})
    assert crossing(*pairs, strip=strip) == [b"X-Kept: 3"]


def test_content_length_is_corrected_where_it_stands_and_only_it():
    pairs = [(b"A", b"10"), (b"content-LENGTH", b"10"), (b"X-Content-Length", b"10")]
    assert crossing(*pairs) == [b"A: 10", b"content-LENGTH: 10", b"X-Content-Length: 10"]
    assert crossing(*pairs, removed=4) == [b"A: 10", b"content-LENGTH: 6", b"X-Content-Length: 10"]


def test_a_chunked_request_stays_chunked_and_gets_no_length():
    made = fields((b"Transfer-Encoding", b"Chunked"), (b"A", b"1"))
    assert made.content_length is None
    assert upstream_lines(made, removed=4)[2:] == [b"A: 1", b"Transfer-Encoding: chunked", b"X-Request-Id: id-1"]


def test_the_facts_of_a_request_are_kept_for_the_gateway():
    made = fields(
        (b"Authorization", b"Bearer a"),
        (b"authorization", b"Basic b"),
        (b"X-API-KEY", b"c"),
        (b"Api-Key", b"d"),
        (b"Origin", b"https://a.test"),
        (b"Expect", b"100-continue"),
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"007"),
        (b"traceparent", TRACE),
        (b"Host", b"h"),
    )
    assert made.authorization == [b"Bearer a", b"Basic b"]
    assert (made.keys, made.origin) == ([(b"x-api-key", b"c"), (b"api-key", b"d")], b"https://a.test")
    assert (made.expect, made.content_type, made.content_length) == (b"100-continue", b"application/json", 7)
    assert (made.trace, made.host, made.chunked) == (TRACE, b"h", False)


def test_what_is_for_the_gateway_alone_is_known_and_goes_nowhere():
    made = fields((b"X-Gomodel-Replica", b"gpu-1"), (OWNER.encode(), b"alice"), (BATCH_OF.encode(), b"batch_1"))
    assert (made.replica, made.owner, made.batch, made.forwarded) == (b"gpu-1", b"alice", b"batch_1", [])


@pytest.mark.parametrize(
    ("codings", "expected"),
    [
        ([b"gzip"], b"gzip"),
        ([b"gzip", b"br"], b"gzip, br"),
        ([b"identity"], b""),
        ([b""], b""),
        ([b"Identity", b"gzip"], b"gzip"),
        ([b"gzip", b"identity"], b"gzip"),
    ],
)
def test_a_body_is_coded_by_all_that_its_fields_name_but_identity(codings, expected):
    pairs = [(b"Content-Encoding", each) for each in codings]
    made = fields(*pairs)
    assert (made.content_coding, made.forwarded) == (expected, pairs)


AUTH = b"Authorization"


@pytest.mark.parametrize(
    ("pairs", "shown"),
    [
        ([], []),
        ([(AUTH, b"Bearer a")], [b"a"]),
        ([(AUTH, b"bEARER  a ")], [b"a"]),
        ([(AUTH, b"Basic a")], []),
        ([(AUTH, b"Bearer")], [b""]),
        ([(AUTH, b"Bearer a b")], [b"a b"]),
        ([(b"X-Api-Key", b"b"), (AUTH, b"Bearer a"), (b"Api-Key", b"c")], [b"a", b"b", b"c"]),
        ([(b"X-Api-Key", b"b"), (AUTH, b"Basic a")], [b"b"]),
        ([(b"Sec-WebSocket-Protocol", b"realtime, openai-insecure-api-key.d"), (b"Api-Key", b"c")], [b"d", b"c"]),
        # Twice is nowhere, even where both are the same.
        ([(AUTH, b"Bearer a"), (AUTH, b"Bearer a")], []),
        ([(AUTH, b"Bearer a"), (AUTH, b"Basic a"), (b"Api-Key", b"c")], []),
        ([(b"Api-Key", b"c"), (b"api-key", b"c")], []),
        ([(AUTH, b"Bearer a"), (b"Api-Key", b"c"), (b"X-Api-Key", b"b"), (b"API-KEY", b"d")], []),
    ],
)
def test_a_key_counts_wherever_it_stands_unless_it_stands_there_twice(pairs, shown):
    assert fields(*pairs).presented() == shown


@pytest.mark.parametrize("name", SESSION_NAMES)
def test_a_session_is_known_by_its_header_which_goes_on(name):
    pair = (name.title().encode(), b"s-1")
    made = fields((b"X-Correlation-ID", b"no"), pair)
    assert (made.session, made.forwarded) == (b"s-1", [(b"X-Correlation-ID", b"no"), pair])
    stripped = fields(pair, strip=frozenset({name.encode()}))
    assert (stripped.session, stripped.forwarded) == (b"s-1", [])


def test_of_several_sessions_the_likeliest_name_counts_wherever_it_stands():
    pairs = [(name.encode(), b"%d" % at) for at, name in enumerate(SESSION_NAMES)]
    assert fields(*pairs).session == fields(*reversed(pairs)).session == b"0"
    assert fields((b"X-Session-ID", b""), *pairs[1:]).session == b"1"
    assert fields((b"Session-Id", b"a"), (b"session-id", b"b")).session == b"a"


def test_an_operator_names_further_sessions_but_none_that_mean_something_else():
    kinds = kinds_of_fields((*SESSION_NAMES, "X-Chat", "Authorization"))
    made = RequestFields([(b"x-chat", b"c"), (b"Authorization", b"Bearer k")], NO_STRIP, kinds)
    assert (made.session, made.authorization, made.forwarded) == (b"c", [b"Bearer k"], [(b"x-chat", b"c")])
    assert fields((b"x-chat", b"c")).session == b""


@pytest.mark.parametrize(
    ("offers", "forwarded", "keys", "offered"),
    [
        ([b"realtime,  x"], [b"realtime,  x"], [], None),
        ([b"openai-insecure-api-key"], [b"openai-insecure-api-key"], [], None),
        ([b"realtime, openai-insecure-api-key.k1,x"], [b"realtime, x"], [b"k1"], [b"realtime", b"x"]),
        ([b"openai-insecure-api-key.a.b"], [], [b"a.b"], []),
        ([b"x", b"openai-insecure-api-key.k", b"y"], [b"x", b"y"], [b"k"], []),
        ([b"openai-insecure-api-key.k, openai-insecure-api-key.k"], [], [b"k", b"k"], []),
    ],
)
def test_a_key_among_the_subprotocols_ends_here_and_the_others_go_on(offers, forwarded, keys, offered):
    made = fields(*((b"Sec-WebSocket-Protocol", each) for each in offers))
    assert [value for _, value in made.forwarded] == forwarded
    assert ([key for _, key in made.keys], made.offered) == (keys, offered)


@pytest.mark.parametrize(
    "given",
    [b"", b"00-1", TRACE + b"-more", TRACE.upper(), TRACE[:-1], b"x" + TRACE[1:], TRACE + b"\n", b"<script>" * 100],
)
def test_a_traceparent_of_another_shape_crosses_but_is_no_fact(given):
    made = fields((b"Traceparent", given))
    assert (made.trace, made.forwarded) == (b"", [(b"Traceparent", given)])


@pytest.mark.parametrize("name", [b"Origin", b"Content-Encoding", b"Traceparent", b"Content-Type", b"X-Other"])
def test_a_field_that_gomodel_reads_itself_can_be_stripped_as_any_other(name):
    pairs = ((name, b"1"), (b"X-Kept", b"2"))
    assert crossing(*pairs) == [name + b": 1", b"X-Kept: 2"]
    assert crossing(*pairs, strip=frozenset({name.lower()})) == [b"X-Kept: 2"]


def test_a_subprotocol_can_be_stripped_and_the_key_in_it_is_known_all_the_same():
    pair = (b"Sec-WebSocket-Protocol", b"realtime, openai-insecure-api-key.k")
    assert crossing(pair) == [b"Sec-WebSocket-Protocol: realtime"]
    made = fields(pair, strip=frozenset({b"sec-websocket-protocol"}))
    assert upstream_lines(made)[2:-1] == []
    assert [key for _, key in made.keys] == [b"k"]


@pytest.mark.parametrize(
    "pairs",
    [
        ((b"Content-Length", b"1" * 21),),
        ((b"Content-Length", b"0" * 5000),),
        ((b"Content-Length", b"2"), (b"Transfer-Encoding", b"chunked")),
        ((b"Transfer-Encoding", b"chunked"), (b"Content-Length", b"0")),
    ],
)
@pytest.mark.parametrize("http_10", [False, True])
def test_a_length_that_nobody_needs_or_that_stands_beside_chunks_is_refused(pairs, http_10):
    with pytest.raises(BadRequest):
        fields(*pairs).check(http_10)


@pytest.mark.parametrize(("given", "length"), [(b"0" * 19 + b"7", 7), (b"9" * 20, int("9" * 20))])
def test_a_length_may_have_as_many_digits_as_64_bits_need(given, length):
    made = fields((b"Content-Length", given))
    made.check(False)
    assert made.content_length == length


@pytest.mark.parametrize(
    ("value", "form"),
    [
        (b"multipart/form-data; boundary=b", True),
        (b"Multipart/Form-Data", True),
        (b"application/json", False),
        (b"multipart/mixed; boundary=b", False),
        (b"", False),
    ],
)
def test_a_form_is_known_by_its_content_type(value, form):
    assert RequestFields([(b"Content-Type", value)], frozenset()).form is form
    assert not RequestFields([], frozenset()).form


class TestWrittenHeads:
    """A head that comes again is not made again for a server that had it, whichever servers had it in between."""

    FIELDS = ((b"Host", b"x"), (b"Content-Length", b"12"), (b"X-Session-ID", b"s-1"))

    def made(self) -> RequestFields:
        fields = RequestFields(self.FIELDS, NO_STRIP)
        fields.write_once()
        return fields

    @staticmethod
    def sent(fields: RequestFields, own: bytes, path: str, removed: int = 0) -> tuple[bytes, bool]:
        """And whether it was known."""
        written = written_head(fields, own, removed)
        if written is not None:
            return written + b"id\r\n\r\n", True
        return request_head("POST", path, fields, own, b"id", removed), False

    def test_each_server_has_its_own(self) -> None:
        fields, other = self.made(), bytearray(OWN)
        servers = [(OWN, "/a"), (b"Host: other\r\n", "/b"), (bytes(other), "/c")]  # the last beside the first one's
        for known in (False, True, True):
            for own, path in servers:
                assert self.sent(fields, own, path)[1] is known
                for removed in (0, 5, 0):
                    expected = request_head("POST", path, RequestFields(self.FIELDS, NO_STRIP), own, b"id", removed)
                    assert self.sent(fields, own, path, removed) == (expected, True)

    def test_a_value_that_differs_reaches_every_server(self) -> None:
        fields = self.made()
        servers = [(OWN, "/a"), (b"Host: other\r\n", "/b")]
        for own, path in servers:
            self.sent(fields, own, path)
        assert any(fields.varying(self.FIELDS))
        for value in (b"s-2", b"s-3"):
            assert fields.vary([(2, value)])
            for own, path in servers:
                head, known = self.sent(fields, own, path)
                assert known
                assert b"X-Session-ID: %b\r\n" % value in head

    def test_many_servers_are_not_remembered_at_once(self) -> None:
        fields = self.made()
        servers = [(b"Host: %d\r\n" % number, f"/{number}") for number in range(40)]
        for _ in range(2):
            assert not any(self.sent(fields, own, path)[1] for own, path in servers)
        assert all(self.sent(fields, own, path)[1] for own, path in servers[-8:])
