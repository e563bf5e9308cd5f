"""Where /p/{provider}/... leads on a vLLM server, and that no spelling of an administrative route slips by."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gomodel.routes.passthrough import METHODS, administers, place
from gomodel.routes.vllm_routes import ADMIN_ROUTES, BASE_FAMILIES, ROOT_FAMILIES


@pytest.mark.parametrize(
    ("rest", "below_base", "path", "aliased"),
    [
        ("models", True, "/models", False),
        ("v1/models", True, "/models", True),
        ("chat/completions", True, "/chat/completions", False),
        ("v1/chat/completions", True, "/chat/completions", True),
        ("v1/responses/resp_1/cancel", True, "/responses/resp_1/cancel", True),
        ("audio/transcriptions", True, "/audio/transcriptions", False),
        ("v1/realtime", True, "/realtime", True),
        ("v1/chat/completions/", True, "/chat/completions/", True),
        ("chat//completions", True, "/chat//completions", False),
        ("v1/models/a%2Fb", True, "/models/a%2Fb", True),
        ("tokenize", False, "/tokenize", False),
        ("v1/tokenize", False, "/tokenize", True),
        ("v1/health", False, "/health", True),
        ("metrics", False, "/metrics", False),
        ("v1/load", False, "/load", True),
        ("score", False, "/score", False),
        ("v1/score", False, "/v1/score", False),
        ("v1/systemone", False, "/v1/systemone", False),
        ("v2/rerank", False, "/v2/rerank", False),
        ("inference/v1/generate", False, "/inference/v1/generate", False),
        ("openapi.json", False, "/openapi.json", False),
        ("plugin/route", False, "/plugin/route", False),
        ("v1%2Fchat", False, "/v1%2Fchat", False),
        ("v1%2Fchat/completions", False, "/v1%2Fchat/completions", False),
        ("%63hat/completions", False, "/%63hat/completions", False),
        ("Chat/completions", False, "/Chat/completions", False),
        ("V1/chat", False, "/V1/chat", False),
        ("v1/v1/chat", False, "/v1/v1/chat", False),
        ("chats", False, "/chats", False),
        ("v1", False, "/v1", False),
        ("v1/", False, "/v1/", False),
        ("v1//chat", False, "/v1//chat", False),
        ("/tokenize", False, "//tokenize", False),
        ("/evil.test/a", False, "//evil.test/a", False),
    ],
)
def test_families_go_below_the_base_or_to_the_root_and_the_rest_as_it_stands(
    rest: str, below_base: bool, path: str, aliased: bool
) -> None:
    placement = place(rest)
    assert (placement.below_base, placement.path, placement.aliased) == (below_base, path, aliased)


@pytest.mark.parametrize("family", sorted(BASE_FAMILIES))
@pytest.mark.parametrize("prefix", ["", "v1/"])
def test_every_v1_family_goes_below_the_base_with_and_without_the_alias(prefix: str, family: str) -> None:
    placement = place(f"{prefix}{family}/x")
    assert (placement.below_base, placement.path) == (True, f"/{family}/x")


@pytest.mark.parametrize("family", sorted(ROOT_FAMILIES))
@pytest.mark.parametrize("prefix", ["", "v1/"])
def test_every_root_only_family_goes_to_the_root_with_and_without_the_alias(prefix: str, family: str) -> None:
    placement = place(prefix + family)
    assert (placement.below_base, placement.path) == (False, f"/{family}")


@pytest.mark.parametrize(
    "rest",
    [
        "chat/completions",
        "v1/chat/completions",
        "completions",
        "v1/responses",
        "embeddings",
        "messages",
        "tokenize",
        "v1/detokenize",
        "pooling",
        "classify",
        "score",
        "v1/score",
        "rerank",
        "v2/rerank",
        "v1/audio/transcriptions",
        "inference/v1/generate",
        "cohere/v2/chat",
        "invocations",
    ],
)
def test_inference_families_are_replayable(rest: str) -> None:
    assert place(rest).replayable


@pytest.mark.parametrize(
    "rest",
    [
        "v1/files",
        "batches",
        "v1/realtime",
        "v1/load_lora_adapter",
        "unload_lora_adapter",
        "inference/v1/abort_requests",
        "sleep",
        "plugin/chat",
        "chat%2Fcompletions",
        "health",
    ],
)
def test_what_may_change_something_is_not_replayable(rest: str) -> None:
    assert not place(rest).replayable


# Written out a second time on purpose: a name lost from the list in the module is a hole.
DANGEROUS = [
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/scale_elastic_ep",
    "/is_scaling_elastic_ep",
    "/adapters",
    "/adapters/my-lora",
    "/abort_requests",
    "/inference/v1/abort_requests",
    "/fault_tolerance/status",
    "/fault_tolerance/apply",
    "/start_profile",
    "/stop_profile",
    "/sleep",
    "/wake_up",
    "/is_sleeping",
    "/release_kv_cache_memory",
    "/pause",
    "/resume",
    "/is_paused",
    "/collective_rpc",
    "/server_info",
    "/reset_prefix_cache",
    "/reset_mm_cache",
    "/reset_encoder_cache",
    "/update_weights",
    "/init_weight_transfer_engine",
    "/shutdown_weight_transfer_engine",
    "/start_weight_update",
    "/start_draft_weight_update",
    "/finish_weight_update",
    "/update_weight_version",
    "/weight_info",
    "/weight_checker",
    "/get_world_size",
]


@pytest.mark.parametrize("path", DANGEROUS)
def test_every_route_that_administers_vllm_is_known(path: str) -> None:
    assert administers(path)
    assert administers(path + "/")
    assert administers("/v1" + path)


@pytest.mark.parametrize(
    "path",
    [
        "/%73leep",
        "/%73%6C%65%65%70",
        "//sleep",
        "/sleep//",
        "/sleep/x",
        "/v1//sleep",
        "/v1/v1/sleep",
        "/v1%2Fload_lora_adapter",
        "/v1/load%5Flora_adapter",
        "/%76%31/load_lora_adapter",
        "/v1//load_lora_adapter",
        "/%2Fsleep",
        "/sleep%2F",
        "/sleep;a=1",
        "/sleep%3Ba=1",
        "/adapters%2Fx",
        "/inference%2Fv1%2Fabort_requests",
        "/inference/abort_requests",
        "/api/sleep",
        "/some/root-path/v1/load_lora_adapter",
    ],
)
def test_spellings_that_reach_the_same_route_are_known_too(path: str) -> None:
    assert administers(path)


@pytest.mark.parametrize(
    "path",
    [
        "/tokenize",
        "/health",
        "/load",
        "/version",
        "/kv_event_sources",
        "/openapi.json",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/responses/resp_1/cancel",
        "/v1/files/sleep",
        "/v1/jobs/job-1/pause",
        "/v2/rerank",
        "/Sleep",
        "/sleeping",
        "/sleep.json",
        "/%2573leep",
        "/",
        "/v1",
        "/v1/",
    ],
)
def test_other_routes_are_not_administrative(path: str) -> None:
    assert not administers(path)


def _encoded(name: str) -> st.SearchStrategy[str]:
    """`name` with any of its characters percent-encoded in either case."""
    return st.tuples(*(st.sampled_from([c, f"%{ord(c):02x}", f"%{ord(c):02X}"]) for c in name)).map("".join)


_SLASHES = st.lists(st.sampled_from(["/", "%2f", "%2F"]), min_size=1, max_size=3).map("".join)
_V1 = st.lists(_encoded("v1"), max_size=2)


@given(st.data())
def test_no_mix_of_encodings_slashes_and_v1_hides_an_administrative_route(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(ADMIN_ROUTES)))
    segments = [*data.draw(_V1), data.draw(_encoded(name))]
    rest = "".join(segment + data.draw(_SLASHES) for segment in segments[:-1]) + segments[-1]
    rest = data.draw(st.sampled_from(["", "/", "%2F"])) + rest + data.draw(st.sampled_from(["", "/", "/x", ";y"]))
    placement = place(rest)
    assert administers(("/v1" if placement.below_base else "") + placement.path)


def test_allow_lists_the_usual_methods() -> None:
    assert {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"} == METHODS
