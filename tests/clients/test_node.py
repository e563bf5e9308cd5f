"""The OpenAI SDK for Node.js: runs node/*.test.mjs, which can also be run alone, with `npm test`."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from .conftest import BODY_LIMIT_BYTES, Gateway

NODE = Path(__file__).resolve().parent / "node"
pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="needs Node.js with npm")


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    """What package-lock.json names, in node_modules."""
    installed = NODE / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (NODE / "package-lock.json").stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], cwd=NODE, check=True, timeout=300)


@pytest.mark.parametrize("suite", sorted(path.name for path in NODE.glob("*.test.mjs")))
def test_suite(gateway: Gateway, suite: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "GOMODEL_URL": gateway.url,
        "GOMODEL_KEY": gateway.key,
        "GOMODEL_MODEL": gateway.model,
        "GOMODEL_DEAD_MODEL": gateway.dead_model,
        "GOMODEL_BODY_LIMIT_BYTES": str(BODY_LIMIT_BYTES),
    }
    command = ["node", "--test", "--test-reporter=spec", suite]
    done = subprocess.run(command, cwd=NODE, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\u2139 pass 0\n" not in done.stdout
