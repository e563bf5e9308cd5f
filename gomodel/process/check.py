"""`gomodel check`: asks every instance once, the way requests will, and prints what came of it.

Decides what counts as well: the instance can be reached, takes the key and lists its models. Starts no listener.
"""

import asyncio
import sys
from time import monotonic
from typing import NamedTuple

from aiohttp import ClientConnectorError, ClientError, ClientTimeout
from yarl import URL

from ..balancing.instances import Providers
from ..balancing.model_lists import fetch_list
from ..config.settings import Config, variable_of
from ..errors import GatewayError, UntrustedCertificate
from ..host.tls import tls_context
from ..upstream.instance import Instance
from ..upstream.model_list import ListError
from .serving import run_loop

_SHOWN_MODELS = 3
_TLS_LIMIT_S = 2.0
_SAYS_TLS = "It speaks TLS: its base URL should begin with https://."
_BAD_REQUEST, _UNAUTHORIZED = 400, 401
_HEADINGS = ("INSTANCE", "URL", "KEY", "STATE", "MODELS")


class _Finding(NamedTuple):
    well: bool
    state: str
    models: str
    hint: str = ""  # what is wrong and what to do, in a sentence


def check(config: Config) -> bool:
    """Print the warnings and a table of the instances; whether all are well. Raises ConfigError for a certificate."""
    tls_context(config)
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return bool(run_loop(print_table(config)))


async def print_table(config: Config) -> int:
    """Ask every instance, print what came of it; 1 when all are well, 0 otherwise."""
    providers = Providers(config)
    try:
        instances = list(providers.instances.values())
        findings = await asyncio.gather(*(_ask(instance) for instance in instances))
    finally:
        await providers.close()
    rows = [_HEADINGS]
    for instance, found in zip(instances, findings, strict=True):
        key = "no" if instance.config.api_key is None else "yes"
        rows.append((instance.name, _where(instance), key, found.state, found.models))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    hints = [f"{each.name}: {found.hint}" for each, found in zip(instances, findings, strict=True) if found.hint]
    if hints:
        print("", *hints, sep="\n")
    ill = sum(not found.well for found in findings)
    print(f"\n{ill} of {len(findings)} instances cannot be used." if ill else "\nThe configuration can be used.")
    return not ill


def _where(instance: Instance) -> str:
    socket = instance.config.unix_socket
    return instance.config.base_url if socket is None else f"{instance.config.base_url} on unix:{socket}"


async def _ask(instance: Instance) -> _Finding:
    begun = monotonic()
    try:
        channel = await instance.pool.connect()
        instance.pool.give(channel)
        entries = await fetch_list(instance)
    except GatewayError as error:
        return _Finding(False, error.code.replace("_", " "), "-", _hint(instance, error))
    except TimeoutError:
        return _Finding(
            False, "no answer in time", "-", "It takes connections and does not answer; its own log may say why."
        )
    except ListError as error:
        # nginx and Go's servers say 400 to plain HTTP where they expect TLS; others close.
        tls = error.status == _BAD_REQUEST and await _speaks_tls(instance)
        hint = _SAYS_TLS if tls else _list_hint(instance, error.status)
        return _Finding(False, _refusal(instance, str(error)), "-", hint)
    except (ClientError, OSError, ValueError):
        return _Finding(False, "no valid HTTP answer", "-", _SAYS_TLS if await _speaks_tls(instance) else "")
    names = [entry.id for entry in entries]
    more = ", ..." if len(names) > _SHOWN_MODELS else ""
    took_ms = (monotonic() - begun) * 1000
    return _Finding(True, f"ok, {took_ms:.0f} ms", f"{len(names)}: {', '.join(names[:_SHOWN_MODELS])}{more}")


def _hint(instance: Instance, error: GatewayError) -> str:
    said, url = error.message, variable_of(instance.name, "BASE_URL")
    if isinstance(error, UntrustedCertificate):
        variable = variable_of(instance.name, "CA_FILE")
        return (
            f"{said} For a CA of your own set {variable} to its certificate (PEM); "
            "SSL_CERT_FILE would replace the system's roots for every instance."
        )
    if error.code == "connection_refused":
        return f"{said} Start it, or correct {url}; vLLM listens once its model is loaded, which takes minutes."
    if error.code in ("dns_error", "destination_ip_unroutable", "connection_timeout"):
        return f"{said} Is the host in {url} right, and can this machine reach it?"
    return said


def _list_hint(instance: Instance, status: int) -> str:
    """What to do about an answer to GET /models that is no list; a `status` of 0 was 200."""
    if status == _UNAUTHORIZED:
        return f"Set {variable_of(instance.name, 'API_KEY')} to the key that vLLM was started with (--api-key)."
    if status >= 500:
        return "It answers with an error of its own; its own log says why."
    url = variable_of(instance.name, "BASE_URL")
    return f"{url} must be the base URL of a vLLM, which ends in /v1, as in http://localhost:8000/v1."


async def _speaks_tls(instance: Instance) -> bool:
    """Whether an instance that did not answer plain HTTP would have taken a TLS handshake."""
    if instance.config.unix_socket is not None or not instance.config.base_url.startswith("http:"):
        return False
    url = URL(instance.config.base_url.replace("http:", "https:", 1), encoded=True)
    timeout = ClientTimeout(total=_TLS_LIMIT_S)
    try:
        # Nothing secret is sent, so it does not matter who answers.
        async with instance.pool.session.head(url, ssl=False, timeout=timeout, allow_redirects=False):
            return True
    except (ClientConnectorError, TimeoutError):
        return False
    except (ClientError, OSError, ValueError):
        return True


def _refusal(instance: Instance, why: str) -> str:
    if why != "status 401":
        return f"GET /models: {why}"
    return "wants a key" if instance.config.api_key is None else "refuses the key"
