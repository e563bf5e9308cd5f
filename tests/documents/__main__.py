"""Runs the blocks of the documents: `python -m tests.documents [--without-downloads] [FILE ...]`.

Each page has a copy of the tree as its working directory, a home, a Python environment and a place for npm's packages
of its own, and a gateway: `gomodel demo`, unless a block of the page serves. Where a text says port 8080 it is a free
one, where it says 8000 that of a simulated vLLM; of an example `<master key>` is the gateway's, `<model>` the
simulation's. Nothing else of a text is changed.
"""

import argparse
import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import venv
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from gomodel.simulator.app import build_app

from .blocks import Block, blocks, downloads

ROOT = Path(__file__).parents[2]
LIMIT_S = 900.0
START_LIMIT_S = 180.0
_KEY, _MODEL = "demo", "demo/llama-sim"


class Failed(Exception):
    """A block did not do what its page says."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.documents")
    parser.add_argument("--without-downloads", action="store_true", help="leave out pages that install packages")
    parser.add_argument("files", nargs="*", metavar="FILE")
    asked = parser.parse_args()
    names = asked.files or [
        "README.md",
        *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").rglob("*.md"))),
    ]
    vllm_port = _simulate()
    done = failed = left_out = 0
    for name in names:
        found = blocks((ROOT / name).read_text(encoding="utf-8"))
        if not any(not each.left_out for each in found) or (asked.without_downloads and downloads(found)):
            left_out += len(found)
            continue
        with tempfile.TemporaryDirectory(prefix="gomodel-docs-") as place:
            page = Page(name, Path(place), vllm_port)
            try:
                for block in found:
                    if block.left_out or (asked.without_downloads and block.needs):
                        left_out += 1
                        continue
                    page.run(block)
                    done += 1
            except Failed as error:
                failed += 1
                print(error, flush=True)
            finally:
                page.close()
    print(f"{done} passed, {failed} failed, {left_out} skipped")
    return min(failed, 1)


class Page:
    """A reader of one page."""

    def __init__(self, name: str, place: Path, vllm_port: int) -> None:
        self._name = name
        self._place = place
        self._here = place / "gomodel"
        self._vllm_port = vllm_port
        self._port = _free_port()
        self._gateway: subprocess.Popen[bytes] | None = None
        (place / "home").mkdir()
        _copy_tree(self._here)
        environment = place / "python"
        venv.create(environment)
        for program in ("pip", "gomodel"):
            script = environment / "bin" / program
            script.write_text(f'#!/bin/sh\nexec "$(dirname "$0")/python" -m {program} "$@"\n')
            script.chmod(0o755)
        # What the gateway and the tests need is there already; an installation finds it and is quick.
        [site] = environment.glob("lib/python3*/site-packages")
        [ours] = (ROOT / ".venv").glob("lib/python3*/site-packages")
        (site / "gomodel_documents.pth").write_text(f"{ours}\n")
        self._environ = {
            "HOME": str(place / "home"),
            "PATH": f"{environment / 'bin'}:{place / 'node' / 'bin'}:{os.environ['PATH']}",
            "NODE_PATH": str(place / "node" / "lib" / "node_modules"),
            "npm_config_prefix": str(place / "node"),
            "npm_config_cache": str(Path.home() / ".npm"),
            # Of this host, which another home and prefix would hide.
            "npm_config_userconfig": str(Path.home() / ".npmrc"),
            "npm_config_globalconfig": _npm_configuration(),
            "PIP_CACHE_DIR": str(Path.home() / ".cache" / "pip"),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PORT": str(self._port),
            "LANG": "C.UTF-8",
            "TERM": "dumb",
            **{name: value for name, value in os.environ.items() if name.lower().startswith(("pip_", "npm_", "http"))},
        }

    def run(self, block: Block) -> None:
        """Raises Failed."""
        where = f"{self._name}:{block.line}"
        print(where, flush=True)
        text = self._text(block)
        if block.serves:
            self._stop()
            self._start(self._script(text), where)
            return
        if block.needs:
            self._run(["pip", "install", "--quiet", *block.needs.split()], where)
        if self._gateway is None:
            self._start(f"exec {ROOT / '.venv/bin/python'} -m gomodel demo --rate 200", where)
        if block.language == "python":
            (self._here / "example.py").write_text(text)
            command = ["python", "example.py"]
        elif block.language == "js":
            (self._here / "example.mjs").write_text(text)
            command = ["node", "example.mjs"]
        else:
            command = ["bash", "-c", self._script(text)]
        output = self._run(command, where)
        if block.prints not in output:
            raise Failed(f"{where}: {block.prints!r} is not in its output:\n{output}")

    def _run(self, command: list[str], where: str) -> str:
        process = subprocess.Popen(
            command,
            cwd=self._here,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output = process.communicate(timeout=LIMIT_S)[0].decode(errors="replace")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise Failed(f"{where}: not done within {LIMIT_S:g} s:\n{process.communicate()[0].decode()}") from None
        if process.returncode:
            raise Failed(f"{where}: ended with {process.returncode}:\n{output}")
        return output

    def close(self) -> None:
        self._stop()

    def _text(self, block: Block) -> str:
        text = block.text.replace("8080", str(self._port)).replace("localhost:8000", f"localhost:{self._vllm_port}")
        return text.replace("<master key>", _KEY).replace("<model>", _MODEL)

    def _script(self, text: str) -> str:
        """What a block exports, and where it goes, holds for those behind it."""
        kept = self._place / "exported"
        before = f"[ ! -e {kept} ] || . {kept}\n"
        return f"{before}set -e -o pipefail\n{text}\n{{ export -p; printf 'cd %q\\n' \"$PWD\"; }} > {kept}\n"

    def _start(self, script: str, where: str) -> None:
        log = self._place / "gateway.log"
        with log.open("wb") as output:
            self._gateway = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self._here,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_LIMIT_S
        while time.monotonic() < deadline and self._gateway.poll() is None:
            with suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self._port}/health/ready", timeout=5).close()
                return
            time.sleep(0.1)
        raise Failed(f"{where}: does not serve:\n{log.read_text(errors='replace')}")

    def _stop(self) -> None:
        if self._gateway is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._gateway.pid, signal.SIGKILL)
            self._gateway.wait()
            self._gateway = None


def _copy_tree(here: Path) -> None:
    """What is in the repository, as it is now, with the environment that the make targets look for."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).exists():
            (here / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, here / name)
    (here / ".venv").symlink_to(ROOT / ".venv")


def _npm_configuration() -> str:
    if shutil.which("npm") is None:
        return ""
    asked = ["npm", "config", "get", "globalconfig"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def _simulate() -> int:
    """The port of a simulated vLLM that runs as long as this process."""
    sock = socket.create_server(("127.0.0.1", 0))

    async def serve() -> None:
        runner = web.AppRunner(build_app(model=_MODEL, tokens_per_s=200.0), access_log=None)
        await runner.setup()
        await web.SockSite(runner, sock).start()
        await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    port: int = sock.getsockname()[1]
    return port


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


if __name__ == "__main__":
    sys.exit(main())
