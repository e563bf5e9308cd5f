"""What the operator reads when gomodel starts, and again when its configuration has changed; contract section 8.

Decides the wording of those lines. Never shows a key.
"""

import logging
import platform
import resource
import sys

import aiohttp
from aiohttp import http_parser

from ..config.settings import Config
from ..host.listeners import Listener
from ..telemetry.logs import count
from ..version import build

_logger = logging.getLogger("gomodel")

_SHOWN_SERVERS = 8


def started(config: Config, listeners: list[Listener]) -> None:
    """Say what is served, where and within which limits."""
    processes = "1 process" if config.workers == 1 else f"{config.workers} workers"
    _logger.info("gomodel %s started: %s, %s", build(), _software(), processes)
    for address, path in dict.fromkeys((each.address, each.port is None) for each in listeners):
        _logger.info("Listening on %s%s", address, "" if path else config.base_path)
    settings(config)
    if http_parser.HttpRequestParser is http_parser.HttpRequestParserPy:
        _logger.warning("aiohttp's C parser is missing: requests cost several times the CPU; install a binary wheel")
    for warning in config.warnings:
        _logger.warning("%s", warning)


def _software() -> str:
    loop = sys.modules.get("uvloop")
    found = [f"Python {platform.python_version()}", f"aiohttp {aiohttp.__version__}"]
    return ", ".join([*found, f"uvloop {loop.__version__}" if loop is not None else "asyncio's event loop"])


def settings(config: Config) -> None:
    """Say which instances there are and what limits hold."""
    for each in config.instances:
        more = f", ... ({len(each.servers)} replicas)" if len(each.servers) > _SHOWN_SERVERS else ""
        where = ", ".join(map(str, each.servers[:_SHOWN_SERVERS])) + more
        _logger.info("Instance %s: %s, key: %s", each.name, where, "no" if each.api_key is None else "yes")
    if config.keys is not None:
        master = "no" if not config.master_keys else "yes"
        held = count(len(config.keys.entries), "key")
        _logger.info("Keys file %s: %s, master key: %s", ascii(config.keys.path), held, master)
    if config.batches.on:
        database = "SQLite" if config.batches.database_url is None else "PostgreSQL"
        _logger.info("Files and batches: in %s, %s", config.batches.data_dir, database)
    limits = config.timeouts
    shown = {
        "body": _size(config.body_limit_bytes),
        "connect": _duration(limits.connect_s),
        "response head": _duration(limits.response_header_s),
        "stream idle": _duration(limits.stream_idle_s),
        "upload idle": _duration(limits.request_idle_s),
        "unread": _duration(limits.write_idle_s),
        "total": "none" if limits.total_s is None else _duration(limits.total_s),
        "drain": _duration(config.drain_s),
        "open files": str(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
    }
    _logger.info("Limits: %s", ", ".join(f"{name} {value}" for name, value in shown.items()))


def _duration(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 or seconds == 0 else f"{seconds * 1000:g}ms"


def _size(count: int) -> str:
    for unit, size in (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)):
        if count >= size and count % size == 0:
            return f"{count // size}{unit}"
    return str(count)
