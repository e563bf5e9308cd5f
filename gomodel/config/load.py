"""The environment as one frozen Config, or the list of everything that is wrong with it.

Decides how the variables (`registry`) fit together, and what deserves a warning.
Opens only the files that `*_FILE` names, TLS_*_FILE among them. Knows nothing of processes, sockets and logging:
warnings are handed over in the Config. No problem and no warning ever holds a secret's value.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from . import dotenv_file
from .files import Files
from .in_force import in_force
from .instances import Listener, instances
from .keys_file import KEYS_FILE_BYTES, digests_of, parse
from .reader import Reader
from .registry import ANY_HOST, LOOPBACK_HOST, OF_GOMODEL, VARIABLES
from .settings import Batching, BreakerConfig, Certificate, Config, ConfigError, Keys, Retry, Secret, Timeouts, Traces
from .typos import warn_of_unknown_names

# What the extra `batch` installs.
_BATCH_PACKAGES = ("sqlalchemy", "alembic", "aiosqlite", "asyncpg")
# A chain of certificates takes some kilobytes.
_PEM_BYTES = 1 << 20


def from_environ(environ: Mapping[str, str], files: Files | None = None, ours: Collection[str] = frozenset()) -> Config:
    """The configuration that `environ` describes; contract section 1. Raises ConfigError with all problems at once.

    `ours` are the names that were set for gomodel alone: each unknown one among them is worth a warning.
    """
    files = files or Files()
    reader = Reader(environ, files)
    master_keys = reader.secrets(VARIABLES["GOMODEL_MASTER_KEY"])
    v = {each.name: reader.value(each) for each in OF_GOMODEL if not each.secret and not each.content}
    # Who needs no key is on this host, unless the operator says otherwise.
    keyed = reader.given_secret("GOMODEL_MASTER_KEY") or reader.given("GOMODEL_KEYS_FILE")
    host = v["HOST"] or (ANY_HOST if keyed else LOOPBACK_HOST)
    port = None if v["GOMODEL_UNIX_SOCKET"] and not reader.given("PORT") else v["PORT"]
    # A PORT that was refused is no port to compare addresses with; its default would accuse the wrong variable.
    listened_port = None if any(problem.startswith("PORT:") for problem in reader.problems) else port
    config = Config(
        instances=instances(reader, Listener(host, listened_port, v["GOMODEL_UNIX_SOCKET"])),
        models_mode=v["CONFIGURED_PROVIDER_MODELS_MODE"],
        host=host,
        port=port,
        unix_socket=v["GOMODEL_UNIX_SOCKET"],
        master_keys=master_keys,
        keys=_keys(reader, master_keys),
        redis_url=reader.secret(VARIABLES["GOMODEL_REDIS_URL"]),
        limits_without_redis=v["LIMITS_WITHOUT_REDIS"],
        model_ids=v["MODEL_IDS"],
        model_aliases=v["MODEL_ALIASES"],
        cors_allow_origins=v["CORS_ALLOW_ORIGINS"],
        base_path=v["BASE_PATH"],
        body_limit_bytes=v["BODY_SIZE_LIMIT"],
        header_limit_bytes=v["HTTP_HEADER_LIMIT"],
        passthrough=v["ENABLE_PASSTHROUGH_ROUTES"],
        passthrough_v1_alias=v["ALLOW_PASSTHROUGH_V1_ALIAS"],
        passthrough_types=v["ENABLED_PASSTHROUGH_PROVIDERS"],
        passthrough_admin=v["PASSTHROUGH_ADMIN_ROUTES"],
        timeouts=Timeouts(
            connect_s=v["HTTP_CONNECT_TIMEOUT"],
            response_header_s=v["HTTP_RESPONSE_HEADER_TIMEOUT"],
            stream_idle_s=v["HTTP_STREAM_IDLE_TIMEOUT"],
            request_idle_s=v["HTTP_REQUEST_IDLE_TIMEOUT"],
            write_idle_s=v["HTTP_WRITE_IDLE_TIMEOUT"],
            total_s=v["HTTP_TIMEOUT"],
            upstream_keepalive_s=v["HTTP_UPSTREAM_KEEPALIVE"],
            client_keepalive_s=v["HTTP_CLIENT_KEEPALIVE"],
        ),
        retry=Retry(
            max_retries=v["RETRY_MAX_RETRIES"],
            initial_backoff_s=v["RETRY_INITIAL_BACKOFF"],
            max_backoff_s=v["RETRY_MAX_BACKOFF"],
            backoff_factor=v["RETRY_BACKOFF_FACTOR"],
            jitter_factor=v["RETRY_JITTER_FACTOR"],
        ),
        breaker=BreakerConfig(
            failure_threshold=v["CIRCUIT_BREAKER_FAILURE_THRESHOLD"],
            success_threshold=v["CIRCUIT_BREAKER_SUCCESS_THRESHOLD"],
            timeout_s=v["CIRCUIT_BREAKER_TIMEOUT"],
        ),
        queue_limit=v["QUEUE_LIMIT"],
        queue_timeout_s=v["QUEUE_TIMEOUT"],
        models_refresh_s=v["CACHE_REFRESH_INTERVAL"],
        routing=v["ROUTING"],
        replica_guard=v["REPLICA_GUARD"],
        replica_guard_generates=v["REPLICA_GUARD_GENERATES"],
        session_headers=v["SESSION_HEADERS"],
        strip_request_headers=v["STRIP_REQUEST_HEADERS"],
        forwarded_allow_ips=v["FORWARDED_ALLOW_IPS"],
        metrics_enabled=v["METRICS_ENABLED"],
        metrics_path=v["METRICS_ENDPOINT"],
        metrics_public=v["METRICS_PUBLIC"],
        digest=v["DIGEST"],
        log_level=v["LOG_LEVEL"],
        log_format=v["LOG_FORMAT"],
        workers=v["GOMODEL_WORKERS"],
        drain_s=v["GOMODEL_DRAIN_TIMEOUT"],
        watch_s=v["GOMODEL_WATCH"],
        certificate=_certificate(reader),
        batches=_batches(reader, v),
        traces=_traces(reader, v),
        warnings=(),
    )
    _cross_check(reader, config)
    others = len(reader.warnings)
    warn_of_unknown_names(reader, ours)
    if reader.problems:
        raise ConfigError(reader.problems, reader.warnings[others:])
    said = in_force(environ)
    return replace(config, warnings=tuple(reader.warnings), files=files.seen, ended=reader.ended, said=said)


def _keys(reader: Reader, master_keys: Iterable[Secret]) -> Keys | None:
    data = reader.file("GOMODEL_KEYS_FILE", KEYS_FILE_BYTES)
    if data is None:
        return None
    path = reader.environ["GOMODEL_KEYS_FILE"].strip()
    try:
        return Keys(path, parse(data, digests_of(master_keys)))
    except ConfigError as error:
        for problem in error.problems:
            reader.problem("GOMODEL_KEYS_FILE", f"{path!r} {problem}")
        return None


def _batches(reader: Reader, values: Mapping[str, Any]) -> Batching:
    database_url = reader.secret(VARIABLES["GOMODEL_DATABASE_URL"])
    data_dir = values["GOMODEL_DATA_DIR"]
    if data_dir is None and database_url is not None:
        reader.problem("GOMODEL_DATABASE_URL", "is set but GOMODEL_DATA_DIR is not; contents are kept in files")
    missing = [name for name in _BATCH_PACKAGES if find_spec(name) is None] if data_dir is not None else []
    if missing:
        reader.problem("GOMODEL_DATA_DIR", f"needs pip install 'gomodel[batch]': {', '.join(missing)} is missing")
    return Batching(
        data_dir=data_dir,
        database_url=database_url,
        file_limit_bytes=values["FILE_SIZE_LIMIT"],
        file_ttl_s=values["FILE_TTL"],
        concurrency=values["BATCH_CONCURRENCY"],
        priority=values["BATCH_PRIORITY"],
    )


def _traces(reader: Reader, values: Mapping[str, Any]) -> Traces | None:
    headers = reader.secret(VARIABLES["OTEL_EXPORTER_OTLP_HEADERS"])
    endpoint = values["OTEL_EXPORTER_OTLP_ENDPOINT"]
    if endpoint is None or values["OTEL_TRACES_EXPORTER"] == "none":
        return None
    return Traces(
        endpoint,
        headers,
        values["OTEL_SERVICE_NAME"],
        values["OTEL_TRACES_SAMPLER"],
        values["OTEL_TRACES_SAMPLER_ARG"],
    )


def _certificate(reader: Reader) -> Certificate | None:
    chain, key = (reader.file(name, _PEM_BYTES) for name in ("TLS_CERT_FILE", "TLS_KEY_FILE"))
    return None if chain is None or key is None else Certificate(chain, key)


def load(environ: Mapping[str, str], dotenv_path: Path = Path(".env"), files: Files | None = None) -> Config:
    """The configuration of `environ` over the file at `dotenv_path`, an empty one where it is missing.

    A variable that `environ` has wins even when it is empty, so an empty one switches a line of the file off. Raises
    ConfigError with the problems of the file first.
    """
    files = files or Files()
    file = dotenv_file.read(dotenv_path, environ, files)
    problems: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    try:
        config = from_environ({**file.values, **environ}, files, file.values.keys() - file.referenced)
    except ConfigError as error:
        # The file's own report of an unresolved reference has the line; a second one would say less.
        problems = tuple(problem for problem in error.problems if problem.partition(":")[0] not in file.unresolved)
        hints = error.hints
    if file.problems or problems:
        raise ConfigError(file.problems + problems, file.warnings + hints)
    return replace(config, dotenv=bool(file.values), dotenv_ended=file.ended, warnings=file.warnings + config.warnings)


def _check_aliases(reader: Reader, config: Config) -> None:
    names = {each.name for each in config.instances}
    known = ", ".join(sorted(names))
    for alias, target in config.model_aliases:
        instance, slash, model = target.partition("/")
        if alias.partition("/")[0] in names:
            reader.problem("MODEL_ALIASES", f"the alias {alias!r} begins with an instance's name, which it would hide")
        if instance in names:
            if not (slash and model):
                reader.problem(
                    "MODEL_ALIASES", f"{alias!r} stands for an instance and no model: use {instance}/<model>"
                )
        elif instance == "vllm" or instance.startswith("vllm-"):
            reader.problem("MODEL_ALIASES", f"{alias!r} stands for a model of {instance!r}, which is none of: {known}")


def _cross_check(reader: Reader, config: Config) -> None:
    """What no variable can be blamed for alone."""
    for name, other in (("TLS_CERT_FILE", "TLS_KEY_FILE"), ("TLS_KEY_FILE", "TLS_CERT_FILE")):
        if reader.given(name) and not reader.given(other):
            reader.problem(name, f"is set but {other} is not; TLS needs both")
    _check_aliases(reader, config)
    warn = reader.warnings.append
    if config.keys is not None and not config.master_keys and not any(each.admin for each in config.keys.entries):
        warn(
            "GOMODEL_MASTER_KEY is not set and no entry of GOMODEL_KEYS_FILE has admin = true: /admin is closed to all"
        )
    if config.redis_url is not None and config.keys is None:
        warn("GOMODEL_REDIS_URL has no effect without GOMODEL_KEYS_FILE: there are no limits to share")
    if not config.needs_key:
        alone = config.port is not None and not reader.given("HOST")
        who = (
            "everybody on this host, which alone is served unless HOST is set"
            if alone
            else "whoever reaches the listener"
        )
        warn(f"GOMODEL_MASTER_KEY is not set: every route is open to {who}")
        if "*" in config.cors_allow_origins:
            warn("CORS_ALLOW_ORIGINS is * without a key: every web page may use the gateway that its reader can reach")
    if any(each.secured for each in config.instances):
        reader.regular("SSL_CERT_FILE")
    if config.port is None and reader.given("HOST"):
        warn("HOST has no effect: with GOMODEL_UNIX_SOCKET, TCP is listened on only when PORT is set")
    if config.passthrough and "vllm" not in config.passthrough_types:
        warn("ENABLED_PASSTHROUGH_PROVIDERS does not name vllm: every /p/ route answers 404")
    if config.retry.initial_backoff_s > config.retry.max_backoff_s:
        warn("RETRY_INITIAL_BACKOFF is longer than RETRY_MAX_BACKOFF, which limits every wait")
    if config.timeouts.upstream_keepalive_s >= 5:
        warn("HTTP_UPSTREAM_KEEPALIVE is not below the 5s after which vLLM's server closes idle connections")
