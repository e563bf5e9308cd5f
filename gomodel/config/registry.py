"""Every variable that gomodel reads, said once: name, parser, default and meaning, section by section.

`.env.example`, docs/configuration.md, the quick start's table and `--help` are made of it (`make docs-config`). Decides
nothing about how several variables fit together (`load`) or how an instance is put together (`instances`).
"""

from ..routes.route import Kind
from ..routes.router import Router
from . import addresses, header_fields, servers, values
from .variable import Section, Variable

# Where is listened without HOST: on every address where callers need a key, else on this host alone.
ANY_HOST = "::"
LOOPBACK_HOST = "localhost"

# Whatever this knows is taken; the switches only decide what a known route answers.
_WITHOUT_METRICS = Router(
    base_path="/",
    passthrough=True,
    passthrough_v1_alias=True,
    passthrough_admin=True,
    metrics_path=None,
    metrics_public=False,
)


def _metrics_path(text: str) -> str:
    path = addresses.route_path(text)
    # /v1, /v2 and the like belong to vLLM as a whole: a route it adds tomorrow must not be hidden behind the metrics.
    whole = path.split("/")[1:2] in ([], ["admin"], ["cohere"], ["health"], ["inference"], ["p"], ["v1"], ["v2"])
    if whole or _WITHOUT_METRICS.resolve(path).kind is not Kind.NOT_FOUND:
        raise ValueError(f"{text!r} belongs to another route; use a path of its own such as /metrics")
    return path


_TIMEOUT, _DURATION, _BOOLEAN = values.timeout_s, values.duration_s, values.boolean

