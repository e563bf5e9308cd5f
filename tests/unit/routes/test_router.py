"""From a raw target to a route: kinds, methods, upstream tails, labels, and refusals that wait for the key."""

import pytest

from gomodel.errors import BadTarget, NotFound
from gomodel.routes.route import Kind
from gomodel.routes.router import CACHED_LENGTH, CACHED_TARGETS

from .routers import READ, ROUTER, make_router, refusal_of, served


@pytest.mark.parametrize(
    ("target", "template", "below_base", "tail"),
    [
        ("/v1/chat/completions", "/v1/chat/completions", True, "/chat/completions"),
        ("/v1/chat/completions?x=1;y=2", "/v1/chat/completions", True, "/chat/completions?x=1;y=2"),
        ("/v1/chat/completions/batch", "/v1/chat/completions/batch", True, "/chat/completions/batch"),
        ("/v1/completions", "/v1/completions", True, "/completions"),
        ("/v1/embeddings?", "/v1/embeddings", True, "/embeddings?"),
        ("/v1/audio/transcriptions", "/v1/audio/transcriptions", True, "/audio/transcriptions"),
        ("/v1/messages/count_tokens", "/v1/messages/count_tokens", True, "/messages/count_tokens"),
        ("/v1/responses", "/v1/responses", True, "/responses"),
        ("/v1/responses/render", "/v1/responses/render", True, "/responses/render"),
        ("/v1/responses/input_tokens", "/v1/*", True, "/responses/input_tokens"),
        ("/v1/shipped-tomorrow/a", "/v1/*", True, "/shipped-tomorrow/a"),
        ("/v1/jobs/1/pause", "/v1/*", True, "/jobs/1/pause"),
        ("/v1/realtime/sessions", "/v1/*", True, "/realtime/sessions"),
        ("/v1/a%2Fb", "/v1/*", True, "/a%2Fb"),
        ("/v1/a%2fb", "/v1/*", True, "/a%2fb"),
        ("/v1/modelsx", "/v1/*", True, "/modelsx"),
        ("/v2/embed", "/v2/embed", False, "/v2/embed"),
        ("/v2/rerank?a=%2F", "/v2/rerank", False, "/v2/rerank?a=%2F"),
        ("/v2/new", "/v2/*", False, "/v2/new"),
        ("/inference/v1/generate", "/inference/v1/generate", False, "/inference/v1/generate"),
        ("/inference/v2/x", "/inference/*", False, "/inference/v2/x"),
        ("/cohere/v2/chat", "/cohere/v2/chat", False, "/cohere/v2/chat"),
        ("/cohere/x", "/cohere/*", False, "/cohere/x"),
        ("/tokenize", "/tokenize", False, "/tokenize"),
        ("/detokenize", "/detokenize", False, "/detokenize"),
        ("/pooling", "/pooling", False, "/pooling"),
        ("/classify", "/classify", False, "/classify"),
        ("/score", "/score", False, "/score"),
        ("/rerank?top=1", "/rerank", False, "/rerank?top=1"),
        ("/generative_scoring", "/generative_scoring", False, "/generative_scoring"),
        ("/invocations", "/invocations", False, "/invocations"),
        ("/v1/tokenize?x", "/tokenize", False, "/tokenize?x"),
        ("/v1/detokenize", "/detokenize", False, "/detokenize"),
        ("/v1/pooling", "/pooling", False, "/pooling"),
        ("/v1/classify", "/classify", False, "/classify"),
        ("/v1/tokenize/x", "/v1/*", True, "/tokenize/x"),
    ],
)
def test_inference_is_post_replayable_and_keeps_its_bytes(
    target: str, template: str, below_base: bool, tail: str
) -> None:
    route = served(target)
    kind = Kind.UNKNOWN if template.endswith("*") else Kind.INFERENCE
    assert (route.kind, route.template, route.below_base, route.tail) == (kind, template, below_base, tail)
    assert route.methods == ({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} if kind is Kind.UNKNOWN else {"POST"})
    assert route.replayable
    assert not route.open
    assert route.provider is None


