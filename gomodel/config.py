"""The environment as one frozen Config, or the list of everything that is wrong with it.

Decides the names, defaults and ranges of all variables, which instances they describe, and what deserves a warning.
Opens only the files that `*_FILE` names, TLS_*_FILE among them. Knows nothing of processes, sockets and logging:
warnings are handed over in the Config. No problem and no warning ever holds a secret's value.
"""

import difflib
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from . import dotenv_file
from . import quantities as q
from .environment import Reader
from .files import Files
from .instances import INSTANCE_VARIABLE, Listener, instances
from .routes import Kind, Router
from .settings import BreakerConfig, Certificate, Config, ConfigError, InstanceConfig, Retry, Secret, Timeouts

# Where is listened without HOST: on every address where callers need a key, else on this host alone.
ANY_HOST = "::"
LOOPBACK_HOST = "localhost"

__all__ = [
    "VARIABLES",
    "BreakerConfig",
    "Config",
    "ConfigError",
    "InstanceConfig",
    "Retry",
    "Secret",
    "Timeouts",
    "from_environ",
    "load",
]


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
    path = q.route_path(text)
    # /v1, /v2 and the like belong to vLLM as a whole: a route it adds tomorrow must not be hidden behind the metrics.
    whole = path.split("/")[1:2] in ([], ["admin"], ["cohere"], ["health"], ["inference"], ["p"], ["v1"], ["v2"])
    if whole or _WITHOUT_METRICS.resolve(path).kind is not Kind.NOT_FOUND:
        raise ValueError(f"{text!r} belongs to another route; use a path of its own such as /metrics")
    return path


def _header_limit(text: str) -> int:
    """Any client may make the gateway hold as much on each of its connections."""
    limit_bytes = q.size_bytes(text)
    if not 1024 <= limit_bytes <= 1 << 20:
        raise ValueError(f"{text!r} is not between 1K and 1M")
    return limit_bytes


def _workers(text: str) -> int:
    return _usable_cpus() if text.lower() == "auto" else q.integer(1, 1024)(text)


