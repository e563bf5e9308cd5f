"""`python -m gomodel` as a real process, told what to do by its environment, its signals and nothing else.

Decides how such a process is started, read and waited for. Waiting for something that does not happen fails the test
after LIMIT_S with everything the process said.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from .leaks import Inventory

ROOT = Path(__file__).resolve().parents[2]
# A start takes 0.3 s on a quiet machine; this is for one that runs many things at once.
LIMIT_S = 60.0
_SERVES = re.compile(r"Process (\d+) serves; what runs here")
_HANDED = "Handed over: no new client is taken here"
_WORKERS = re.compile(r"started: .* (\d+) (?:process|workers)")
_LISTENING = re.compile(r"Listening on https?://\S+?:(\d+)")

# What `make coverage` sets, so that it sees what runs there.
_MEASURED = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
# Blocks uvloop in a process, whose place plain asyncio then takes.
WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None; "
RUN = "from gomodel.__main__ import main; main()"
# Workers leave nobody's answer out of what they count together, however busy the machine is.
PATIENT = "import gomodel.process.hub as h, gomodel.operations.siblings as s; h.PATIENCE_S = s._SUPERVISOR_S = 60.0\n"


class Process:
    """One running gomodel and what it wrote to standard error (`lines`) and output (`output`)."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.lines: list[str] = []
        self.output = ""
        self.port = 0  # once it listens
        self._successors: list[int] = []
        self._changed = asyncio.Event()
        self._readers = [asyncio.create_task(self._read_errors()), asyncio.create_task(self._read_output())]

    @classmethod
    async def start(
        cls,
        environ: Mapping[str, str],
        *arguments: str,
        cwd: Path,
        code: str | None = None,
        python: Sequence[str] = (),
        wrapper: Sequence[str] = (),
        **options: Any,
    ) -> "Process":
        """Starts it in `cwd` with `environ` and no other variable. `code` is run instead of `-m gomodel`; `python` are
        options of the interpreter, `wrapper` is a command in front of it, `options` are those of a subprocess."""
        what = ["-c", code] if code is not None else ["-m", "gomodel"]
        process = await asyncio.create_subprocess_exec(
            *wrapper,
            sys.executable,
            *python,
            *what,
            *arguments,
            env={**_MEASURED, "PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "HOST": "127.0.0.1", "PORT": "0"}
            | dict(environ),
            cwd=cwd,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=options.pop("stderr", asyncio.subprocess.PIPE),
            limit=1 << 20,
            **options,
        )
        return cls(process)

    async def _read_errors(self) -> None:
        if self._process.stderr is not None:
            async for line in self._process.stderr:
                self.lines.append(line.decode(errors="replace").rstrip("\n"))
                self._changed.set()

    async def _read_output(self) -> None:
        assert self._process.stdout is not None
        while piece := await self._process.stdout.read(1 << 16):
            self.output += piece.decode()
            self._changed.set()

    @property
    def text(self) -> str:
        """Everything on standard error."""
        return "\n".join(self.lines)

    @property
    def messages(self) -> list[str]:
        """The messages of the log, which is JSON where standard error is no terminal."""
        return [str(json.loads(line).get("message", "")) for line in self.lines]

    async def until(self, what: str, found: Callable[[], bool]) -> None:
        """Waits until `found`, asked whenever the process said something."""
        try:
            async with asyncio.timeout(LIMIT_S):
                while not found():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"no {what} within {LIMIT_S} s:\n{self.text}\n{self.output}") from None

    async def says(self, part: str, times: int = 1) -> str:
        """Waits for the `times`-th line on standard error that holds `part`, and returns it."""

        found: list[str] = []
        seen = 0

        def enough() -> bool:
            nonlocal seen
            found.extend(line for line in self.lines[seen:] if part in line)
            seen = len(self.lines)
            return len(found) >= times

        await self.until(f"line with {part!r}", enough)
        return found[times - 1]

    async def listening(self) -> int:
        """Waits until requests are taken; the TCP port, 0 when there is none."""
        await self.says("Limits: ")
        self.port = next((int(match[1]) for line in self.lines if (match := _LISTENING.search(line))), 0)
        return self.port

    async def upgrade(self) -> int:
        """SIGUSR2; the process that has taken over, which `pid` is from then on. The end is that of all of them."""
        serving = [line for line in self.lines if _SERVES.search(line)]
        handed = sum(_HANDED in line for line in self.lines)
        workers = [match for line in self.lines if (match := _WORKERS.search(line))]
        self.signal(signal.SIGUSR2)
        line = await self.says(" serves; what runs here", len(serving) + 1)
        found = _SERVES.search(line)
        assert found is not None
        self._successors.append(int(found[1]))
        self.pid = self._successors[-1]
        await self.says(_HANDED, handed + int(workers[-1][1]))
        return self.pid

    def signal(self, *numbers: int) -> None:
        for number in numbers:
            os.kill(self.pid, number)

    async def ended(self) -> int:
        """Waits for the end; the exit status, negative for a signal."""
        try:
            async with asyncio.timeout(LIMIT_S):
                status = await self._process.wait()
                await asyncio.wait(self._readers)
        except TimeoutError:
            raise AssertionError(f"still running after {LIMIT_S} s:\n{self.text}") from None
        return status

    async def gone(self, pid: int) -> None:
        """Waits for the end of one of several processes, which may be nobody's child."""
        async with asyncio.timeout(LIMIT_S):
            while _lives(pid):
                await pause()

    async def stop(self) -> int:
        """SIGTERM, and the exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.signal(signal.SIGTERM)
        return await self.ended()

    async def kill(self) -> None:
        """The end of it and of its children, whatever it is doing."""
        for pid in [each for one in (self._process.pid, *self._successors) for each in (*children(one), one)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await self._process.wait()
        for reader in self._readers:
            reader.cancel()
        await asyncio.wait(self._readers)


async def pause() -> None:
    """Between two looks at what another process does without saying so: it needs the processor to come to it."""
    await asyncio.sleep(0.01)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """The process's children, those of each thread in the order they were started."""
    found = []
    try:
        for thread in sorted(Path(f"/proc/{pid}/task").iterdir()):
            found += [int(child) for child in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):  # ended before the open, or between it and the read
        pass
    return found


Run = Callable[..., Awaitable[Process]]


@pytest.fixture
async def run(tmp_path: Path, no_leaks: Inventory) -> AsyncIterator[Run]:
    """`await run(environ, "--check", cwd=..., ...)`: Process.start in an empty directory; none outlives the test."""
    processes: list[Process] = []

    async def start(environ: Mapping[str, str] | None = None, *arguments: str, **options: Any) -> Process:
        options.setdefault("cwd", tmp_path)
        processes.append(await Process.start(environ or {}, *arguments, **options))
        return processes[-1]

    yield start
    for process in processes:
        await process.kill()
