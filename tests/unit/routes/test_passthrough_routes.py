"""What below /p/ is a route: where it goes, what opens it, and what administers a server."""

import pytest

from gomodel.errors import Forbidden, NotFound
from gomodel.routes.route import Kind

from .routers import ROUTER, make_router, refusal_of, served


@pytest.mark.parametrize(
    ("target", "provider", "below_base", "tail"),
    [
        ("/p/vllm/v1/models", "vllm", True, "/models"),
        ("/p/vllm/models?x", "vllm", True, "/models?x"),
        ("/p/vllm-test/x", "vllm-test", False, "/x"),
        ("/p/VLLM/x", "VLLM", False, "/x"),
        ("/p/%76llm/x", "%76llm", False, "/x"),
        ("/p/vllm/tokenize", "vllm", False, "/tokenize"),
        ("/p/vllm/v1/tokenize", "vllm", False, "/tokenize"),
        ("/p/vllm/v2/rerank", "vllm", False, "/v2/rerank"),
        ("/p/vllm/v1%2Fchat", "vllm", False, "/v1%2Fchat"),
        ("/p/vllm/a%2fb%2Fc?x=1;y=2&z=a+b%20c&%2B=%26&x=1", "vllm", False, "/a%2fb%2Fc?x=1;y=2&z=a+b%20c&%2B=%26&x=1"),
        ("/p/vllm/plugin/", "vllm", False, "/plugin/"),
        ("/p/vllm/files/sleep", "vllm", True, "/files/sleep"),
        ("/p/vllm/v1/files/sleep", "vllm", True, "/files/sleep"),
        ("/p/vllm//tokenize", "vllm", False, "//tokenize"),
        ("/p/vllm/p/vllm/x", "vllm", False, "/p/vllm/x"),
        ("/p/vllm/http://evil.test/a", "vllm", False, "/http://evil.test/a"),
    ],
)
def test_passthrough_places_the_tail_and_leaves_the_provider_to_the_table(
    target: str, provider: str, below_base: bool, tail: str
) -> None:
    route = served(target)
    assert (route.kind, route.provider) == (Kind.PASSTHROUGH, provider)
    assert (route.below_base, route.tail) == (below_base, tail)
    assert route.template == "/p/{provider}/*"
    assert route.methods == {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def test_passthrough_is_replayable_where_it_is_inference() -> None:
    assert served("/p/vllm/v1/chat/completions").replayable
    assert not served("/p/vllm/v1/files").replayable


@pytest.mark.parametrize(
    "target", ["/p", "/p/", "/p/vllm", "/p/vllm/", "/p/vllm?x", "/p/vllm/?x", "/p//x", "/p//", "/P/vllm/x"]
)
def test_passthrough_needs_a_provider_and_something_below(target: str) -> None:
    assert isinstance(refusal_of(ROUTER.resolve(target)), NotFound)


@pytest.mark.parametrize("target", ["/p/vllm/x", "/p/vllm/v1/models", "/p/vllm/sleep"])
def test_disabled_passthrough_is_not_found_and_says_so(target: str) -> None:
    error = refusal_of(make_router(passthrough=False).resolve(target))
    assert error.status == 404
    assert "ENABLE_PASSTHROUGH_ROUTES" in error.message


@pytest.mark.parametrize("target", ["/p/vllm/v1/chat/completions", "/p/vllm/v1/models", "/p/vllm/v1/tokenize"])
def test_without_the_v1_alias_its_spelling_is_not_found(target: str) -> None:
    error = refusal_of(make_router(passthrough_v1_alias=False).resolve(target))
    assert error.status == 404
    assert "ALLOW_PASSTHROUGH_V1_ALIAS" in error.message


@pytest.mark.parametrize(
    ("target", "below_base", "tail"),
    [
        ("/p/vllm/chat/completions", True, "/chat/completions"),
        ("/p/vllm/tokenize", False, "/tokenize"),
        ("/p/vllm/v1/score", False, "/v1/score"),
    ],
)
def test_without_the_v1_alias_canonical_paths_still_work(target: str, below_base: bool, tail: str) -> None:
    route = served(target, make_router(passthrough_v1_alias=False))
    assert (route.below_base, route.tail) == (below_base, tail)


@pytest.mark.parametrize(
    "tail",
    [
        "sleep",
        "sleep?level=1",
        "%73leep",
        "/sleep",
        "sleep/",
        "v1/sleep",
        "v1//sleep",
        "v1/load_lora_adapter",
        "load_lora_adapter",
        "v1%2Funload_lora_adapter",
        "adapters/name",
        "scale_elastic_ep",
        "inference/v1/abort_requests",
        "collective_rpc",
        "fault_tolerance/apply",
    ],
)
@pytest.mark.parametrize("alias", [True, False])
def test_an_administrative_route_is_forbidden_until_its_switch_is_set(tail: str, alias: bool) -> None:
    error = refusal_of(make_router(passthrough_v1_alias=alias).resolve(f"/p/vllm/{tail}"))
    assert isinstance(error, Forbidden)
    assert (error.status, error.code) == (403, "admin_route_closed")
    assert "PASSTHROUGH_ADMIN_ROUTES=true" in error.message
    assert served(f"/p/vllm/{tail}", make_router(passthrough_admin=True)).kind is Kind.PASSTHROUGH