@pytest.mark.parametrize(
    ("target", "kind", "methods", "template"),
    [
        ("/", Kind.STATUS_PAGE, READ, "/"),
        ("/?x", Kind.STATUS_PAGE, READ, "/"),
        ("/health", Kind.HEALTH, READ, "/health"),
        ("/health?x=1", Kind.HEALTH, READ, "/health"),
        ("/health/ready", Kind.READY, READ, "/health/ready"),
        ("/metrics", Kind.METRICS, READ, "/metrics"),
        ("/v1/models", Kind.MODELS, READ, "/v1/models"),
        ("/v1/models?refresh=1", Kind.MODELS, READ, "/v1/models"),
        ("/admin/requests", Kind.ADMIN_REQUESTS, frozenset({"GET"}), "/admin/requests"),
        ("/admin/instances", Kind.ADMIN_INSTANCES, frozenset({"GET"}), "/admin/instances"),
    ],
)
def test_gomodels_own_routes(target: str, kind: Kind, methods: frozenset[str], template: str) -> None:
    route = served(target)
    assert (route.kind, route.methods, route.template) == (kind, methods, template)
    assert route.id is None
    assert route.tail == ""


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize(
    ("path", "methods"),
    [("/load", READ), ("/version", READ), ("/tokenizer_info", READ), ("/ping", READ | {"POST"})],
)
def test_what_asks_about_one_server_goes_to_one_at_its_root(prefix: str, path: str, methods: frozenset[str]) -> None:
    route = served(f"{prefix}{path}?x=1")
    assert (route.kind, route.methods, route.template) == (Kind.SERVER, methods, path)
    assert (route.tail, route.below_base) == (f"{path}?x=1", False)


def test_only_health_and_the_data_free_page_are_open() -> None:
    targets = ["/", "/health", "/health/ready", "/metrics", "/v1/models", "/admin/requests", "/v1/chat/completions"]
    targets += [
        "/v1/models/m",
        "/v1/responses/r",
        "/v1/realtime",
        "/p/vllm/health",
        "/nowhere",
        "/health/",
        "/%zz",
        "*",
    ]
    assert [t for t in targets if ROUTER.resolve(t).open] == ["/", "/health", "/health/ready"]


def test_public_metrics_are_open_at_the_configured_path_only() -> None:
    router = make_router(metrics_path="/internal/prom", metrics_public=True)
    route = served("/internal/prom", router)
    assert (route.kind, route.open, route.template) == (Kind.METRICS, True, "/internal/prom")
    assert router.resolve("/metrics").kind is Kind.NOT_FOUND


def test_metrics_that_are_off_are_no_route() -> None:
    assert make_router(metrics_path=None).resolve("/metrics").kind is Kind.NOT_FOUND


def test_a_metrics_path_cannot_hide_the_health_route() -> None:
    assert make_router(metrics_path="/health").resolve("/health").kind is Kind.HEALTH


@pytest.mark.parametrize(
    ("target", "model"),
    [
        ("/v1/models/m", "m"),
        ("/v1/models/vllm/meta-llama/Llama-3.1-8B", "vllm/meta-llama/Llama-3.1-8B"),
        ("/v1/models/vllm%2Fmeta-llama%2fLlama", "vllm/meta-llama/Llama"),
        ("/v1/models/a%20b%C3%A9?x", "a b\u00e9"),
        ("/v1/models/a%252Fb", "a%2Fb"),
        ("/v1/models/vllm//models/a/", "vllm//models/a/"),
        ("/v1/models//x", "/x"),
        ("/v1/models/../x", "../x"),
        ("/v1/models/a\\b%09%5C%zz", "a\\b\t\\%zz"),
    ],
)
def test_a_model_id_is_percent_decoded_and_keeps_its_slashes(target: str, model: str) -> None:
    route = served(target)
    assert (route.kind, route.id, route.methods, route.template) == (Kind.MODEL, model, READ, "/v1/models/{id}")


