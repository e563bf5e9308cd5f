"""Targets of any characters: none leaves its provider, loses a byte, raises, or gets a label of its own."""

from urllib.parse import unquote_to_bytes

from hypothesis import given
from hypothesis import strategies as st

from gomodel.routes.route import Kind, Route

from .routers import ROUTER

_ODD = st.sampled_from(
    [
        "/",
        "//",
        ".",
        "..",
        ";",
        "%2e",
        "%2E",
        "%2F",
        "%5c",
        "%00",
        "%25",
        "%73",
        "\\",
        "?",
        "#",
        "é",
        "\udc80",
        " ",
        "*",
    ]
)

_WORDS = st.sampled_from(
    ["v1", "v2", "chat", "models", "responses", "tokenize", "sleep", "p", "vllm", "inference", "health", "a", ":", "@"]
)

_TAILS = st.lists(_ODD | _WORDS | st.characters(codec="ascii"), max_size=14).map("".join)

_STARTS = st.sampled_from(["/p/vllm/", "/p/vllm/v1/", "/v1/", "/v1/responses/r/", "/v2/", "/", "", "http://evil.test/"])


@given(_STARTS, _TAILS)
def test_no_target_leaves_the_provider_or_loses_a_byte(start: str, tail: str) -> None:
    raw = start + tail
    route = ROUTER.resolve(raw)
    if route.refusal is not None:
        assert not route.open
        assert route.refusal().status in (400, 403, 404)
        return
    if not route.tail:
        assert route.kind in {Kind.STATUS_PAGE, Kind.HEALTH, Kind.READY, Kind.METRICS, Kind.MODELS, Kind.MODEL}
        return
    assert route.tail.startswith("/")
    path, _, _ = route.tail.partition("?")
    decoded = [segment.partition(b";")[0] for segment in unquote_to_bytes(path).split(b"/")]
    assert b"." not in decoded
    assert b".." not in decoded
    received = raw.removeprefix("http://evil.test")
    if route.kind is Kind.PASSTHROUGH:
        received = received.removeprefix(f"/p/{route.provider}")
    assert route.tail in (received, received.removeprefix("/v1"))
    if route.below_base and route.kind is not Kind.PASSTHROUGH:
        assert received == "/v1" + route.tail


@given(st.text() | st.text(st.characters(max_codepoint=0x7F)) | st.text(st.sampled_from("/.%2eE;pv1*#\udcff")))
def test_resolving_never_raises_and_labels_stay_bounded(raw: str) -> None:
    for target in (raw, "/" + raw, "/v1/" + raw, "/p/" + raw):
        route = ROUTER.resolve(target)
        assert isinstance(route, Route)
        assert len(route.template) <= len("/v1/chat/completions/derender")
        assert (route.methods == frozenset()) == (route.kind is Kind.NOT_FOUND)
