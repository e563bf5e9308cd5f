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
from ..upstream.model_list import ListError
from ..upstream.replica import Replica
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
        replicas = providers.replicas
        findings = await asyncio.gather(*(_ask(replica) for replica in replicas))
    finally:
        await providers.close()
    rows = [_HEADINGS]
    for replica, found in zip(replicas, findings, strict=True):
        key = "no" if replica.config.api_key is None else "yes"
        rows.append((replica.name, str(replica.server), key, found.state, found.models))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    hints = [f"{each.name}: {found.hint}" for each, found in zip(replicas, findings, strict=True) if found.hint]
    if hints:
        print("", *hints, sep="\n")
    ill = sum(not found.well for found in findings)
    print(f"\n{ill} of {len(findings)} instances cannot be used." if ill else "\nThe configuration can be used.")
    return not ill


async def _ask(replica: Replica) -> _Finding:
    begun = monotonic()
    try:
        channel = await replica.pool.connect()
        replica.pool.give(channel)
        entries = await fetch_list(replica)
    except GatewayError as error:
        return _Finding(False, error.code.replace("_", " "), "-", _hint(replica, error))
    except TimeoutError:
        return _Finding(
            False, "no answer in time", "-", "It takes connections and does not answer; its own log may say why."
        )
    except ListError as error:
        # nginx and Go's servers say 400 to plain HTTP where they expect TLS; others close.
        tls = error.status == _BAD_REQUEST and await _speaks_tls(replica)
        hint = _SAYS_TLS if tls else _list_hint(replica, error.status)
        return _Finding(False, _refusal(replica, str(error)), "-", hint)
    except (ClientError, OSError, ValueError):
        return _Finding(False, "no valid HTTP answer", "-", _SAYS_TLS if await _speaks_tls(replica) else "")
    names = [entry.id for entry in entries]
    more = ", ..." if len(names) > _SHOWN_MODELS else ""
    took_ms = (monotonic() - begun) * 1000
    return _Finding(True, f"ok, {took_ms:.0f} ms", f"{len(names)}: {', '.join(names[:_SHOWN_MODELS])}{more}")


def _hint(replica: Replica, error: GatewayError) -> str:
    said, url = error.message, variable_of(replica.name, "BASE_URL")
    if isinstance(error, UntrustedCertificate):
        variable = variable_of(replica.name, "CA_FILE")
        return (
            f"{said} For a CA of your own set {variable} to its certificate (PEM); "
            "SSL_CERT_FILE would replace the system's roots for every instance."
        )
    if error.code == "connection_refused":
        return f"{said} Start it, or correct {url}; vLLM listens once its model is loaded, which takes minutes."
    if error.code in ("dns_error", "destination_ip_unroutable", "connection_timeout"):
        return f"{said} Is the host in {url} right, and can this machine reach it?"
    return said


def _list_hint(replica: Replica, status: int) -> str:
    """What to do about an answer to GET /models that is no list; a `status` of 0 was 200."""
    if status == _UNAUTHORIZED:
        return f"Set {variable_of(replica.name, 'API_KEY')} to the key that vLLM was started with (--api-key)."
    if status >= 500:
        return "It answers with an error of its own; its own log says why."
    url = variable_of(replica.name, "BASE_URL")
    return f"{url} must be the base URL of a vLLM, which ends in /v1, as in http://localhost:8000/v1."


async def _speaks_tls(replica: Replica) -> bool:
    """Whether an instance that did not answer plain HTTP would have taken a TLS handshake."""
    if replica.server.unix_socket is not None or not replica.server.base_url.startswith("http:"):
        return False
    url = URL(replica.server.base_url.replace("http:", "https:", 1), encoded=True)
    timeout = ClientTimeout(total=_TLS_LIMIT_S)
    try:
        # Nothing secret is sent, so it does not matter who answers.
        async with replica.pool.session.head(url, ssl=False, timeout=timeout, allow_redirects=False):
            return True
    except (ClientConnectorError, TimeoutError):
        return False
    except (ClientError, OSError, ValueError):
        return True


def _refusal(replica: Replica, why: str) -> str:
    if why != "status 401":
        return f"GET /models: {why}"
    return "wants a key" if replica.config.api_key is None else "refuses the key"
