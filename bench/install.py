"""Which version of a peer is present, and the installation of those that come as Python packages.

Each gets a virtual environment of its own: a peer's pinned dependencies must not replace the ones gomodel is tested
with. Decides nothing about versions: the newest that pip finds is the one to beat.
"""

import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.peers import Peer
from gomodel.version import VERSION

LIMIT_S = 600


def install(peers: Iterable[Peer], directory: Path, say: Callable[[str], None]) -> None:
    """Makes `directory/<peer>/` for every packaged peer that is not there yet; says so when one cannot be installed."""
    for peer in peers:
        home = directory / peer.name
        if peer.package is None or (home / "bin" / peer.program).exists():
            continue
        say(f"installing {peer.package}")
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for command in ([sys.executable, "-m", "venv", str(home)], [*pip, peer.package]):
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
            except subprocess.TimeoutExpired:
                say(f"{peer.name}: not installed within {LIMIT_S} s")
                break
            if done.returncode:
                lines = done.stderr.strip().splitlines() or ["pip gave no reason"]
                say(f"{peer.name}: not installed: {lines[-1]}")
                break


def version(peer: Peer, program: str) -> str:
    """The version of the program at that path, "unknown" when it does not say."""
    if peer.name == "gomodel":
        return VERSION
    if peer.package is None:
        done = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10, check=False)
        return (done.stderr or done.stdout).strip().rpartition("/")[2] or "unknown"
    distribution = peer.package.partition("[")[0].replace("-", "_")
    places = Path(program).parent.parent.glob(f"lib/python3*/site-packages/{distribution}-*.dist-info")
    return next((place.name.removesuffix(".dist-info").rpartition("-")[2] for place in places), "unknown")
