"""What a configuration is once it is known to be good: frozen values, with units in their names.

Decides nothing. Knows nothing of files or where a value came from.
"""

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


class Secret:
    """A key that shows itself to `reveal` alone, never to a log, a traceback or a repr."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        # On bytes, because compare_digest refuses text outside ASCII; surrogatepass keeps any two texts apart.
        mine, theirs = (secret._value.encode(errors="surrogatepass") for secret in (self, other))
        return hmac.compare_digest(mine, theirs)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Server:
    """Where one server is. `base_url` has no trailing slash; with `unix_socket` its host is a placeholder.

    `every_address`: it stands for a server at each address that its host's name has. `number`: such an address, which
    is connected to while `base_url` has the name.
    """

    base_url: str
    unix_socket: str | None = None
    every_address: bool = False
    number: str | None = None

    @property
    def address(self) -> str:
        """What operators know it by: `host:port`, or the path of its socket. No client reads it."""
        if self.unix_socket is not None:
            return f"unix:{self.unix_socket}"
        url = urlsplit(self.base_url)
        port = url.port or _PORTS[url.scheme]
        if self.number is not None:
            return f"[{self.number}]:{port}" if ":" in self.number else f"{self.number}:{port}"
        return url.netloc if url.port else f"{url.netloc}:{port}"

    def __str__(self) -> str:
        if self.every_address:
            return self.base_url.replace("://", "+dns://", 1)
        if self.unix_socket is not None:
            return f"{self.base_url} on unix:{self.unix_socket}"
        return self.base_url if self.number is None else f"{self.base_url} on {self.address}"


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """A name and the servers behind it, which are the same but for their addresses: its replicas."""

    name: str
    servers: tuple[Server, ...]
    api_key: Secret | None
    models: tuple[str, ...]
    ca_pem: str | None = field(default=None, repr=False)  # whom to trust instead of the system's roots
    max_in_flight: int | None = None  # of each server
    dp_ranks: int = 0  # engines behind each port, 0 for one that is not to be told which
    fields: tuple[tuple[str, str], ...] = field(default=(), repr=False)  # of the operator's, for every request
    assumed: bool = field(default=False, compare=False)  # nobody gave its address; it is vLLM's default

    @property
    def several(self) -> bool:
        """Whether there may be more servers behind it than one, so that it has to be said which one is meant."""
        return len(self.servers) > 1 or self.servers[0].every_address

    @property
    def secured(self) -> bool:
        """Whether it is spoken to by TLS."""
        return any(each.base_url.startswith("https:") for each in self.servers)


@dataclass(frozen=True, slots=True)
class Key:
    """An entry of the keys file: who may ask, and how much; contract section 9. A limit that is None is none."""

    name: str
    digests: tuple[bytes, ...] = field(repr=False)  # SHA-256 of each key that its holder may present
    in_flight: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    models: tuple[str, ...] = ()  # patterns; without one every model
    when_full: str = "refuse"
    priority: int | None = None
    weight: float = 1.0
    passthrough: bool = False
    admin: bool = False
    metrics: bool = False
    expires_at: float = float("inf")  # POSIX time

    @property
    def refused_beyond(self) -> int | None:
        """How many requests at once there may be before one is refused; None where it is not, or waits."""
        return self.in_flight if self.when_full == "refuse" else None

    @property
    def waits_beyond(self) -> int | None:
        """How many requests at once there may be before one waits; None where it does not."""
        return self.in_flight if self.when_full == "wait" else None


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys file, and what was in it."""

    path: str
    entries: tuple[Key, ...]


