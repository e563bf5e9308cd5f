"""Child processes that never outlive the run.

Decides how a child is started, awaited and ended. Every child leads its own session, so a Ctrl-C reaches only the run
itself, which then ends each child's whole group.
"""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from bench import procfs

GRACE_S = 3.0


class StartError(Exception):
    """A child did not come up; the text says why."""


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Child:
    """One running process with its output in a file."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], directory: Path) -> None:
        self.name = name
        self.log = directory / f"{name}-{time.monotonic_ns()}.log"
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                list(argv),
                env=dict(env),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def tail(self) -> str:
        """The last line of its output, for a message."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1].strip()[:200] if lines else "no output"

    def stop(self) -> None:
        """SIGTERM to the group, SIGKILL after `GRACE_S`."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                pass
            deadline = time.monotonic() + GRACE_S
            while procfs.group_runs(self.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
        self._process.wait(GRACE_S)


class Fleet:
    """The children of one run; leaving the block ends them all, whatever the reason for leaving."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._children: list[Child] = []

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._children:
            self._children.pop().stop()

    def start(self, name: str, argv: Sequence[str], env: Mapping[str, str], directory: Path | None = None) -> Child:
        """Raises StartError when the program cannot be executed."""
        try:
            child = Child(name, argv, env, directory or self.directory)
        except OSError as error:
            raise StartError(f"{argv[0]}: {error.strerror}") from error
        self._children.append(child)
        return child

    def stop(self, child: Child) -> None:
        child.stop()
        self._children.remove(child)


def wait_until(ready: Callable[[], bool], child: Child, limit_s: float, interval_s: float = 0.002) -> None:
    """Polls `ready`. Raises StartError when the child ends or the time is up."""
    deadline = time.monotonic() + limit_s
    while not ready():
        if not child.alive():
            raise StartError(f"{child.name} ended at start: {child.tail()}")
        if time.monotonic() > deadline:
            raise StartError(f"{child.name} gave no answer within {limit_s:.0f} s: {child.tail()}")
        time.sleep(interval_s)
