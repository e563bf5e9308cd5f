"""vLLM's HTTP surface as data: its routes, families of routes and administrative routes, as of vLLM 0.33.0.

For whoever reads vLLM's list of routes after a release: what is new there goes into one of these tables. A route that
is missing here is served all the same, by its prefix; an administrative one that is missing is open below
/p/{provider}/. Decides nothing.
"""

READ = frozenset({"GET", "HEAD"})
POST = frozenset({"POST"})

# vLLM's inference routes, for labels only: a path that is missing here is served all the same.
KNOWN_INFERENCE = frozenset(
    {
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/chat/completions",
        "/v1/chat/completions/batch",
        "/v1/chat/completions/derender",
        "/v1/chat/completions/render",
        "/v1/completions",
        "/v1/completions/derender",
        "/v1/completions/render",
        "/v1/decisions",
        "/v1/embeddings",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/v1/messages/render",
        "/v1/rerank",
        "/v1/responses",
        "/v1/responses/render",
        "/v1/score",
        "/v1/systemone",
        "/v2/embed",
        "/v2/rerank",
        "/inference/v1/generate",
        "/cohere/v2/chat",
        "/cohere/v2/chat/render",
    }
)
ROOT_INFERENCE = frozenset(
    {
        "/classify",
        "/detokenize",
        "/generative_scoring",
        "/invocations",
        "/pooling",
        "/rerank",
        "/score",
        "/tokenize",
    }
)
# Those of them that take no tokens of a model's.
UNMETERED = frozenset(
    {
        "/detokenize",
        "/tokenize",
        "/v1/chat/completions/derender",
        "/v1/chat/completions/render",
        "/v1/completions/derender",
        "/v1/completions/render",
        "/v1/messages/count_tokens",
        "/v1/messages/render",
        "/v1/responses/render",
        "/cohere/v2/chat/render",
    }
)
INFERENCE_PREFIXES = ("/v1/", "/v2/", "/inference/", "/cohere/")
# What one vLLM says of itself, at its root; below /v1 too.
SERVER_ROUTES = {"/load": READ, "/ping": READ | POST, "/tokenizer_info": READ, "/version": READ}

# What stands after /v1/responses/ where vLLM and OpenAI's API put an operation on a body, not a stored response.
RESPONSE_OPERATIONS = frozenset({"compact", "derender", "input_tokens", "render"})

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

# First segments below which all answers show what is kept, and do no work.
STORED_FAMILIES = frozenset({"batches", "files"})

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
API_PREFIXES = frozenset({"v1", "v2", "inference", "cohere"})

# Families whose requests only compute an answer: sending one again after a stale connection costs time, nothing else.
INFERENCE_FAMILIES = frozenset(
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
