"""The batcher as a client of its own gateway: a line goes in by the front door, over a socket that is ours alone.

Decides what becomes of an answer: whether it is one, whether the server was busy or away, or nothing came back at all.
"""

import enum
import json
from typing import NamedTuple
from urllib.parse import quote

from aiohttp import (
    ClientConnectionError,
    ClientConnectorError,
    ClientError,
    ClientSession,
    ClientTimeout,
    UnixConnector,
)
from yarl import URL

from ..http1.private_fields import BATCH_OF, OWNER
from .records import Work

_PROVIDER = "X-GoModel-Provider"
_BUSY = frozenset({429, 503})
_GATEWAY_FAILED = frozenset({502, 504})
# What the gateway says when certainly nothing reached a vLLM: the line can wait for it, however long that takes.
_AWAY = frozenset(
    {
        "connection_refused",
        "connection_timeout",
        "destination_ip_unroutable",
        "dns_error",
        "dns_timeout",
        "instance_key_refused",
        "proxy_loop_detected",
        "tls_certificate_error",
        "tls_protocol_error",
    }
)
_LOOKUP_S = 10.0


class Outcome(enum.Enum):
    """What became of one try."""

    ANSWERED = enum.auto()
    BUSY = enum.auto()  # told to come back
    AWAY = enum.auto()  # no server could be reached, and nothing was sent
    NOTHING = enum.auto()  # it was sent, and nothing came back


class Answer(NamedTuple):
    """One try. `status` and `body` as they came, 0 and empty where nothing did; `server` is who answered."""

    outcome: Outcome
    status: int = 0
    body: bytes = b""
    server: str = ""


class GatewayClient:
    """`ask` for lines, `knows` for models; `close` at the end."""

    def __init__(self, socket_path: str, base_path: str, priority: int) -> None:
        self._session = ClientSession(
            connector=UnixConnector(socket_path, limit=0, keepalive_timeout=30.0),
            timeout=ClientTimeout(total=None, sock_connect=10.0),  # the gateway has limits for all the rest
            auto_decompress=False,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
        )
        self._base = f"http://gateway{base_path}"
        self.priority = priority

    async def ask(self, work: Work, request_id: str, body: bytes) -> Answer:
        """Send one line. Cancelling it closes the connection, which frees the GPU."""
        headers = {
            "Content-Type": "application/json",
            "X-Request-Id": request_id,
            "X-Vllm-Priority": str(self.priority),
            BATCH_OF: work.id,
        }
        if work.owner is not None:
            headers[OWNER] = quote(work.owner)
        url = URL(self._base + work.endpoint, encoded=True)
        try:
            async with self._session.post(url, data=body, headers=headers, allow_redirects=False) as response:
                answer = await response.read()
        except ClientConnectorError:
            return Answer(Outcome.AWAY)
        except (TimeoutError, ClientError, OSError):
            return Answer(Outcome.NOTHING)
        status, server = response.status, response.headers.get(_PROVIDER, "")
        outcome = Outcome.ANSWERED
        if status in _BUSY and response.headers.get("X-Should-Retry") != "false":
            outcome = Outcome.BUSY
        elif status in _GATEWAY_FAILED:
            outcome = Outcome.AWAY if _code(answer) in _AWAY else Outcome.NOTHING
        return Answer(outcome, status, answer, server)

    async def knows(self, model: str, owner: str | None) -> bool | None:
        """Whether the gateway has this model; None where it cannot say."""
        headers = {} if owner is None else {OWNER: quote(owner)}
        url = URL(f"{self._base}/v1/models/{quote(model)}", encoded=True)
        try:
            async with self._session.get(url, headers=headers, timeout=ClientTimeout(total=_LOOKUP_S)) as response:
                await response.read()
                return {200: True, 404: False}.get(response.status)
        except (TimeoutError, ClientConnectionError, ClientError, OSError):
            return None

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def _code(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["code"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return ""