@pytest.mark.parametrize(
    ("target", "response_id", "tail"),
    [
        ("/v1/responses/resp_1", "resp_1", "/responses/resp_1"),
        ("/v1/responses/resp_1?stream=true", "resp_1", "/responses/resp_1?stream=true"),
        ("/v1/responses/resp_1/cancel", "resp_1", "/responses/resp_1/cancel"),
        ("/v1/responses/A.b-c_9/input_items/x%2F", "A.b-c_9", "/responses/A.b-c_9/input_items/x%2F"),
        ("/v1/responses/render2", "render2", "/responses/render2"),
        ("/v1/responses/" + "r" * 256, "r" * 256, "/responses/" + "r" * 256),
    ],
)
def test_a_stored_response_is_found_by_its_id(target: str, response_id: str, tail: str) -> None:
    route = served(target)
    assert (route.kind, route.id, route.tail) == (Kind.RESPONSES, response_id, tail)
    assert route.methods == {"GET", "POST", "DELETE"}
    assert route.below_base
    assert route.replayable
    assert route.template == "/v1/responses/{id}"


@pytest.mark.parametrize("bad", ["r" * 257, "a%41", "a%2Fb", "a:b", "a;b", "a@b"])
def test_an_impossible_response_id_is_not_found(bad: str) -> None:
    assert refusal_of(ROUTER.resolve(f"/v1/responses/{bad}")).status == 404


def test_realtime_keeps_the_query_for_the_selector() -> None:
    route = served("/v1/realtime?model=vllm/x")
    assert (route.kind, route.below_base) == (Kind.REALTIME, True)
    assert route.methods == {"GET"}
    assert route.tail == "/realtime?model=vllm/x"
    assert not route.replayable


def test_one_running_request_can_be_deleted_by_its_id() -> None:
    route = served("/admin/requests/req-1._A")
    assert (route.kind, route.id) == (Kind.ADMIN_REQUESTS, "req-1._A")
    assert route.methods == {"DELETE"}
    assert route.template == "/admin/requests/{id}"


@pytest.mark.parametrize("action", ["drain", "resume"])
@pytest.mark.parametrize("name", ["vllm", "gpu-1.example_8000", "a" * 256])
def test_an_instance_is_taken_out_and_in_again_by_its_name(name: str, action: str) -> None:
    route = served(f"/admin/instances/{name}/{action}")
    assert (route.kind, route.id, route.methods) == (Kind.ADMIN_INSTANCES, name, {"POST"})
    assert route.template == f"/admin/instances/{{name}}/{action}"


@pytest.mark.parametrize(
    "target",
    [
        *("/admin/requests/", "/admin/requests/a/b", "/admin/requests/a%41", "/admin", "/admin/x"),
        *("/admin/instances/", "/admin/instances/vllm", "/admin/instances//drain", "/admin/instances/vllm/x"),
        *("/admin/instances/vllm/drain/x", "/admin/instances/a%41/drain", f"/admin/instances/{'a' * 257}/drain"),
    ],
)
def test_other_admin_paths_are_not_found(target: str) -> None:
    assert refusal_of(ROUTER.resolve(target)).status == 404


@pytest.mark.parametrize(
    ("target", "metered"),
    [
        ("/v1/chat/completions", True),
        ("/v1/embeddings", True),
        ("/rerank", True),
        ("/v1/responses", True),
        ("/tokenize", False),
        ("/v1/tokenize", False),
        ("/v1/messages/count_tokens", False),
        ("/v1/chat/completions/render", False),
        ("/v1/new", False),
        ("/v1/responses/resp_1", False),
        ("/p/vllm/v1/chat/completions", False),
        ("/health", False),
    ],
)
def test_what_takes_tokens_is_metered(target: str, metered: bool) -> None:
    assert served(target).metered is metered


@pytest.mark.parametrize(
    ("target", "spends"),
    [
        ("/v1/chat/completions", True),
        ("/v1/responses", True),
        ("/v1/responses/compact", True),
        ("/v1/new", True),
        ("/p/vllm/v1/chat/completions", True),
        ("/p/vllm/responses", True),
        ("/p/vllm/v1/responses/compact", True),
        ("/p/vllm/generate", True),
        ("/v1/responses/resp_1", False),
        ("/v1/responses/resp_1/cancel", False),
        ("/p/vllm/v1/responses/resp_1/cancel", False),
        ("/p/vllm/batches", False),
        ("/p/vllm/v1/batches/batch_1/cancel", False),
        ("/p/vllm/v1/files", False),
        ("/v1/models", False),
        ("/health", False),
    ],
)
def test_the_usage_of_what_is_kept_is_no_requests_own(target: str, spends: bool) -> None:
    assert served(target).spends is spends


