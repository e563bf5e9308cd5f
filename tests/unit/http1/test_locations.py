"""An address that an instance builds from its own leads to the same place through the gateway, or nowhere past it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.http1.locations import Site, localised

from ...harness.scripted import head, request, response
from ...harness.verdicts import ask, post

THERE = "http://gpu-1.internal:8000"


def site(
    target: str = "/v1/models/",
    *,
    base: str = "/v1",
    scheme: str = "http",
    port: str = "8000",
    below_base: bool = True,
    own: str = "/p/vllm",
    alias: bool = True,
) -> Site:
    hosts = {"gpu-1.internal", "gpu-2.internal.", "10.0.0.7", "fd00::7"}
    root = base.removesuffix("/v1")
    return Site(scheme, hosts, port, base, root, below_base, target, own + ("/v1" if alias else ""), own)


def mapped(value: str, at: Site, *, name: str = "Location", status: int = 307) -> str | None:
    lines = localised([b"X-A: b\r\n", f"{name}: {value}\r\n".encode("latin-1")], at, status)
    assert lines[0] == b"X-A: b\r\n"
    if len(lines) == 1:
        return None
    got, _, rest = lines[1].decode("latin-1").partition(": ")
    assert (got, rest[-2:]) == (name, "\r\n")
    return rest[:-2]


# What an instance below /v1 says to a request for /v1/models/ -> what the client reads.
OWN = {
    f"{THERE}/v1/models": "/p/vllm/v1/models",
    "HTTP://GPU-1.Internal:8000/v1/models": "/p/vllm/v1/models",
    "http://gpu-1.internal.:8000/v1/models": "/p/vllm/v1/models",
    "http://gpu-2.internal:8000/v1/models": "/p/vllm/v1/models",
    "http://u:p@gpu-1.internal:8000/v1/models": "/p/vllm/v1/models",
    "//gpu-1.internal:8000/v1/models": "/p/vllm/v1/models",
    "https://gpu-1.internal:8000/v1/models": "/p/vllm/v1/models",
    "http://gpu-1.internal/v1/models": "/p/vllm/v1/models",
    "http://10.0.0.7:8000/v1/models": "/p/vllm/v1/models",
    "http://[FD00::7]:8000/v1/models": "/p/vllm/v1/models",
    "http://localhost:8000/v1/models": "/p/vllm/v1/models",
    "http://0.0.0.0:8000/v1/models": "/p/vllm/v1/models",
    "http://[::]:8000/v1/models": "/p/vllm/v1/models",
    "http://127.0.1.1/v1/models": "/p/vllm/v1/models",
    # The same hosts as few would write them.
    **dict.fromkeys(
        (
            f"http://{host}:8000/v1/models"
            for host in (
                *("127.1", "2130706433", "0x7f000001", "0X7F.1", "0177.0.0.1", "127.0.1", "[::ffff:127.0.0.1]", "0"),
                *("%6cocalhost", "%4Cocalhost", "127.0.0.%31", "gpu%2D1.internal", "10.7", "0xa000007", "167772167"),
                *("[::ffff:10.0.0.7]", "[fd00:0:0::7]", "[0:0:0:0:0:0:0:1]"),
            )
        ),
        "/p/vllm/v1/models",
    ),
    "/v1/models": "/p/vllm/v1/models",
    "/v1": "/p/vllm/v1",
    "/v1x": "/p/vllm/v1x",
    "/tokenize": "/p/vllm/tokenize",
    f"{THERE}": "/p/vllm/",
    f"{THERE}?a=b": "/p/vllm/?a=b",
    f"{THERE}/v1/a%2Fb;c?x=%20&y=/../z#part": "/p/vllm/v1/a%2Fb;c?x=%20&y=/../z#part",
    f"{THERE}/v1/../../../tokenize": "/p/vllm/tokenize",
    f"{THERE}/v1/%2e%2E/x/./y/..": "/p/vllm/x/",
    f"{THERE}//evil.test/x": "/p/vllm//evil.test/x",
    # As browsers read it.
    "http:\\\\gpu-1.internal:8000\\v1\\models": "/p/vllm/v1/models",
    "http:/\\gpu-1.internal:8000/v1/models?a=\\": "/p/vllm/v1/models?a=\\",
    "\\\\gpu-1.internal:8000/v1/models": "/p/vllm/v1/models",
    "/\\gpu-1.internal:8000/v1/models": "/p/vllm/v1/models",
    "///gpu-1.internal:8000/v1/models": "/p/vllm/v1/models",
    "http:///gpu-1.internal:8000/v1/models": "/p/vllm/v1/models",
    "http:/gpu-1.internal:8000/v1/models": "/p/vllm/v1/models",
    "http:gpu-1.internal:8000/v1/models": "/p/vllm/v1/models",
    "http://gpu-1.internal:8000\\v1/x\\..\\models": "/p/vllm/v1/models",
    "\\v1\\models": "/p/vllm/v1/models",
    "ht\ttp:/\t/gpu-1.internal:8000/v1/models": "/p/vllm/v1/models",
    "\x01http://gpu-1.internal:8000/v1/models\x1f": "/p/vllm/v1/models",
    # No scheme, since it does not stand first; dots that are encoded, and that stand last.
    "/v1/models/a:b": "/p/vllm/v1/models/a:b",
    "/v1/x/%2e%2e/models": "/p/vllm/v1/models",
    "/v1/a/b/c/..": "/p/vllm/v1/a/b/",
    "/v1/a/b/.": "/p/vllm/v1/a/b/",
    "next": "/p/vllm/v1/models/next",
    "../files/1": "/p/vllm/v1/files/1",
    "../../../../admin/requests": "/p/vllm/admin/requests",
    "./": "/p/vllm/v1/models/",
    "a?b=c:d": "/p/vllm/v1/models/a?b=c:d",
    f"{THERE}/v1/\xe9": "/p/vllm/v1/\xe9",
}
ELSEWHERE = [
    *("https://example.test/v1/models", "//example.test/x", "http://gpu-1.internal.evil.test/", "http://10.0.0.70/"),
    *("http://gpu-1.internal@evil.test/v1/models", "mailto:x@gpu-1.internal", "urn:a:b", "", "?page=2", "#end"),
    *("http://10.8/", "http://2130706433.evil.test/", "http://127.1.evil.test/", "http://[::ffff:10.0.0.8]/"),
    *("http://256.256.256.256/", "http://1.2.3.4.5/", "http://99999999999/", "http://%zz/", "http://10.0.0.7%20x/"),
    *("http:/x", "ftp://gpu-1.internal/x", "//", "http://[::g]/"),
    *("http:\\\\evil.test\\v1", "\\\\evil.test", "///evil.test/v1/models", "mailto:a\\b"),
]


@pytest.mark.parametrize("value", OWN)
def test_an_address_at_the_instance_becomes_the_gateways_path_for_it(value):
    assert mapped(value, site()) == OWN[value]


@pytest.mark.parametrize("value", ELSEWHERE)
def test_an_address_elsewhere_stays_as_it_is(value):
    assert mapped(value, site()) == value


@pytest.mark.parametrize(
    ("value", "at", "expected"),
    [
        # A request that went to the root, and the way back below the base.
        (f"{THERE}/v1/models", site("/docs", below_base=False), "/p/vllm/v1/models"),
        (f"{THERE}/docs/", site("/docs", below_base=False), "/p/vllm/docs/"),
        ("x", site("/docs", below_base=False), "/p/vllm/x"),
        # Without the v1 alias a family below the base has no v1/ at the gateway.
        (f"{THERE}/v1/models", site(alias=False), "/p/vllm/models"),
        # An instance below a prefix, and one there that does not know of it.
        (f"{THERE}/a/b/v1/models", site("/a/b/v1/models/", base="/a/b/v1"), "/p/vllm/v1/models"),
        (f"{THERE}/a/b/tokenize", site("/a/b/v1/models/", base="/a/b/v1"), "/p/vllm/tokenize"),
        (f"{THERE}/v1/models", site("/a/b/v1/models/", base="/a/b/v1"), "/p/vllm/v1/models"),
        (f"{THERE}/abc", site("/a/v1/models/", base="/a/v1"), "/p/vllm/abc"),
        # A base URL without /v1: the path of the request says which of the two it was.
        (f"{THERE}/openai/models", site("/openai/models/", base="/openai"), "/p/vllm/v1/models"),
        (f"{THERE}/openai/x", site("/openai/x/", base="/openai", below_base=False), "/p/vllm/x"),
        (f"{THERE}/models", site("/models/", base=""), "/p/vllm/v1/models"),
        # A plain route, with and without a base path.
        (f"{THERE}/v1/files/1", site("/v1/files", own=""), "/v1/files/1"),
        ("/v1/files/1", site("/v1/files", own=""), "/v1/files/1"),
        (f"{THERE}/v2/x", site("/v2/x/", below_base=False, own="/gw"), "/gw/v2/x"),
        # Relative to the path of what was asked for, whatever its query holds.
        ("next", site("/v1/models?at=/v1/files/"), "/p/vllm/v1/next"),
        # Its own address, by the port that its scheme has when none is said.
        ("http://gpu-1.internal/v1/models/", site(port=""), "/p/vllm/v1/models/"),
        ("http://gpu-1.internal:80/v1/models/", site(port=""), "/p/vllm/v1/models/"),
        ("http://gpu-1.internal/v1/models/", site(port="80"), "/p/vllm/v1/models/"),
        # What would be the host of another site.
        (f"{THERE}//evil.test/x", site("/v1/x", own=""), "/evil.test/x"),
        (f"{THERE}/\\evil.test/x", site("/v1/x", own=""), "/evil.test/x"),
        ("/x/..//evil.test", site("/v1/x", own=""), "/evil.test"),
        # Behind a terminator of TLS a server that knows nothing of it says http.
        ("http://gpu-1.internal/v1/models", site(scheme="https", port=""), "/p/vllm/v1/models"),
    ],
)
def test_the_mapping_is_the_way_of_the_request_reversed(value, at, expected):
    assert mapped(value, at) == expected


@pytest.mark.parametrize("status", [200, 201, 299, 300, 301, 308, 399, 400, 404])
def test_it_is_the_status_that_makes_a_redirect(status):
    back = mapped("https://gpu-1.internal/v1/models/", site(), status=status)
    assert back == (None if 300 <= status < 400 else "/p/vllm/v1/models/")


@pytest.mark.parametrize(
    "value",
    [
        "https://gpu-1.internal/v1/models/?a=b",
        "http://gpu-1.internal:9000/v1/models/?a=b#c",
        "//10.0.0.7/v1/models/?a=b",
        "https:\\\\gpu-1.internal\\v1\\models\\?a=b",
    ],
)
def test_a_redirect_that_would_come_back_here_for_ever_leads_nowhere(value):
    at = site("/v1/models/?a=b")
    assert mapped(value, at) is None
    assert mapped(value, at, status=201).startswith("/p/vllm/v1/models/?a=b")
    assert mapped(value, at, name="Content-Location").startswith("/p/vllm/v1/models/?a=b")
    assert mapped(value, site("/v1/models/")).startswith("/p/vllm/v1/models/?a=b")
    # The instance's own address once more is its own decision, as after a form.
    assert mapped(f"{THERE}/v1/models/?a=b", at, status=303) == "/p/vllm/v1/models/?a=b"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("content-location", f"{THERE}/v1/x", "/p/vllm/v1/x"),
        (
            "Link",
            f'<{THERE}/v1/x?after=1>; rel="next", <https://docs.test/>; rel=help, </v1/y>; rel="up"',
            '</p/vllm/v1/x?after=1>; rel="next", <https://docs.test/>; rel=help, </p/vllm/v1/y>; rel="up"',
        ),
        ("Refresh", f"5; url={THERE}/v1/x", "5; url=/p/vllm/v1/x"),
        ("refresh", f'0;URL="{THERE}/v1/x"', '0;URL="/p/vllm/v1/x"'),
        ("Refresh", "5", "5"),
        ("Refresh", "5;", "5;"),
        ("Refresh", f"0,{THERE}/v1/x", "0,/p/vllm/v1/x"),
        ("Refresh", f"5 {THERE}/v1/x", "5 /p/vllm/v1/x"),
        ("Refresh", f" 0.5\t;\t{THERE}/v1/x", "0.5\t;\t/p/vllm/v1/x"),
        ("Refresh", f'5;"{THERE}/v1/x"', '5;"/p/vllm/v1/x"'),
        ("Refresh", f"0, URL = {THERE}/v1/x", "0, URL = /p/vllm/v1/x"),
        ("Refresh", "0,https://docs.test/", "0,https://docs.test/"),
        ("X-Location", f"{THERE}/v1/x", f"{THERE}/v1/x"),
    ],
)
def test_every_field_that_holds_an_address_is_mapped_and_no_other(name, value, expected):
    assert mapped(value, site(), name=name, status=200) == expected


_PIECES = [
    "/",
    "//",
    "\\",
    ".",
    "..",
    "%2e",
    ":",
    "?",
    "#",
    "@",
    "[",
    "]",
    "http:",
    "x",
    "v1",
    "gpu-1.internal",
    "\xe9",
]


@given(st.lists(st.sampled_from(_PIECES), max_size=12).map("".join))
def test_no_reference_breaks_it_nor_becomes_another_host(value):
    for at in (site("/v1/x", own=""), site("/a/v1/x?y", base="/a/v1", own="/gw")):
        got = mapped(value, at)
        assert got is None or got == value or (got[0] == "/" and got[1:2] not in ("/", "\\"))
        for name in ("Link", "Refresh"):
            assert mapped(f"<{value}>; url={value}", at, name=name) is not None


def moved(status: int, location: str, *more: tuple[str, str]) -> bytes:
    return head(status, [("location", location), *more, ("Content-Length", "0")])


@pytest.mark.parametrize("status", [201, 301, 302, 303, 307, 308])
async def test_a_client_that_follows_a_redirect_stays_with_the_gateway(gateway, upstream, connect, status):
    """As uvicorn does for a trailing slash: absolute, from the Host that it saw."""
    upstream.on_request(moved(status, f"http://127.0.0.1:{upstream.port}/v1/files"))
    upstream.on_request(response(b"there"))
    client = await connect(await gateway(vllm=upstream))
    answer = await ask(client, request("GET", "/p/vllm/v1/files/"))
    assert (answer.status, answer.get_all("Location")) == (status, ["/p/vllm/v1/files"])
    assert b"127.0.0.1" not in answer.raw
    assert (await ask(client, request("GET", answer.get("Location")))).body == b"there"
    assert [each.target for each in upstream.requests] == ["/v1/files/", "/v1/files"]


@pytest.mark.parametrize("base", ["", "/gw"])
async def test_plain_routes_and_base_paths_are_mapped_too(gateway, upstream, connect, base):
    client = await connect(await gateway(vllm=upstream, BASE_PATH=base or "/"))
    there = f"http://127.0.0.1:{upstream.port}"
    for raw, location, expected in (
        (post(f"{base}/v1/completions"), f"{there}/v1/completions/", f"{base}/v1/completions/"),
        (post(f"{base}/v1/responses"), "/v1/responses/resp_1", f"{base}/v1/responses/resp_1"),
        (post(f"{base}/v2/rerank"), f"{there}/v2/rerank/", f"{base}/v2/rerank/"),
        (post(f"{base}/tokenize"), f"{there}/tokenize/", f"{base}/tokenize/"),
        (request("GET", f"{base}/v1/responses/resp_1"), "//127.0.0.1:1/v1/x", f"{base}/v1/x"),
        (request("GET", f"{base}/v1/threads"), f"{there}/v1/threads/", f"{base}/v1/threads/"),
        (request("GET", f"{base}/p/vllm/files"), "/v1/files/", f"{base}/p/vllm/v1/files/"),
    ):
        upstream.on_request(moved(307, location))
        assert (await ask(client, raw)).get("Location") == expected


async def test_a_head_that_comes_again_is_mapped_for_each_request_anew(gateway, upstream, connect):
    """Known by its bytes it is not looked at again, but another provider or path may have been asked for."""
    body = head(200, [("Content-Location", "/v1/x"), ("Content-Length", "2")]) + b"ok"
    upstream.repeat(body)
    client = await connect(await gateway(vllm=upstream))
    for _ in range(2):
        assert (await ask(client, request("GET", "/p/vllm/x"))).get("Content-Location") == "/p/vllm/v1/x"
        assert (await ask(client, post())).get("Content-Location") == "/v1/x"
    assert len(upstream.connections) == 1


async def test_over_a_unix_socket_the_placeholder_is_the_instance(gateway, make_upstream, connect, tmp_path):
    upstream = await make_upstream(unix_path=str(tmp_path / "s"))
    upstream.on_request(moved(307, "http://localhost/v1/x/"))
    client = await connect(await gateway(vllm=upstream))
    assert (await ask(client, request("GET", "/p/vllm/v1/x"))).get("Location") == "/p/vllm/v1/x/"


def test_an_address_that_leads_back_by_another_scheme_is_known_however_that_is_written() -> None:
    for value in ("https://gpu-1.internal/v1/models/", "HTTPS://gpu-1.internal:8000/v1/models/"):
        assert mapped(value, site()) is None
