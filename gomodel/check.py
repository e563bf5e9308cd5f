"""`--check`: asks every instance once, the way requests will, and prints what came of it.

Decides what counts as well: the instance can be reached, takes the key and lists its models. Starts no listener.
"""

import asyncio
import sys
from time import monotonic
from typing import NamedTuple

from aiohttp import ClientError

from .config import Config
from .errors import GatewayError
from .listeners import tls_context
from .model_list import ListError
from .models import fetch_list
from .providers import Instance, Providers
from .serving import run_loop

_SHOWN_MODELS = 3
_HEADINGS = ("INSTANCE", "URL", "KEY", "STATE", "MODELS")


class _Finding(NamedTuple):
    well: bool
    state: str
    models: str


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
        return _Finding(False, error.code.replace("_", " "), "-")
    except TimeoutError:
        return _Finding(False, "no answer in time", "-")
    except ListError as error:
        return _Finding(False, _refusal(instance, str(error)), "-")
    except (ClientError, OSError, ValueError):
        return _Finding(False, "no valid HTTP answer", "-")
    names = [entry.id for entry in entries]
    more = ", ..." if len(names) > _SHOWN_MODELS else ""
    took_ms = (monotonic() - begun) * 1000
    return _Finding(True, f"ok, {took_ms:.0f} ms", f"{len(names)}: {', '.join(names[:_SHOWN_MODELS])}{more}")


def _refusal(instance: Instance, why: str) -> str:
    if why != "status 401":
        return f"GET /models: {why}"
    return "wants a key" if instance.config.api_key is None else "refuses the key"
