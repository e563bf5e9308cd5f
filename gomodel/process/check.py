"""`gomodel check`: asks every instance once, the way requests will, and prints what came of it.

Decides what counts as well: the instance can be reached, takes the key and lists its models. Starts no listener.
"""

import asyncio
import sys
from time import monotonic
from typing import NamedTuple

from aiohttp import ClientError

from ..balancing.instance import Instance
from ..balancing.instances import Providers
from ..balancing.model_entries import fetch_list
from ..config.settings import Config, InstanceConfig, variable_of
from ..errors import GatewayError, UntrustedCertificate
from ..host.terminal import coloured, shows_colours
from ..host.tls import tls_context
from ..telemetry.logs import count
from ..upstream.model_list import ListError
from ..upstream.other_scheme import BAD_REQUEST, SPEAKS_TLS, doubtful, speaks_other
from ..upstream.replica import Replica
from . import data_directory
from .serving import run_loop

_SHOWN_MODELS = 3
_NAMES_LIMIT_S = 5.0
_BAD_REQUEST, _UNAUTHORIZED = 400, 401
_HEADINGS = ("INSTANCE", "URL", "KEY", "STATE", "MODELS")
_STATE = _HEADINGS.index("STATE")
# Whoever waits at a terminal for longer is told for what.
_PATIENCE_S = 1.0


class _Finding(NamedTuple):
    well: bool
    state: str
    models: str
    hint: str = ""  # what is wrong and what to do, in a sentence


def check(config: Config, beside: str = "") -> bool:
    """Print the warnings and a table of the instances; whether all are well.

    `beside`: what is wrong with anything else that is asked, in a sentence, "" where nothing is.

    Raises ConfigError for a certificate or a data directory that cannot be used.
    """
    tls_context(config)
    if config.batches.data_dir is not None:
        data_directory.examine(config.batches.data_dir)
    for warning in config.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return bool(run_loop(print_table(config, beside)))


async def print_table(config: Config, beside: str = "") -> int:
    """Ask every server, print what came of it; 1 when all are well, 0 otherwise."""
    providers = Providers(config)
    try:
        await providers.discovery.first_answers(_NAMES_LIMIT_S)
        replicas = providers.replicas
        asked = zip(replicas, await _ask_all(replicas), strict=True)
        findings = [(each.config, each.title, str(each.server), found) for each, found in asked]
        findings += [_nameless(instance) for instance in providers.instances.values() if not instance.replicas]
    finally:
        await providers.close()
    rows = [_HEADINGS]
    for instance, _, where, found in findings:
        rows.append((instance.name, where, "no" if instance.api_key is None else "yes", found.state, found.models))
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    moods = [None, *("good" if found.well else "bad" for *_, found in findings)]
    for row, mood in zip(rows, moods if shows_colours(sys.stdout) else [None] * len(rows), strict=True):
        cells = [text.ljust(width) for text, width in zip(row, widths, strict=True)]
        if mood is not None:
            cells[_STATE] = coloured(cells[_STATE], mood)
        print("  ".join(cells).rstrip())
    hints = [f"{title}: {found.hint}" for _, title, _, found in findings if found.hint]
    if hints:
        print("", *hints, sep="\n")
    ill = sum(not found.well for *_, found in findings)
    what = "servers" if any(each.several for each in config.instances) else "instances"
    if beside:
        print(f"\n{beside}")
    if ill:
        print(f"\n{ill} of {len(findings)} {what} cannot be used.")
    elif not beside:
        print("\nConfiguration OK.")
    return not (ill or beside)


def _nameless(instance: Instance) -> tuple[InstanceConfig, str, str, _Finding]:
    """An instance whose names have no address."""
    config, url = instance.config, variable_of(instance.name, "BASE_URL")
    hint = f"No address of its name could be found. Is the host in {url} right, and can this machine look it up?"
    return config, config.name, ", ".join(map(str, config.servers)), _Finding(False, "dns error", "-", hint)


async def _ask_all(replicas: list[Replica]) -> list[_Finding]:
    """What came of each; a terminal is told how many are still waited for."""
    tasks = [asyncio.ensure_future(_ask(replica)) for replica in replicas]
    waiting: set[asyncio.Future[_Finding]] = set(tasks)
    told = sys.stderr is not None and sys.stderr.isatty()
    while waiting:
        _, waiting = await asyncio.wait(waiting, timeout=_PATIENCE_S if told else None)
        if told:
            left = f"Waiting for {count(len(waiting), 'server')} of {len(tasks)} ..." if waiting else ""
            print(f"\r\x1b[K{left}", end="", file=sys.stderr, flush=True)
    return [task.result() for task in tasks]


async def _ask(replica: Replica) -> _Finding:
    begun = monotonic()
    try:
        channel = await replica.pool.connect()
        replica.pool.give(channel)
        entries = await fetch_list(replica)
    except GatewayError as error:
        hint = await _scheme_hint(replica, error.code) or _hint(replica, error)
        return _Finding(False, error.code.replace("_", " "), "-", hint)
    except TimeoutError:
        return _Finding(
            False, "no answer in time", "-", "It takes connections and does not answer; its own log may say why."
        )
    except ListError as error:
        doubt = BAD_REQUEST if error.status == _BAD_REQUEST else ""
        hint = await _scheme_hint(replica, doubt) or _list_hint(replica, error.status)
        return _Finding(False, _refusal(replica, str(error)), "-", hint)
    except (ClientError, OSError, ValueError):
        return _Finding(False, "no valid HTTP answer", "-", await _scheme_hint(replica, "http_protocol_error"))
    names = [entry.id for entry in entries]
    more = ", ..." if len(names) > _SHOWN_MODELS else ""
    took_ms = (monotonic() - begun) * 1000
    return _Finding(True, f"ok, {took_ms:.0f} ms", f"{len(names)}: {', '.join(names[:_SHOWN_MODELS])}{more}")


async def _scheme_hint(replica: Replica, code: str) -> str:
    """What to do where a failure with this code comes from the wrong scheme; "" where it does not."""
    server = replica.server
    other = await speaks_other(replica.pool.session, server) if doubtful(server, code) else ""
    if other == SPEAKS_TLS:
        return "It speaks TLS: its base URL should begin with https://."
    return "It does not speak TLS: its base URL should begin with http://." if other else ""


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


def _refusal(replica: Replica, why: str) -> str:
    if why != "status 401":
        return f"GET /models: {why}"
    return "wants a key" if replica.config.api_key is None else "refuses the key"
