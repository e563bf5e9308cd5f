"""What the gateway asks a replica of its own accord, through its ClientSession: its model list, who holds a response.

Decides with whose key it asks, that no redirect is followed, and which failures of an answer are no bug. Knows nothing
of what is asked. Probes ask another way (`probes`).
"""

from aiohttp import ClientError, ClientTimeout
from aiohttp.client import _RequestContextManager
from yarl import URL

from .replica import Replica

# What may come instead of an answer; ValueError for a host that is no name.
FAILURES = (ClientError, OSError, ValueError)


def ask(
    replica: Replica,
    path: str,
    *,
    limit_s: float | None,
    accept: str = "",
    at_root: bool = False,
    body: bytes | None = None,
) -> _RequestContextManager:
    """GET `path` below the base URL, or `at_root`, or POST a `body` of JSON to it; a context of aiohttp's response.

    Raises what FAILURES names.
    """
    headers = {"Accept": accept} if accept else {}
    key = replica.config.api_key
    if key is not None:
        headers["Authorization"] = f"Bearer {key.reveal()}"
    base = replica.server.base_url
    url = URL((base.removesuffix("/v1") if at_root else base) + path, encoded=True)
    if body is not None:
        headers["Content-Type"] = "application/json"
    return replica.pool.session.request(
        "GET" if body is None else "POST",
        url,
        data=body,
        headers=headers,
        timeout=ClientTimeout(total=limit_s),
        allow_redirects=False,
    )
