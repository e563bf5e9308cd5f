"""Files and batches: passes a call on to the batcher, a process of this gateway with a socket of its own.

Decides what the batcher is told of the caller, and what a caller reads while there is none. The bytes go there and back
as those of any request, so an upload of any size streams; what they mean is decided in `batches`.
"""

from dataclasses import replace
from urllib.parse import quote

from ..balancing.choice import Choice
from ..balancing.instances import Providers
from ..config.keys_file import MASTER
from ..config.settings import BreakerConfig, Config, InstanceConfig, Retry, Server
from ..downstream.body import RequestBody
from ..downstream.request import Request
from ..errors import ConnectError, Overloaded, UpstreamTimeout
from ..host import private_sockets
from ..http1.private_fields import OWNER
from ..telemetry.counters import Telemetry
from ..upstream.replica import Replica
from .forward import Forwarder
from .outgoing import Outgoing

# In logs and metrics, beside the names of instances, which begin with vllm.
_NAME = "batches"
# What a form is longer than the file in it.
_FORM_BYTES = 1 << 20
# The batcher takes a second to start, and another follows one that died.
_PATIENCE = Retry(max_retries=20, initial_backoff_s=0.1, max_backoff_s=0.3, backoff_factor=2.0, jitter_factor=0.1)
_ALWAYS = BreakerConfig(failure_threshold=1 << 62, success_threshold=1, timeout_s=1.0)


class _Batcher(Replica):
    """Where calls go; no instance whose health is of interest: who keeps it knows why it is away, and says so."""

    def failed(self, code: str, *, probe: bool = False) -> None:
        """Nothing comes of it: it starts, or another one does."""


class BatchCalls:
    """Handles what is below /v1/files and /v1/batches."""

    def __init__(self, config: Config, providers: Providers, telemetry: Telemetry) -> None:
        server = Server("http://batches", private_sockets.path(private_sockets.API))
        instance = InstanceConfig(_NAME, (server,), None, ())
        self._batcher = _Batcher(instance, server, replace(config, breaker=_ALWAYS), providers.network, telemetry.gaps)
        self._batcher.health.settled = True  # its answers say nothing new either
        self._forwarder = Forwarder(telemetry, _PATIENCE, lambda _: None)
        self._limit_bytes = config.batches.file_limit_bytes + _FORM_BYTES

    async def handle(self, request: Request) -> None:
        """To the batcher, with the name of the caller's key."""
        body = RequestBody(request, self._limit_bytes)
        body.hold_arrived()
        outgoing = Outgoing(
            request,
            Choice([self._batcher], "", bound=True),
            body,
            replayable=request.method in ("GET", "HEAD"),
            added=_owner(request),
        )
        try:
            await self._forwarder.forward(outgoing)
        except (ConnectError, UpstreamTimeout) as error:
            if error.code not in ("connection_refused", "connection_timeout"):
                raise
            raise Overloaded(
                "What keeps files and batches is starting.", code="batches_unavailable", retry_after_s=2
            ) from None

    async def close(self) -> None:
        """Close the connections."""
        await self._batcher.close()


def _owner(request: Request) -> bytes:
    """The line that says whose key it is; none for whom all is open: the holder of the master key, or everybody."""
    caller = request.caller
    if caller is None or caller.name == MASTER:
        return b""
    return f"{OWNER}: {quote(caller.name)}\r\n".encode()
