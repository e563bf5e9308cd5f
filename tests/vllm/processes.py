"""Starts the real processes of this suite, vLLM and gomodel, and makes sure that none outlives it.

Each runs in a session of its own, so that its children can be ended with it; where util-linux is installed the kernel
ends it too when the test run is killed. Does not know what the servers are asked.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import vllm_setup

ROOT = Path(__file__).resolve().parents[2]
MODEL = "tiny/llama"
# What callers show gomodel, and what gomodel shows vLLM.
MASTER_KEY = "master-key-4c1f"
INSTANCE_KEY = "instance-key-9e27"
# vLLM takes half a minute on two idle cores; several minutes are a busy machine, more is a hang.
VLLM_START_S = 300
GATEWAY_START_S = 30
STOP_S = 20


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@dataclass
class Server:
    """A running process that listens on loopback."""

    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log_text(self) -> str:
        return self.log.read_text(errors="replace")

    def log_tail(self) -> str:
        return "\n".join(self.log_text().splitlines()[-30:])

    def waited_for_cpu_s(self) -> float:
        """How long the process and its children could have run so far but got no CPU; 0 where the kernel tells not."""
        return sum(run_delay_s(pid) for pid in family(self.process.pid))

    def stop(self) -> int:
        """SIGTERM, then SIGKILL for whatever is left of the whole process group. Returns the exit status."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP_S)
        self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """SIGKILL for the process and its children at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def family(pid: int) -> list[int]:
    """The process and all it started, as far as they run."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return [pid]
    return [pid, *(descendant for child in children for descendant in family(int(child)))]


def run_delay_s(pid: int) -> float:
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except OSError:
        return 0.0


def spawn(command: Sequence[str | Path], environment: Mapping[str, str], port: int, log: Path) -> Server:
    guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*guard, *map(str, command)],
            env=dict(environment),
            cwd=log.parent,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Server(port, process, log)


def wait_until_healthy(server: Server, limit_s: float) -> Server:
    """Returns the server once /health is 200; otherwise ends it and raises RuntimeError with the end of its log."""
    deadline = time.monotonic() + limit_s
    while server.process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"{server.url}/health", timeout=5).close()
            return server
        time.sleep(0.1)
    server.kill()
    status = server.process.returncode
    raise RuntimeError(f"not healthy after at most {limit_s} s, exit status {status}:\n{server.log_tail()}")


def start_vllm(
    directory: Path,
    *arguments: str,
    name: str = MODEL,
    port: int | None = None,
    rust: bool | None = None,
    **environment: str,
) -> Server:
    """A real vLLM, ready, with these arguments and variables more. Raises RuntimeError when it does not come up.

    It has the front end the suite was started with, unless `rust` says which.
    """
    vllm_setup.require()
    directory.mkdir(parents=True, exist_ok=True)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("VLLM_")}
    settings = {
        **inherited,
        "PATH": f"{vllm_setup.executable().parent}:{inherited.get('PATH', '')}",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(directory / "cache"),
        "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    program: list[str | Path] = [vllm_setup.executable()]
    if vllm_setup.rust() if rust is None else rust:
        settings |= {"PYTHONPATH": str(vllm_setup.overlay()), "VLLM_USE_RUST_FRONTEND": "1"}
        program = [vllm_setup.executable().with_name("python"), "-m", "vllm.entrypoints.cli.main"]
    port = port or free_port()
    command: list[str | Path] = ["nice", "-n", "10", *program, "serve", vllm_setup.model()]
    command += ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", name]
    command += ["--dtype", "float32", "--max-model-len", "8192", "--max-num-seqs", "64", "--enforce-eager"]
    server = spawn([*command, *arguments], settings, port, directory / f"vllm-{port}.log")
    return wait_until_healthy(server, VLLM_START_S)


def start_gateway(directory: Path, environment: Mapping[str, str]) -> Server:
    """gomodel as an operator starts it, from this checkout, with these settings and no others."""
    directory.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(ROOT),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "GOMODEL_DRAIN_TIMEOUT": "5s",
        **environment,
    }
    server = spawn([sys.executable, "-m", "gomodel"], settings, port, directory / f"gomodel-{port}.log")
    return wait_until_healthy(server, GATEWAY_START_S)
