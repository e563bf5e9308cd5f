"""The rules of /p/{provider}/...: where a path goes on a vLLM server, and which routes administer that server.

Knows vLLM's routes by name. It does not know which providers exist, what their base URL is, or which switches are set.
"""

from typing import NamedTuple

from .targets import decoded_segments

# What Allow says; whatever else HTTP has passes as well, but for TRACE and CONNECT.
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_ADAPTER_FAMILIES = frozenset({"load_lora_adapter", "unload_lora_adapter"})

# First segments that belong below the base URL, with or without `v1/` in front (contract section 6).
BASE_FAMILIES = _ADAPTER_FAMILIES | {
    "audio",
    "batches",
    "chat",
    "completions",
    "embeddings",
    "files",
    "messages",
    "models",
    "realtime",
    "responses",
}

# First segments that vLLM has only at the root: a `v1/` in front of them is a client's base URL speaking, and is cut.
ROOT_FAMILIES = frozenset(
    {"classify", "detokenize", "health", "load", "metrics", "ping", "pooling", "tokenize", "tokenizer_info", "version"}
)

# Routes of vLLM that change or expose the server itself. Its API key guards none of those at the root.
ADMIN_ROUTES = _ADAPTER_FAMILIES | {
    "abort_requests",
    "adapters",
    "fault_tolerance",
    "is_scaling_elastic_ep",
    "scale_elastic_ep",
    "start_profile",
    "stop_profile",
    # From here on those that exist in vLLM's dev mode only.
    "collective_rpc",
    "finish_weight_update",
    "get_world_size",
    "init_weight_transfer_engine",
    "is_paused",
    "is_sleeping",
    "pause",
    "release_kv_cache_memory",
    "reset_encoder_cache",
    "reset_mm_cache",
    "reset_prefix_cache",
    "resume",
    "server_info",
    "shutdown_weight_transfer_engine",
    "sleep",
    "start_draft_weight_update",
    "start_weight_update",
    "update_weight_version",
    "update_weights",
    "wake_up",
    "weight_checker",
    "weight_info",
}

# Below these prefixes a path is vLLM's own API, so that only the name right after them can be an administrative route.
_API_PREFIXES = frozenset({"v1", "v2", "inference", "cohere"})

# Families whose requests only compute an answer: sending one again after a stale connection costs time, nothing else.
_INFERENCE_FAMILIES = frozenset(
    {
        "audio",
        "chat",
        "classify",
        "cohere",
        "completions",
        "decisions",
        "detokenize",
        "embeddings",
        "generative_scoring",
        "inference",
        "invocations",
        "messages",
        "pooling",
        "rerank",
        "responses",
        "score",
        "systemone",
        "tokenize",
        "v2",
    }
)


class Placement(NamedTuple):
    """Where a passthrough path goes: `path` is raw, starts with "/" and counts from the base URL or from the root."""

    below_base: bool
    path: str
    aliased: bool  # a leading `v1/` stood before a family that is known without it
    replayable: bool


def place(rest: str) -> Placement:
    """Places what follows /p/{provider}/ (raw, no leading slash, no query) on the upstream; contract section 6.

    Families are compared byte for byte: `v1%2Fchat` is none. Whatever is no family goes to the root as it stands.
    """
    short = rest.removeprefix("v1/")
    family = short.partition("/")[0]
    below_base = family in BASE_FAMILIES
    known = below_base or family in ROOT_FAMILIES
    path = "/" + (short if known else rest)
    replayable = family in _INFERENCE_FAMILIES and not administers(path)
    return Placement(below_base, path, known and short != rest, replayable)


def administers(path: str) -> bool:
    """Whether a raw upstream path, with its /v1 where it goes below the base URL, is an administrative route of vLLM.

    vLLM routes on the decoded path and, started with --root-path, also below that prefix, which nobody tells gomodel.
    So an administrative name closes the path wherever it stands, except inside vLLM's own API (`/v1/files/sleep` is
    a file). Empty segments and a trailing slash count for nothing: a server in between may drop them.
    """
    segments = [segment for segment in decoded_segments(path) if segment]
    depth = 0
    while depth < len(segments) and segments[depth] in _API_PREFIXES:
        depth += 1
    suspects = segments[depth : depth + 1] if depth else segments
    return not ADMIN_ROUTES.isdisjoint(suspects)