@pytest.mark.parametrize(
    "target",
    [
        "/v1/load_lora_adapter",
        "/v1/unload_lora_adapter",
        "/v1/load%5Flora_adapter",
        "/v1/sleep",
        "/v1/v1/sleep",
        "/inference/v1/abort_requests",
        "/inference/v1%2Fabort_requests",
        "/sleep",
        "/adapters",
        "/abort_requests",
    ],
)
def test_administrative_routes_are_never_inference(target: str) -> None:
    assert refusal_of(make_router(passthrough_admin=True).resolve(target)).status == 404


@pytest.mark.parametrize(
    "target",
    [
        "/v1",
        "/v1/",
        "/v2",
        "/v2/",
        "/inference",
        "/inference/",
        "/cohere",
        "/cohere/",
        "/v1/chat/completions/",
        "/v1/models/",
        "/v1/responses/",
        "/v1/responses/a/",
        "/v1/realtime/",
        "/v1//chat",
        "//v1/models",
        "//evil.test/a",
        "//",
        "/health/",
        "/tokenize/",
        "/tokenize/x",
        "/metrics/",
        "/nowhere",
        "/V1/chat/completions",
        "/v1%2Fchat/completions",
        "/v3/chat",
        "/v1/v1/chat/completions",
        "/v1/health",
        "/v1/metrics",
        "/version/",
        "/ping/x",
    ],
)
def test_what_is_no_route_is_not_found_and_never_redirected(target: str) -> None:
    route = ROUTER.resolve(target)
    error = refusal_of(route)
    assert (type(error), error.code) == (NotFound, "not_found")
    assert (route.kind, route.template) == (Kind.NOT_FOUND, "unknown")


@pytest.mark.parametrize(
    "target",
    [
        "",
        "h:80",
        "a/b",
        "/p/vllm/../../v1/models",
        "/p/vllm/%2e%2e/x",
        "/p/vllm/.%2e/x",
        "/p/vllm/..;/x",
        "/p/vllm/v1/../sleep",
        "/p/vllm/x%2F..%2Fsleep",
        "/p/../health",
        "/health/..",
        "/v1/./models",
        "/p/vllm/a\\b",
        "/p/vllm/a%5Cb",
        "/v1/a%00",
        "/v1/a%0d%0ab",
        "/v1/%zz",
        "/v1/%4",
        "/v1/a#frag",
        "/v1/a?x#frag",
        "/v1/a\udcff",
        "/v1/a?\udcff",
        "/nowhere/..",
        "http://evil.test/../a",
        "http://user@evil.test/v1/models",
    ],
)
def test_a_bad_target_is_a_400_wherever_it_points(target: str) -> None:
    route = ROUTER.resolve(target)
    error = refusal_of(route)
    assert isinstance(error, BadTarget)
    assert (error.status, error.code) == (400, "invalid_path")
    assert (route.kind, route.template, route.open) == (Kind.NOT_FOUND, "unknown", False)


def test_the_asterisk_is_bad_but_recognisable_for_options() -> None:
    route = ROUTER.resolve("*")
    assert isinstance(refusal_of(route), BadTarget)
    assert (route.kind, route.template, route.open) == (Kind.NOT_FOUND, "*", False)
    assert ROUTER.resolve("**").template == "unknown"


@pytest.mark.parametrize(
    ("absolute", "origin"),
    [
        ("http://evil.test/v1/chat/completions?x=1", "/v1/chat/completions?x=1"),
        ("https://evil.test:1/p/vllm/a%2Fb", "/p/vllm/a%2Fb"),
        ("http://evil.test", "/"),
        ("HTTP://127.0.0.1/health", "/health"),
    ],
)
def test_absolute_form_counts_for_its_path_and_query_only(absolute: str, origin: str) -> None:
    assert served(absolute) == served(origin)


@pytest.mark.parametrize(
    "target",
    [
        "/v1/chat/completions",
        "/",
        "/v1/models/m",
        "/v1/responses/r",
        "/v1/realtime",
        "/p/vllm/x",
        "/admin/requests",
        "/no",
    ],
)
def test_trace_and_connect_are_allowed_nowhere(target: str) -> None:
    assert ROUTER.resolve(target).methods.isdisjoint({"TRACE", "CONNECT"})


