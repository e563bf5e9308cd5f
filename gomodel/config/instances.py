"""Which vLLM instances an environment describes: one per `VLLM_` or `VLLM_<SUFFIX>_` prefix (contract section 1).

Decides their names, addresses and keys, and refuses what is ambiguous. Opens nothing but files of secrets and
certificates.
"""

import ipaddress
import re
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

from .addresses import same_authority
from .reader import Reader
from .registry import OF_INSTANCES, VARIABLES
from .settings import InstanceConfig, Server
from .variable import INSTANCE_PREFIX

_BASE_URL, _API_KEY, _MODELS = (VARIABLES[name] for name in ("VLLM_BASE_URL", "VLLM_API_KEY", "VLLM_MODELS"))
_CA, _MOST, _DP_RANKS, _HEADERS = (
    VARIABLES[name] for name in ("VLLM_CA_FILE", "VLLM_MAX_IN_FLIGHT", "VLLM_DP_RANKS", "VLLM_HEADERS")
)
# All roots of a system are a quarter of a megabyte.
_CA_BYTES = 4 << 20
_PORTS = {"http": 80, "https": 443}

# `suffix` is None in VLLM_BASE_URL and "" in VLLM__BASE_URL. The field is taken from the right end of the name.
_FIELDS = "|".join(re.escape(name.removeprefix(INSTANCE_PREFIX)) for each in OF_INSTANCES for name in each.names)
INSTANCE_VARIABLE = re.compile(rf"{INSTANCE_PREFIX}(?:(?P<suffix>.*)_)?(?P<field>{_FIELDS})", re.DOTALL)
_INSTANCE_SUFFIX = re.compile(r"[A-Za-z0-9_.-]+")


class Listener(NamedTuple):
    """Where gomodel itself listens, which no instance may be."""

    host: str
    port: int | None
    unix_socket: str | None


def instances(reader: Reader, listener: Listener) -> tuple[InstanceConfig, ...]:
    """One instance per prefix (`VLLM_`, `VLLM_TEST_`) that has a variable set, by name, so that `vllm` is first.

    An unsuffixed key or model list describes `vllm` also where suffixed instances exist, so it gets vLLM's default
    address then, too, with a warning: the same variable must not change its meaning with its neighbours. With
    nothing set at all there is `vllm` alone; with suffixed instances only, there is no `vllm`.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(reader.environ):
        match = INSTANCE_VARIABLE.fullmatch(name)
        if match is None or not reader.given(name):
            continue
        suffix, field = match["suffix"], match["field"]
        if suffix is not None and not _INSTANCE_SUFFIX.fullmatch(suffix):
            reader.problem(
                name, f"has no usable instance name; use letters, digits and _ between {INSTANCE_PREFIX} and _{field}"
            )
            continue
        instance = "vllm" if suffix is None else f"vllm-{suffix.lower().replace('_', '-')}"
        found.setdefault(instance, {}).setdefault(name.removesuffix(field), []).append(name)
    if not found:
        found = {"vllm": {INSTANCE_PREFIX: []}}
    configs: list[InstanceConfig] = []
    places: dict[tuple[str, str], str] = {}
    for instance, spellings in sorted(found.items()):
        (prefix, names), *others = spellings.items()
        for _, other_names in others:
            reader.problem(other_names[0], f"and {names[0]} both describe the instance {instance}; keep one spelling")
        if not others and (config := _instance(reader, listener, instance, prefix, names)):
            configs.append(config)
            variable = f"{prefix}{_BASE_URL.field}"
            where = [_place(server) for server in config.servers]
            for other in dict.fromkeys(places[each] for each in where if each in places):
                reader.warnings.append(f"{other} and {variable} name the same server")
            places = dict.fromkeys(where, variable) | places
    return tuple(configs)


def _instance(
    reader: Reader, listener: Listener, name: str, prefix: str, variables: list[str]
) -> InstanceConfig | None:
    variable = prefix + _BASE_URL.field
    api_key = reader.secret(_API_KEY, prefix + _API_KEY.field)
    models = reader.value(_MODELS, prefix + _MODELS.field)
    most: int | None = reader.value(_MOST, prefix + _MOST.field)
    ca_pem = _certificates(reader, prefix + _CA.field)
    servers: tuple[Server, ...] | None = reader.parsed(variable, _BASE_URL.parse)
    if not reader.given(variable):
        if name != "vllm":
            for lonely in variables:
                reader.problem(lonely, f"is set but {variable} is not; the instance {name} has no address")
            return None
        servers = _BASE_URL.value
        reader.warnings.append(f"{variable} is not set: instance vllm is assumed at {_BASE_URL.default}")
    if servers is None:
        return None
    if any(_reaches(listener, each) for each in servers):
        which = "" if reader.given(variable) else f"is not set and its default {_BASE_URL.default} "
        reader.problem(variable, f"{which}points at gomodel's own listener; give the address of vLLM or another PORT")
    if not urlsplit(servers[0].base_url).path.endswith("/v1"):
        reader.warnings.append(f"{variable} does not end in /v1; it is used as given")
    config = InstanceConfig(
        name,
        servers,
        api_key,
        models,
        ca_pem,
        most,
        dp_ranks=reader.value(_DP_RANKS, prefix + _DP_RANKS.field),
        fields=reader.value(_HEADERS, prefix + _HEADERS.field),
        assumed=not reader.given(variable),
    )
    if ca_pem is not None and not config.secured:
        reader.warnings.append(f"{prefix}{_CA.field} has no effect: the base URL of {name} is not https")
    return config


def _certificates(reader: Reader, variable: str) -> str | None:
    """What is in the file, if that is certificates in PEM; None when it is unset or a problem was noted."""
    content = reader.file(variable, _CA_BYTES)
    if content is None:
        return None
    pem = content.decode("latin-1")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):  # ValueError: an empty file
        reader.problem(variable, "holds no valid certificate in PEM; give the CA's, as in -----BEGIN CERTIFICATE-----")
        return None
    return pem


def _reaches(listener: Listener, server: Server) -> bool:
    """Whether its URL certainly leads to the listener. Names are not resolved, other interfaces not asked for."""
    if server.unix_socket is not None:
        return server.unix_socket == listener.unix_socket
    parts = urlsplit(server.base_url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    if port != listener.port:
        return False
    ours, theirs = _loopback(listener.host), _loopback(host)
    return host == listener.host.lower() or (
        ours is not None and theirs is not None and (ours == theirs or "" in (ours, theirs))
    )


def _place(server: Server) -> tuple[str, str]:
    """Address and path, which two names of one server have in common: localhost is 127.0.0.1."""
    url = urlsplit(server.base_url)
    if server.unix_socket is None and _loopback(url.hostname or "") == "":
        return same_authority(f"127.0.0.1:{url.port or _PORTS[url.scheme]}"), url.path
    return same_authority(server.address), url.path


def _loopback(host: str) -> str | None:
    """The loopback address that `host` is, "" when it stands for all of them (localhost, 0.0.0.0), None otherwise."""
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    address = getattr(address, "ipv4_mapped", None) or address
    if address.is_unspecified:
        return ""
    return str(address) if address.is_loopback else None