# A row is a name, its parser, the default and what is special; then the meaning.
# fmt: off
SECTIONS = (
    Section("vLLM instances", (
        Variable("VLLM_BASE_URL", servers.servers, "http://localhost:8000/v1", first=True,
                 per_instance="http://gpu-2:8000/v1", meaning=
            "Base URL of the instance `vllm`, with `/v1`: http, https or `unix:///run/vllm.sock:/v1`. Its replicas are "
            "a comma list of these, a range of ports (`http://gpu-1:8000-8007/v1`), or every address of a name "
            "(`http+dns://vllm.prod.svc:8000/v1`, `https+dns://`)."),
        Variable("VLLM_API_KEY", header_fields.bearer_token, "", secret=True, first=True,
                 per_instance="/run/secrets/vllm_test_key", meaning=
            "Key sent to the instance as bearer token; none set, none sent."),
        Variable("VLLM_MODELS", values.comma_list, "", absent=(), per_instance="org/model-a,org/model-b", meaning=
            "Model ids of the instance, for when its own list cannot be read (see "
            "`CONFIGURED_PROVIDER_MODELS_MODE`)."),
        Variable("VLLM_DP_RANKS", values.integer(1, 1024), "", absent=0, per_instance="", meaning=
            "Data-parallel engines behind each of its ports. A request that names no `X-data-parallel-rank` gets one, "
            "the same one for all of a conversation."),
        Variable("VLLM_HEADERS", header_fields.fixed_fields, "", absent=(), per_instance="", meaning=
            "Fields that its requests get, in place of the client's of these names: `X-Team: search`, several with a "
            "vertical bar between them. `{key}` in a value is the name of the caller's key; without one that field is "
            "left out."),
        Variable("VLLM_CA_FILE", str, "", content=True, per_instance="", otherwise="the system's roots", meaning=
            "File of certificates (PEM) to trust instead for an https instance: a private CA's, or its own. Read again "
            "on SIGHUP. OpenSSL's `SSL_CERT_FILE` replaces the system's roots for every instance without one."),
        Variable("VLLM_MAX_IN_FLIGHT", values.integer(1), "", absent=None, per_instance="64",
                 otherwise="no limit", meaning=
            "Requests at once at each server of the instance, for all workers together. What is beyond it waits in "
            "the gateway, first come first served, instead of in the engine's own queue, which has no bound and no "
            "fairness."),
    )),
    Section("Models", (
        Variable("CONFIGURED_PROVIDER_MODELS_MODE", values.choice("fallback", "allowlist"), "fallback", meaning=
            "What the lists of model ids above do: `fallback` (used when an instance's own list cannot be read) or "
            "`allowlist` (used instead of it). An allowlist says what `GET /v1/models` shows and what a bare id "
            "finds. It is no access control: who names the instance, or uses `/p/`, may still ask for any model."),
        Variable("MODEL_IDS", values.choice("prefixed", "bare", "both"), "prefixed", meaning=
            "Ids in `GET /v1/models`: `prefixed` (vllm/org/model), `bare` (org/model, as vLLM has them) or `both`. "
            "All are always accepted."),
        Variable("MODEL_ALIASES", values.aliases, "", absent=(), meaning=
            "Further names of models, for clients with names built in: `gpt-4o=vllm/Qwen/Qwen3-32B,claude-*=vllm/...`. "
            "The value of `model` is replaced and nothing else. A `*` matches anything that is no model's own name."),
        Variable("CACHE_REFRESH_INTERVAL", _TIMEOUT, "60s", meaning=
            "How old an instance's model list may get before it is read again."),
    )),
    Section("Choice of a server", (
        Variable("ROUTING", values.choice("affinity", "least"), "affinity", meaning=
            "Which of several servers takes a request: `affinity` (the one that has the conversation in its cache, "
            "unless it has far more to do than the others) or `least` (the one with the fewest requests in flight)."),
        Variable("REPLICA_GUARD", values.choice("warn", "exclude", "off"), "warn", meaning=
            "Compare servers that take each other's requests: version, `max_model_len`, `system_fingerprint`, chat "
            "template, a greedy answer. `warn` names what differs; `exclude` also gives the odd one, which differs "
            "from more than half in anything but the greedy answer, only what no other takes."),
        Variable("REPLICA_GUARD_GENERATES", _BOOLEAN, "true", meaning=
            "Have each of these servers generate eight tokens once it is up, and once an hour after that, to compare "
            "greedy answers and fingerprints."),
        Variable("SESSION_HEADERS", header_fields.session_headers, "", absent=(), meaning=
            "Further request headers that name a conversation, such as `X-Chat-Id`; `X-Session-ID` is known, and so is "
            "what common agents send."),
    )),
    Section("Access", (
        Variable("GOMODEL_MASTER_KEY", header_fields.bearer_token, "", secret=True, first=True, meaning=
            "Key that callers must present, as Bearer, `x-api-key` or `api-key`; without one everything is open. The "
            "file may hold several, one a line: the next beside the one that it replaces."),
        Variable("GOMODEL_KEYS_FILE", str, "", content=True, first=True, meaning=
            "TOML file of further keys, each with a name, its rights and limits (docs/contract.md, section 9); read "
            "again when it changes. `gomodel new-key NAME` makes an entry."),
        Variable("GOMODEL_REDIS_URL", values.redis_url, "", secret=True, meaning=
            "Redis or Valkey over which several gateways share the limits of keys: `redis://:password@redis:6379/0`, "
            "`rediss://...` or `unix:///run/redis.sock`. Needs `pip install gomodel[redis]`."),
        Variable("LIMITS_WITHOUT_REDIS", values.choice("share", "open", "closed"), "share", meaning=
            "What holds while Redis does not answer: `share` (a limit divided by the gateways there were last), `open` "
            "(each gateway takes the whole limit) or `closed` (503 to keys that have a limit)."),
        Variable("CORS_ALLOW_ORIGINS", addresses.origins, "", absent=(), meaning=
            "Origins whose pages may call the API, such as "
            "`https://app.example,http://localhost:3000`; `*` is every one."),
        Variable("BODY_SIZE_LIMIT", values.size_bytes, "100M", first=True, meaning=
            "Largest request body; a larger one is answered with 413."),
        Variable("HTTP_HEADER_LIMIT", values.size_between("1K", "1M"), "64K", meaning=
            "Largest request line and header together, 1K to 1M; more is answered with 414 or 431. Any client may make "
            "the gateway hold as much on each of its connections."),
        Variable("STRIP_REQUEST_HEADERS", header_fields.header_names, "", absent=frozenset(), meaning=
            "Further request headers that must not reach vLLM, such as "
            "`X-Vllm-Priority,X-data-parallel-rank,X-Session-ID`."),
    )),
    Section("Listener", (
        Variable("HOST", addresses.listen_host, "", first=True,
                 otherwise=f"`{ANY_HOST}` where a key is needed, else `{LOOPBACK_HOST}`", meaning=
            "Address or name to listen on; `0.0.0.0` is every IPv4 address, `::` every address of both kinds, "
            "`localhost` this host alone. The container image sets it."),
        Variable("PORT", values.integer(0, 65535), "8080", first=True, meaning=
            "Port to listen on; 0 takes any free one."),
        Variable("GOMODEL_UNIX_SOCKET", addresses.socket_path, "", first=True, meaning=
            "Unix socket to listen on instead, or besides when `PORT` is set. Its mode is 0660: clients must be in"
            " gomodel's group."),
        Variable("TLS_CERT_FILE", str, "", content=True, first=True, meaning=
            "Certificate chain (PEM) to serve TLS with; needs `TLS_KEY_FILE`."),
        Variable("TLS_KEY_FILE", str, "", content=True, first=True, meaning=
            "Private key (PEM) of the certificate; needs `TLS_CERT_FILE`."),
        Variable("BASE_PATH", addresses.route_path, "/", meaning=
            "Prefix of every route."),
        Variable("FORWARDED_ALLOW_IPS", addresses.proxies, "", absent=(), meaning=
            "Balancers and proxies in front whose `X-Forwarded-For` is believed, for the client's address in the "
            "log and in the list of requests: addresses and networks as in `10.0.0.0/8,unix`, where `unix` is the "
            "unix socket, or `*` for everybody who connects. None: the peer's own address."),
        Variable("GOMODEL_WORKERS", values.workers, "1", first=True, meaning=
            "Processes that share the port; `auto` is one per CPU."),
        Variable("GOMODEL_WATCH", values.optional_timeout_s, "", otherwise="never", meaning=
            "How often to look whether `.env`, or another file that was read, has changed; then the configuration is "
            "read again as on SIGHUP. `5s` suits most."),
        Variable("GOMODEL_DRAIN_TIMEOUT", _DURATION, "600s", first=True, meaning=
            "How long SIGTERM waits for running requests before it aborts them."),
    )),
    Section("Passthrough", (
        Variable("ENABLE_PASSTHROUGH_ROUTES", _BOOLEAN, "true", meaning=
            "Serve `/p/<instance>/...` as is."),
        Variable("ALLOW_PASSTHROUGH_V1_ALIAS", _BOOLEAN, "true", meaning=
            "Accept `/p/<instance>/v1/...` for what is known without the `v1/` (chat, files, tokenize ...); other "
            "paths pass anyway."),
        Variable("ENABLED_PASSTHROUGH_PROVIDERS", values.lower_set, "vllm", meaning=
            "Provider types open to passthrough."),
        Variable("PASSTHROUGH_ADMIN_ROUTES", _BOOLEAN, "false", meaning=
            "Let passthrough reach routes that administer vLLM (LoRA loading, profiling, scaling); vLLM's key does "
            "not guard them."),
    )),
    Section("Timeouts", (
        Variable("HTTP_CONNECT_TIMEOUT", _TIMEOUT, "5s", meaning=
            "Longest time to connect to an instance, DNS and TLS included. Each try has as long again."),
        Variable("HTTP_RESPONSE_HEADER_TIMEOUT", _TIMEOUT, "600s", meaning=
            "Longest wait for an instance's response head."),
        Variable("HTTP_STREAM_IDLE_TIMEOUT", _TIMEOUT, "300s", meaning=
            "Longest silence inside a response body."),
        Variable("HTTP_REQUEST_IDLE_TIMEOUT", _TIMEOUT, "60s", meaning=
            "Longest silence inside a request body; then 408."),
        Variable("HTTP_WRITE_IDLE_TIMEOUT", _TIMEOUT, "120s", meaning=
            "Longest time a client may leave a response unread."),
        Variable("HTTP_TIMEOUT", values.optional_timeout_s, "", meaning=
            "Limit for a whole request; unset, `0` and `none` mean no limit, because one would cut long "
            "generations. What it ends is nobody's failure: 504 `total_timeout` before a response head, else an "
            "error event and an aborted connection."),
        Variable("HTTP_UPSTREAM_KEEPALIVE", _DURATION, "4s", meaning=
            "How long an idle connection to an instance may be reused; keep it below vLLM's own 5s."),
        Variable("HTTP_CLIENT_KEEPALIVE", _TIMEOUT, "620s", meaning=
            "How long an idle connection of a client is kept; keep it above the idle timeout of a balancer in front, "
            "which is 600s in many, or the balancer meets a connection that is being closed."),
    )),
    Section("Retry and circuit breaker", (
        Variable("RETRY_MAX_RETRIES", values.integer(0, 100), "2", meaning=
            "Attempts after the first, made only when certainly nothing was processed: a connect failed, or the "
            "instance said so."),
        Variable("RETRY_INITIAL_BACKOFF", _DURATION, "100ms", meaning=
            "Wait before the first further attempt."),
        Variable("RETRY_MAX_BACKOFF", _DURATION, "2s", meaning=
            "Longest wait between two attempts."),
        Variable("RETRY_BACKOFF_FACTOR", values.number(1, 1000), "2", meaning=
            "Factor by which the wait grows, 1 or more."),
        Variable("RETRY_JITTER_FACTOR", values.number(0, 1), "0.1", meaning=
            "Share of a wait that is random, 0 to 1."),
        Variable("CIRCUIT_BREAKER_FAILURE_THRESHOLD", values.integer(1), "5", meaning=
            "Requests in a row that fail before an instance's breaker opens; one that was tried several times there "
            "counts once."),
        Variable("CIRCUIT_BREAKER_SUCCESS_THRESHOLD", values.integer(1), "1", meaning=
            "Answered health probes, or requests let through to try, that close it again."),
        Variable("CIRCUIT_BREAKER_TIMEOUT", _TIMEOUT, "10s", meaning=
            "While it is open one request is let through each time, whatever becomes of the one before."),
    )),
    Section("The line", (
        Variable("QUEUE_LIMIT", values.integer(0), "1000", meaning=
            "Requests that may wait for a server with a `VLLM_MAX_IN_FLIGHT`; further ones are answered with 503 "
            "`queue_full`."),
        Variable("QUEUE_TIMEOUT", _TIMEOUT, "60s", meaning=
            "How long one waits there; then 503 `queue_timeout`."),
    )),
    Section("Files and batches", (
        Variable("GOMODEL_DATA_DIR", addresses.directory, "", meaning=
            "Directory for `/v1/files`, `/v1/batches` and usage by the hour, which are off without one; made where it "
            "is missing. Gateways that share batches share it. Needs the extra `gomodel[batch]`, which the container "
            "image has."),
        Variable("GOMODEL_DATABASE_URL", addresses.database_url, "", secret=True,
                 otherwise="SQLite in `GOMODEL_DATA_DIR`", meaning=
            "PostgreSQL database for what is known of files and batches, `postgresql://user:password@host/name`. "
            "Several gateways on one database and one directory share the work."),
        Variable("FILE_SIZE_LIMIT", values.size_bytes, "200M", meaning=
            "Largest file that may be uploaded; a larger one is answered with 413."),
        Variable("FILE_TTL", values.duration_between("1h", "3650d"), "30d", meaning=
            "How long a file is kept that does not say so itself (`expires_after`), results of batches included."),
        Variable("BATCH_CONCURRENCY", values.integer(1, 10000), "16", meaning=
            "Most lines of batches at once on one vLLM server; fewer while others wait there."),
        Variable("BATCH_PRIORITY", values.integer(0), "10", meaning=
            "`X-Vllm-Priority` of the lines, for a vLLM with `--scheduling-policy priority`: others have 0, and more "
            "is served later."),
    )),
    Section("Traces", (
        Variable("OTEL_EXPORTER_OTLP_ENDPOINT", addresses.collector_url, "", meaning=
            "OpenTelemetry collector that gets one span for each request, by OTLP over HTTP: `http://collector:4318`. "
            "Needs `pip install gomodel[otel]`, which the container image has. Further `OTEL_` variables are read as "
            "the SDK documents them."),
        Variable("OTEL_EXPORTER_OTLP_HEADERS", str, "", secret=True, meaning=
            "Fields for the collector, percent-encoded: `authorization=Bearer%20...,x-team=search`."),
        Variable("OTEL_TRACES_EXPORTER", values.choice("otlp", "none"), "otlp", meaning=
            "`none` switches spans off where the endpoint is set for other programs' sake."),
        Variable("OTEL_SERVICE_NAME", str, "gomodel", meaning=
            "What spans call the gateway."),
        Variable("OTEL_TRACES_SAMPLER", values.choice(
                 "always_on", "always_off", "traceidratio",
                 "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio"),
                 "parentbased_always_on", meaning=
            "Which requests have a span: `parentbased_...` goes by the caller's `traceparent`, and by the rest where "
            "there is none. A `traceidratio` takes a share of them."),
        Variable("OTEL_TRACES_SAMPLER_ARG", values.number(0, 1), "1", meaning=
            "That share, 0 to 1."),
    )),
    Section("Metrics and log", (
        Variable("METRICS_ENABLED", _BOOLEAN, "true", meaning=
            "Serve Prometheus metrics."),
        Variable("METRICS_ENDPOINT", _metrics_path, "/metrics", meaning=
            "Path of the metrics."),
        Variable("METRICS_PUBLIC", _BOOLEAN, "false", meaning=
            "Serve the metrics without the master key; they name no replica's address then."),
        Variable("DIGEST", values.choice("off", "sampled", "all"), "sampled", meaning=
            "Of which requests the bytes that came in are compared with those that went out, both ways: `sampled` (one "
            "of 101; summing all of them would take more than 2 % of each), `all` or `off`. A difference is a bug of "
            "gomodel's: an ERROR with the request's id, and `gomodel_byte_mismatch_total`."),
        Variable("LOG_LEVEL", values.choice("debug", "info", "warning", "error", aliases={"warn": "warning"}), "info",
                 first=True, meaning=
            "Least severe level that is logged: `debug`, `info`, `warn` (or `warning`), `error`."),
        Variable("LOG_FORMAT", values.choice("auto", "text", "json"), "auto", meaning=
            "`text`, `json`, or `auto`: text on a terminal, JSON elsewhere."),
    )),
)
# fmt: on

VARIABLES = {each.name: each for section in SECTIONS for each in section.variables}
# What an instance has, and what there is once.
OF_INSTANCES = tuple(each for each in VARIABLES.values() if each.per_instance is not None)
OF_GOMODEL = tuple(each for each in VARIABLES.values() if each.per_instance is None)
