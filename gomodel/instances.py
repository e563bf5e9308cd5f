"""Which vLLM instances an environment describes: one per `VLLM_` or `VLLM_<SUFFIX>_` prefix (contract section 1).

Decides their names, addresses and keys, and refuses what is ambiguous. Opens nothing but files of secrets and
certificates.
"""

import ipaddress
import re
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

from . import quantities as q
from .environment import Reader
from .settings import InstanceConfig

_DEFAULT_BASE_URL = "http://localhost:8000/v1"
# All roots of a system are a quarter of a megabyte.
_CA_BYTES = 4 << 20
_PORTS = {"http": 80, "https": 443}

# `suffix` is None in VLLM_BASE_URL and "" in VLLM__BASE_URL. The field is taken from the right end of the name.
INSTANCE_VARIABLE = re.compile(
    r"VLLM_(?:(?P<suffix>.*)_)?(?P<field>BASE_URL|API_KEY_FILE|API_KEY|MODELS|CA_FILE)", re.DOTALL
)
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
            reader.problem(name, f"has no usable instance name; use letters, digits and _ between VLLM_ and _{field}")
            continue
        instance = "vllm" if suffix is None else f"vllm-{suffix.lower().replace('_', '-')}"
        found.setdefault(instance, {}).setdefault(name.removesuffix(field), []).append(name)
    if not found:
        found = {"vllm": {"VLLM_": []}}
    configs: list[InstanceConfig] = []
    places: dict[tuple[str | None, str], str] = {}
    for instance, spellings in sorted(found.items()):
        (prefix, names), *others = spellings.items()
        for _, other_names in others:
            reader.problem(other_names[0], f"and {names[0]} both describe the instance {instance}; keep one spelling")
        if not others and (config := _instance(reader, listener, instance, prefix, names)):
            configs.append(config)
            where = config.unix_socket, _with_port(config.base_url)
            if where in places:
                reader.warnings.append(f"{places[where]} and {prefix}BASE_URL name the same server")
            places.setdefault(where, f"{prefix}BASE_URL")
    return tuple(configs)


def _with_port(base_url: str) -> str:
    parts = urlsplit(base_url)
    return f"{parts.scheme}://{parts.hostname}:{parts.port or _PORTS[parts.scheme]}{parts.path}"


def _instance(
    reader: Reader, listener: Listener, name: str, prefix: str, variables: list[str]
) -> InstanceConfig | None:
    variable = f"{prefix}BASE_URL"
    api_key = reader.secret(f"{prefix}API_KEY")
    models = reader.parsed(f"{prefix}MODELS", q.comma_list) or ()
    ca_pem = _certificates(reader, f"{prefix}CA_FILE")
    url = reader.parsed(variable, q.upstream_url)
    if not reader.given(variable):
        if name != "vllm":
            for lonely in variables:
                reader.problem(lonely, f"is set but {variable} is not; the instance {name} has no address")
            return None
        url = q.UpstreamUrl(_DEFAULT_BASE_URL, None)
        reader.warnings.append(f"{variable} is not set: instance vllm is assumed at {_DEFAULT_BASE_URL}")
    if url is None:
        return None
    if _reaches(listener, url):
        which = "" if reader.given(variable) else f"is not set and its default {_DEFAULT_BASE_URL} "
        reader.problem(variable, f"{which}points at gomodel's own listener; give the address of vLLM or another PORT")
    if not urlsplit(url.base_url).path.endswith("/v1"):
        reader.warnings.append(f"{variable} does not end in /v1; it is used as given")
    if ca_pem is not None and not url.base_url.startswith("https:"):
        reader.warnings.append(f"{prefix}CA_FILE has no effect: the base URL of {name} is not https")
    return InstanceConfig(
        name, url.base_url, url.unix_socket, api_key, models, ca_pem, assumed=not reader.given(variable)
    )


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


def _reaches(listener: Listener, url: q.UpstreamUrl) -> bool:
    """Whether the URL certainly leads to the listener. Names are not resolved, other interfaces not asked for."""
    if url.unix_socket is not None:
        return url.unix_socket == listener.unix_socket
    parts = urlsplit(url.base_url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    if port != listener.port:
        return False
    ours, theirs = _loopback(listener.host), _loopback(host)
    return host == listener.host.lower() or (
        ours is not None and theirs is not None and (ours == theirs or "" in (ours, theirs))
    )


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