def _usable_cpus() -> int:
    """The CPUs this process may run on: taskset and a container's cpuset leave it fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# Variable -> parser and default as an operator would write it; "" has no default and gives None.
VARIABLES: dict[str, tuple[Callable[[str], Any], str]] = {
    "CONFIGURED_PROVIDER_MODELS_MODE": (q.choice("fallback", "allowlist"), "fallback"),
    "HOST": (q.listen_host, ""),
    "PORT": (q.integer(0, 65535), "8080"),
    "GOMODEL_UNIX_SOCKET": (q.socket_path, ""),
    "TLS_CERT_FILE": (str, ""),
    "TLS_KEY_FILE": (str, ""),
    "MODEL_IDS": (q.choice("prefixed", "bare", "both"), "prefixed"),
    "CORS_ALLOW_ORIGINS": (q.origins, ""),
    "BASE_PATH": (q.route_path, "/"),
    "BODY_SIZE_LIMIT": (q.size_bytes, "100M"),
    "ENABLE_PASSTHROUGH_ROUTES": (q.boolean, "true"),
    "ALLOW_PASSTHROUGH_V1_ALIAS": (q.boolean, "true"),
    "ENABLED_PASSTHROUGH_PROVIDERS": (q.lower_set, "vllm"),
    "PASSTHROUGH_ADMIN_ROUTES": (q.boolean, "false"),
    "HTTP_CONNECT_TIMEOUT": (q.timeout_s, "5s"),
    "HTTP_RESPONSE_HEADER_TIMEOUT": (q.timeout_s, "600s"),
    "HTTP_STREAM_IDLE_TIMEOUT": (q.timeout_s, "300s"),
    "HTTP_REQUEST_IDLE_TIMEOUT": (q.timeout_s, "60s"),
    "HTTP_WRITE_IDLE_TIMEOUT": (q.timeout_s, "120s"),
    "HTTP_TIMEOUT": (q.optional_timeout_s, ""),
    "HTTP_UPSTREAM_KEEPALIVE": (q.duration_s, "4s"),
    "HTTP_CLIENT_KEEPALIVE": (q.timeout_s, "620s"),
    "HTTP_HEADER_LIMIT": (_header_limit, "64K"),
    "RETRY_MAX_RETRIES": (q.integer(0, 100), "2"),
    "RETRY_INITIAL_BACKOFF": (q.duration_s, "100ms"),
    "RETRY_MAX_BACKOFF": (q.duration_s, "2s"),
    "RETRY_BACKOFF_FACTOR": (q.number(1, 1000), "2"),
    "RETRY_JITTER_FACTOR": (q.number(0, 1), "0.1"),
    "CIRCUIT_BREAKER_FAILURE_THRESHOLD": (q.integer(1), "5"),
    "CIRCUIT_BREAKER_SUCCESS_THRESHOLD": (q.integer(1), "1"),
    "CIRCUIT_BREAKER_TIMEOUT": (q.timeout_s, "10s"),
    "CACHE_REFRESH_INTERVAL": (q.timeout_s, "60s"),
    "STRIP_REQUEST_HEADERS": (q.header_names, ""),
    "FORWARDED_ALLOW_IPS": (q.proxies, ""),
    "METRICS_ENABLED": (q.boolean, "true"),
    "METRICS_ENDPOINT": (_metrics_path, "/metrics"),
    "METRICS_PUBLIC": (q.boolean, "false"),
    "LOG_LEVEL": (q.choice("debug", "info", "warning", "error", aliases={"warn": "warning"}), "info"),
    "LOG_FORMAT": (q.choice("auto", "text", "json"), "auto"),
    "GOMODEL_WORKERS": (_workers, "1"),
    "GOMODEL_DRAIN_TIMEOUT": (q.duration_s, "600s"),
}
_KNOWN = (*VARIABLES, "GOMODEL_MASTER_KEY", "GOMODEL_MASTER_KEY_FILE")
# Their values are what is in a file.
_CONTENTS = frozenset({"TLS_CERT_FILE", "TLS_KEY_FILE"})
# A chain of certificates takes some kilobytes.
_PEM_BYTES = 1 << 20
# What Kubernetes injects for a Service called gomodel; nobody wrote it by hand.
_SERVICE_LINK = re.compile(r".*_SERVICE_(?:HOST|PORT(?:_.*)?)|.*_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_.*)?")
# What other gateways call these fields. Of vLLM's own variables only those of its image's build have such a name.
_MISNAMED_FIELD = re.compile(
    r"(VLLM_(?:.+?_)?)(?:((?:BASE_?|API_?)?UR[IL]S?|API_BASE|ENDPOINT)|API_?KEYS?|KEY)", re.IGNORECASE
)
# An instance's name or number behind the field instead of before it.
_MISPLACED_SUFFIX = re.compile(r"(VLLM_(?:.+_)?)(BASE_URL|API_KEY)_(.+)", re.IGNORECASE)
# How alike a name in a .env file must be to one that is known to be taken for it.
_ALIKE = 0.85
_SHOWN_NAMES = 10


def _plain(reader: Reader, name: str) -> Any:
    """The value of one of VARIABLES, its default when unset; the default, too, after a problem was noted."""
    parse, default = VARIABLES[name]
    value = reader.parsed(name, parse)
    return parse(default) if value is None and default else value


def from_environ(environ: Mapping[str, str], files: Files | None = None, ours: Collection[str] = frozenset()) -> Config:
    """The configuration that `environ` describes; contract section 1. Raises ConfigError with all problems at once.

    `ours` are the names that were set for gomodel alone: each unknown one among them is worth a warning.
    """
    reader = Reader(environ, files or Files())
    master_key = reader.secret("GOMODEL_MASTER_KEY")
    v = {name: _plain(reader, name) for name in VARIABLES if name not in _CONTENTS}
    # Who needs no key is on this host, unless the operator says otherwise.
    host = v["HOST"] or (ANY_HOST if reader.given_secret("GOMODEL_MASTER_KEY") else LOOPBACK_HOST)
    port = None if v["GOMODEL_UNIX_SOCKET"] and not reader.given("PORT") else v["PORT"]
    # A PORT that was refused is no port to compare addresses with; its default would accuse the wrong variable.
    listened_port = None if any(problem.startswith("PORT:") for problem in reader.problems) else port
    config = Config(
        instances=instances(reader, Listener(host, listened_port, v["GOMODEL_UNIX_SOCKET"])),
        models_mode=v["CONFIGURED_PROVIDER_MODELS_MODE"],
        host=host,
        port=port,
        unix_socket=v["GOMODEL_UNIX_SOCKET"],
        master_key=master_key,
        model_ids=v["MODEL_IDS"],
        cors_allow_origins=v["CORS_ALLOW_ORIGINS"] or (),
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
        models_refresh_s=v["CACHE_REFRESH_INTERVAL"],
        strip_request_headers=v["STRIP_REQUEST_HEADERS"] or frozenset(),
        forwarded_allow_ips=v["FORWARDED_ALLOW_IPS"] or (),
        metrics_enabled=v["METRICS_ENABLED"],
        metrics_path=v["METRICS_ENDPOINT"],
        metrics_public=v["METRICS_PUBLIC"],
        log_level=v["LOG_LEVEL"],
        log_format=v["LOG_FORMAT"],
        workers=v["GOMODEL_WORKERS"],
        drain_s=v["GOMODEL_DRAIN_TIMEOUT"],
        certificate=_certificate(reader),
        warnings=(),
    )
    _cross_check(reader, config)
    _warn_of_unknown_names(reader, ours)
    if reader.problems:
        raise ConfigError(reader.problems)
    return replace(config, warnings=tuple(reader.warnings))


def _certificate(reader: Reader) -> Certificate | None:
    chain, key = (reader.file(name, _PEM_BYTES) for name in ("TLS_CERT_FILE", "TLS_KEY_FILE"))
    return None if chain is None or key is None else Certificate(chain, key)


def load(environ: Mapping[str, str], dotenv_path: Path | None = Path(".env"), files: Files | None = None) -> Config:
    """The configuration of `environ` over the file at `dotenv_path` (None: no file; missing: an empty one).

    A variable that `environ` has wins even when it is empty, so an empty one switches a line of the file off. Raises
    ConfigError with the problems of the file first.
    """
    files = files or Files()
    if dotenv_path is None:
        return from_environ(environ, files)
    file = dotenv_file.read(dotenv_path, environ, files)
    problems: tuple[str, ...] = ()
    try:
        config = from_environ({**file.values, **environ}, files, file.values.keys() - file.referenced)
    except ConfigError as error:
        # The file's own report of an unresolved reference has the line; a second one would say less.
        problems = tuple(problem for problem in error.problems if problem.partition(":")[0] not in file.unresolved)
    if file.problems or problems:
        raise ConfigError(file.problems + problems)
    return replace(config, dotenv=bool(file.values), dotenv_ended=file.ended, warnings=file.warnings + config.warnings)


def _cross_check(reader: Reader, config: Config) -> None:
    """What no variable can be blamed for alone."""
    for name, other in (("TLS_CERT_FILE", "TLS_KEY_FILE"), ("TLS_KEY_FILE", "TLS_CERT_FILE")):
        if reader.given(name) and not reader.given(other):
            reader.problem(name, f"is set but {other} is not; TLS needs both")
    warn = reader.warnings.append
    if config.master_key is None:
        alone = config.port is not None and not reader.given("HOST")
        who = (
            "everybody on this host, which alone is served unless HOST is set"
            if alone
            else "whoever reaches the listener"
        )
        warn(f"GOMODEL_MASTER_KEY is not set: every route is open to {who}")
        if "*" in config.cors_allow_origins:
            warn("CORS_ALLOW_ORIGINS is * without a key: every web page may use the gateway that its reader can reach")
    if any(each.base_url.startswith("https:") for each in config.instances):
        reader.regular("SSL_CERT_FILE")
    if config.port is None and reader.given("HOST"):
        warn("HOST has no effect: with GOMODEL_UNIX_SOCKET, TCP is listened on only when PORT is set")
    if config.passthrough and "vllm" not in config.passthrough_types:
        warn("ENABLED_PASSTHROUGH_PROVIDERS does not name vllm: every /p/ route answers 404")
    if config.retry.initial_backoff_s > config.retry.max_backoff_s:
        warn("RETRY_INITIAL_BACKOFF is longer than RETRY_MAX_BACKOFF, which limits every wait")
    if config.timeouts.upstream_keepalive_s >= 5:
        warn("HTTP_UPSTREAM_KEEPALIVE is not below the 5s after which vLLM's server closes idle connections")


def _warn_of_unknown_names(reader: Reader, ours: Collection[str]) -> None:
    """Name what looks like a variable of gomodel and is none, and what cannot be meant for anybody else.

    VLLM_ is vLLM's prefix, too: what does not look like a field of an instance is taken to be vLLM's own.
    """
    unread = []
    for name in sorted(reader.environ):
        if not reader.given(name) or name in _KNOWN or INSTANCE_VARIABLE.fullmatch(name):
            continue
        shown = ascii(name)[1:-1]
        if meant := _meant(name, reader.environ[name], near=name in ours):
            reader.warnings.append(f"{shown} is not a variable of gomodel; the nearest is {meant}")
        elif name in ours and not name.startswith("VLLM_"):
            unread.append(shown)
    if unread:
        more = f" and {len(unread) - _SHOWN_NAMES} more" if len(unread) > _SHOWN_NAMES else ""
        reader.warnings.append(f".env sets {', '.join(unread[:_SHOWN_NAMES])}{more}, which gomodel does not read")


def _meant(name: str, value: str, *, near: bool) -> str | None:
    """The variable that somebody who set `name` most likely meant, None when it looks like somebody else's.

    `near`: it was set for gomodel, so that less likeness is enough.
    """
    if _SERVICE_LINK.fullmatch(name) or (name.endswith("_PORT") and "://" in value):
        return None
    upper = name.upper()
    for guess in (upper, upper.removeprefix("GOMODEL_"), f"GOMODEL_{upper}"):
        if guess in _KNOWN or INSTANCE_VARIABLE.fullmatch(guess):
            return guess
    if misplaced := _MISPLACED_SUFFIX.fullmatch(upper):
        prefix, field, suffix = misplaced.groups()
        return f"{prefix}{field}" if suffix == "FILE" else f"{prefix}{suffix}_{field}"
    if not upper.startswith("VLLM_BUILD_") and (misnamed := _MISNAMED_FIELD.fullmatch(upper)):
        return f"{misnamed[1]}{'BASE_URL' if misnamed[2] else 'API_KEY'}"
    cutoff = 0.0 if name.startswith(("GOMODEL_", "CIRCUIT_BREAKER_")) else _ALIKE if near else 0.9
    candidates = (*_KNOWN, "VLLM_BASE_URL", "VLLM_API_KEY", "VLLM_MODELS", "VLLM_CA_FILE") if near else _KNOWN
    return next(iter(difflib.get_close_matches(upper, candidates, 1, cutoff)), None)