def variable_of(instance: str, what: str) -> str:
    """The variable of an instance for `what`, such as API_KEY, as operators would write it."""
    return f"{instance.upper().replace('-', '_')}_{what}"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What TLS is served with, as PEM."""

    chain: bytes = field(repr=False)
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """One limit per phase; `total_s` is off by default because it cuts long generations."""

    connect_s: float
    response_header_s: float
    stream_idle_s: float
    request_idle_s: float
    write_idle_s: float
    total_s: float | None
    upstream_keepalive_s: float
    client_keepalive_s: float


@dataclass(frozen=True, slots=True)
class Retry:
    max_retries: int
    initial_backoff_s: float
    max_backoff_s: float
    backoff_factor: float
    jitter_factor: float


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    failure_threshold: int
    success_threshold: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Batching:
    """Files and batches: off where `data_dir`, an absolute path, is None. `database_url` None: SQLite in it."""

    data_dir: str | None
    database_url: Secret | None
    file_limit_bytes: int
    file_ttl_s: float
    concurrency: int
    priority: int

    @property
    def on(self) -> bool:
        """Whether files and batches are served."""
        return self.data_dir is not None


@dataclass(frozen=True, slots=True)
class Traces:
    """Where spans go, as what, and of which requests: `ratio` is for the samplers that have one."""

    endpoint: str
    headers: Secret | None
    service: str
    sampler: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Config:
    """Everything gomodel is told. `port` is None when only the unix socket is listened on.

    `files`: what was read for it, and what it was like (`files.Files.seen`). `dotenv`: some of it was told by a .env
    file; `dotenv_ended`: whose last line has its line end; `ended`: the same of the files that variables name.
    `former`: names of instances whose servers are not served any more since a reload of this gateway. `watch_s`: how
    often `files` are looked at; None: never. `said`: all of it for operators to read, without secrets (`in_force`).
    """

    instances: tuple[InstanceConfig, ...]
    models_mode: Literal["fallback", "allowlist"]
    host: str
    port: int | None
    unix_socket: str | None
    master_keys: tuple[Secret, ...]  # each lets in; several while one replaces another
    keys: Keys | None
    redis_url: Secret | None
    limits_without_redis: Literal["share", "open", "closed"]
    model_ids: Literal["prefixed", "bare", "both"]
    model_aliases: tuple[tuple[str, str], ...]
    cors_allow_origins: tuple[str, ...]
    base_path: str
    body_limit_bytes: int
    header_limit_bytes: int
    passthrough: bool
    passthrough_v1_alias: bool
    passthrough_types: frozenset[str]
    passthrough_admin: bool
    timeouts: Timeouts
    retry: Retry
    breaker: BreakerConfig
    models_refresh_s: float
    routing: Literal["affinity", "least"]
    replica_guard: Literal["warn", "exclude", "off"]
    replica_guard_generates: bool
    session_headers: tuple[str, ...]
    queue_limit: int
    queue_timeout_s: float
    strip_request_headers: frozenset[str]
    forwarded_allow_ips: tuple[str, ...]
    metrics_enabled: bool
    metrics_path: str
    metrics_public: bool
    digest: Literal["off", "sampled", "all"]
    log_level: str
    log_format: Literal["auto", "text", "json"]
    workers: int
    drain_s: float
    certificate: Certificate | None
    batches: Batching
    traces: Traces | None
    warnings: tuple[str, ...]
    watch_s: float | None = None
    files: Mapping[str, tuple[int, int, int, int] | None] = field(default_factory=dict, compare=False)
    dotenv: bool = field(default=False, compare=False)
    dotenv_ended: bool = field(default=True, compare=False)
    ended: Mapping[str, bool] = field(default_factory=dict, compare=False)
    former: frozenset[str] = field(default=frozenset(), compare=False)
    said: tuple[tuple[str, str, str, bool], ...] = field(default=(), compare=False)

    @property
    def servers(self) -> int:
        """How many servers there are behind all instances."""
        return sum(len(each.servers) for each in self.instances)

    @property
    def needs_key(self) -> bool:
        """Whether callers must present a key."""
        return bool(self.master_keys) or self.keys is not None


class ConfigError(Exception):
    """All that is wrong with a configuration, one line each; the message is those lines.

    `hints` are the warnings that may explain them: names that are not read, lines without an effect.
    """

    def __init__(self, problems: Iterable[str], hints: Iterable[str] = ()) -> None:
        self.problems = tuple(problems)
        self.hints = tuple(hints)
        super().__init__("\n".join(self.problems))
