"""A gateway in this process and loop, configured as an operator would: by environment names.

Decides the settings tests start from. Imports the code under test only when a gateway is asked for.
"""

import asyncio
import os
import socket
import stat
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from .leaks import Records
from .upstream import ScriptedUpstream
from .wire import HARNESS_SOCKETS

# "task": nothing is served in the turn of the loop in which it comes, so that every test is run on the other way too.
WAY = os.environ.get("GOMODEL_TEST_WAY", "")

# Long enough never to fire by accident, short enough that a hang is seen before the harness gives up.
DEFAULTS = {
    "HOST": "127.0.0.1",
    "PORT": "0",
    "HTTP_CONNECT_TIMEOUT": "20s",
    "HTTP_RESPONSE_HEADER_TIMEOUT": "20s",
    "HTTP_STREAM_IDLE_TIMEOUT": "20s",
    "HTTP_REQUEST_IDLE_TIMEOUT": "20s",
    "HTTP_WRITE_IDLE_TIMEOUT": "20s",
    "RETRY_INITIAL_BACKOFF": "5ms",
    "RETRY_MAX_BACKOFF": "20ms",
    "GOMODEL_DRAIN_TIMEOUT": "20s",
    "REPLICA_GUARD": "off",  # it asks servers what their scripts do not know
}


def env_for(**instances: ScriptedUpstream | str) -> dict[str, str]:
    """The base URL variables of instances: `vllm=` is VLLM_BASE_URL, `vllm_test=` VLLM_TEST_BASE_URL.

    A value is an upstream or the URL itself.
    """
    return {
        f"{name.upper()}_BASE_URL": target if isinstance(target, str) else target.base_url
        for name, target in instances.items()
    }


class GatewayHandle:
    """A running gateway: `gateway` and `config` to look inside, `logs` for what it said."""

    def __init__(self, gateway: Any, config: Any, logs: Records) -> None:
        self.gateway = gateway
        self.config = config
        self.logs = logs
        # Kept, because it is asked for when the listener is long closed.
        self.port: int = gateway.port

    def expect_error(self, part: str) -> None:
        """A record at ERROR that holds `part` is what this test is about."""
        self.logs.expected.append(part)

    def replica(self, instance: str = "vllm") -> Any:
        """The only replica of an instance."""
        (replica,) = self.gateway.providers.instances[instance].replicas
        return replica

    def remains(self) -> list[str]:
        """The gateway's sockets and tasks there are; after close() none may be, whoever else is still connected."""
        import gomodel

        addresses = {_address(server) for each in self.config.instances for server in each.servers}
        ours = {sock.fileno() for sock in HARNESS_SOCKETS}
        found = []
        for fd in os.listdir("/proc/self/fd"):
            if int(fd) in ours or not _is_socket(int(fd)):
                continue
            with socket.socket(fileno=os.dup(int(fd))) as sock:
                local, peer = sock.getsockname(), _peer(sock)
            if (local and local[1:2] == (self.port,)) or (peer and (peer in addresses or peer[1:2] in addresses)):
                found.append(f"socket {local} to {peer}")
        # The package's files only: a checkout called gomodel holds others, such as its virtual environment's.
        package = os.path.dirname(gomodel.__file__) + os.sep
        tasks = [task for task in asyncio.all_tasks() if _source(task).startswith(package)]
        return found + [f"task {task!r}" for task in tasks]


async def start_gateway(env: Mapping[str, str], logs: Records) -> GatewayHandle:
    """Starts a gateway from DEFAULTS below `env`; an empty value takes a default away."""
    from gomodel.config.load import from_environ
    from gomodel.host.listeners import bind
    from gomodel.process.gateway import Gateway

    config = from_environ({**DEFAULTS, **env})
    gateway = Gateway(config)
    try:
        await gateway.start(bind(config))
        await gateway.listen()
    except BaseException:
        await gateway.close()
        raise
    if WAY == "task":
        from gomodel.downstream.at_once import in_its_turn

        gateway._server.begin = in_its_turn
    return GatewayHandle(gateway, config, logs)


def _address(server: Any) -> str | tuple[int, ...]:
    return server.unix_socket or (urlsplit(server.base_url).port or 80,)


def _is_socket(fd: int) -> bool:
    try:
        return stat.S_ISSOCK(os.fstat(fd).st_mode)
    except OSError:
        return False  # the listing's own descriptor


def _peer(sock: socket.socket) -> Any:
    try:
        return sock.getpeername()
    except OSError:
        return None


def _source(task: asyncio.Task[Any]) -> str:
    return getattr(getattr(task.get_coro(), "cr_code", None), "co_filename", "")
