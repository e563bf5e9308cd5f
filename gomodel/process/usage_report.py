"""`gomodel usage`: asks a running gateway who used how much, and prints a table, or what it said as CSV.

Decides where that gateway is, by the configuration or by what the operator says, and how numbers are written.
"""

import http.client
import json
import socket
import ssl
import sys
from typing import Any
from urllib.parse import urlencode, urlsplit

from ..config.settings import Config

_LIMIT_S = 15.0
_OK = 200
_COLUMNS = {
    "requests": "REQUESTS",
    "requests_of_unknown_usage": "UNKNOWN",
    "prompt_tokens": "PROMPT",
    "cached_tokens": "CACHED",
    "completion_tokens": "COMPLETION",
    "generation_seconds": "SECONDS",
    "audio_seconds": "AUDIO S",
}


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=_LIMIT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_LIMIT_S)
        self.sock.connect(self._path)


def report(config: Config, url: str | None, asked: dict[str, str | None], *, as_csv: bool) -> bool:
    """Print what the gateway says to the query `asked`; whether it said it.

    `url` is its base, where the configuration is another one's.
    """
    connection, path = _connection(config, url)
    fields = {"Authorization": f"Bearer {config.master_keys[0].reveal()}"} if config.master_keys else {}
    try:
        given = {name: value for name, value in asked.items() if value is not None}
        query = urlencode({**given, "format": "csv" if as_csv else "json"}, safe=",")
        connection.request("GET", f"{path}/admin/usage?{query}", headers=fields)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        where = url or "the gateway that this environment describes"
        print(f"gomodel usage: {where} cannot be asked: {_why(error)}; --url says where it is.", file=sys.stderr)
        return False
    finally:
        connection.close()
    if answer.status != _OK:
        print(f"gomodel usage: {_refusal(answer.status, body)}", file=sys.stderr)
        return False
    if as_csv:
        print(body.decode(), end="")
    else:
        _print_table(json.loads(body))
    return True


def _connection(config: Config, url: str | None) -> tuple[http.client.HTTPConnection, str]:
    base = config.base_path.rstrip("/")
    if url is not None:
        parts = urlsplit(url if "//" in url else f"//{url}", scheme="http")
        tls, host, port, base = (
            parts.scheme == "https",
            parts.hostname or "localhost",
            parts.port,
            parts.path.rstrip("/"),
        )
        if tls:
            return http.client.HTTPSConnection(host, port, timeout=_LIMIT_S), base
        return http.client.HTTPConnection(host, port, timeout=_LIMIT_S), base
    if config.port is None and config.unix_socket is not None:
        return _UnixConnection(config.unix_socket), base
    host = "localhost" if config.host in ("", "::", "0.0.0.0") else config.host
    if config.certificate is not None:
        # It is asked on its own host, by a name that its certificate need not have.
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return http.client.HTTPSConnection(host, config.port, timeout=_LIMIT_S, context=context), base
    return http.client.HTTPConnection(host, config.port, timeout=_LIMIT_S), base


def _why(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or type(error).__name__


def _refusal(status: int, body: bytes) -> str:
    try:
        return f"{status}: {json.loads(body)['error']['message']}"
    except (ValueError, KeyError, TypeError):
        return f"the answer was {status}; is a gomodel there?"


def _print_table(said: dict[str, Any]) -> None:
    by = said["by"]
    columns = [name for name in _COLUMNS if name != "audio_seconds" or any(row[name] for row in said["data"])]
    table = [[*(each.upper() for each in by), *(_COLUMNS[name] for name in columns)]]
    for row in said["data"]:
        table.append([*(str(row[each]) or "-" for each in by), *(f"{row[name]:,.0f}" for name in columns)])
    widths = [max(len(line[at]) for line in table) for at in range(len(table[0]))]
    for line in table:
        texts = [
            text.ljust(width) if at < len(by) else text.rjust(width)
            for at, (text, width) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(texts).rstrip())
    print(f"\nFrom {said['since']} to {said['until']}. CACHED is a part of PROMPT; UNKNOWN did not say what they took.")