@pytest.mark.parametrize(
    ("target", "anthropic"),
    [
        ("/v1/messages", True),
        ("/v1/messages?beta=true", True),
        ("/v1/messages/count_tokens", True),
        ("/v1/messages/batches", True),
        ("/v1/messages/", True),
        ("/v1/messages/../x", True),
        ("/v1/messages/%zz", True),
        ("http://h/v1/messages", True),
        ("/p/vllm/v1/messages", True),
        ("/p/vllm/messages/count_tokens", True),
        ("/v1/messagesx", False),
        ("/v1/chat/completions", False),
        ("/v1/chat/messages", False),
        ("/p/vllm/x/messages", False),
        ("/messages", True),
        ("/v1/v1/messages", True),
    ],
)
def test_errors_on_messages_take_the_anthropic_shape_refused_ones_too(target: str, anthropic: bool) -> None:
    assert ROUTER.resolve(target).anthropic is anthropic


@pytest.mark.parametrize("base_path", ["/gw", "/gw/"])
@pytest.mark.parametrize(
    ("target", "kind", "tail"),
    [
        ("/gw/", Kind.STATUS_PAGE, ""),
        ("/gw/health", Kind.HEALTH, ""),
        ("/gw/metrics", Kind.METRICS, ""),
        ("/gw/v1/models", Kind.MODELS, ""),
        ("/gw/v1/chat/completions?x", Kind.INFERENCE, "/chat/completions?x"),
        ("/gw/p/vllm/gw/x", Kind.PASSTHROUGH, "/gw/x"),
        ("http://h/gw/tokenize", Kind.INFERENCE, "/tokenize"),
    ],
)
def test_the_base_path_is_cut_from_every_route(base_path: str, target: str, kind: Kind, tail: str) -> None:
    route = served(target, make_router(base_path=base_path))
    assert (route.kind, route.tail) == (kind, tail)


@pytest.mark.parametrize(
    "target", ["/", "/v1/models", "/health", "/gw", "/gwx/v1/models", "/gw//v1/models", "/%67w/health"]
)
def test_outside_the_base_path_nothing_is_found_or_open(target: str) -> None:
    route = make_router(base_path="/gw").resolve(target)
    assert refusal_of(route).status == 404
    assert not route.open


def test_messages_below_a_base_path_are_anthropic() -> None:
    assert make_router(base_path="/gw").resolve("/gw/v1/messages").anthropic


def test_each_refusal_is_a_fresh_exception() -> None:
    for target in ("/nowhere", "/p/vllm/sleep", "/%zz", "*", "a/b"):
        route = ROUTER.resolve(target)
        assert refusal_of(route) is not refusal_of(route)


def test_a_repeated_target_is_classified_once() -> None:
    router = make_router()
    assert router.resolve("/v1/chat/completions?a") is router.resolve("/v1/chat/completions?a")


def test_the_cache_forgets_the_oldest_target() -> None:
    router = make_router()
    first = router.resolve("/v1/first")
    for number in range(CACHED_TARGETS):
        router.resolve(f"/v1/x?{number}")
    again = router.resolve("/v1/first")
    assert again is not first
    assert again == first


@pytest.mark.parametrize(("length", "cached"), [(CACHED_LENGTH, True), (CACHED_LENGTH + 1, False)])
def test_a_very_long_target_is_served_but_never_cached(length: int, cached: bool) -> None:
    target = "/v1/x?".ljust(length, "q")
    route = served(target)
    assert route.tail == target.removeprefix("/v1")
    assert (ROUTER.resolve(target) is route) is cached


@pytest.mark.parametrize(
    "target", ["/xx/health", "/g/health", "/gwhealth", "/gwx/v1/models", "/health", "/xxx/metrics"]
)
def test_only_what_stands_below_the_base_path_is_a_route(target: str) -> None:
    router = make_router(base_path="/gw", metrics_path="/gw/metrics")
    assert refusal_of(router.resolve(target)).status == 404
    assert served("/gw/health", router).kind is Kind.HEALTH
