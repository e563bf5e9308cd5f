"""Sets up a virtual environment of its own with the pinned clients, then runs the suites in it with pytest.

Decides when the environment is made anew: whenever what is to be in it has changed. Needs nothing but Python, and
Node.js with npm for the Node suite, which is skipped without.
"""

import hashlib
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VENV = ROOT / ".venv-clients"
_SOURCES = (HERE / "requirements.txt", ROOT / "setup.cfg", ROOT / "pyproject.toml")


def main() -> int:
    python = _environment()
    names = {path.name for path in HERE.glob("test_*.py")}
    arguments = [str(HERE / each) if each.partition("::")[0] in names else each for each in sys.argv[1:]]
    if not any(each.startswith(str(HERE)) for each in arguments):
        arguments.append(str(HERE))
    return subprocess.run(
        [python, "-m", "pytest", "-c", HERE / "pytest.ini", *arguments], cwd=ROOT, check=False
    ).returncode


def _environment() -> Path:
    """The interpreter of an environment that has what the sources name."""
    stamp = VENV / "installed"
    wanted = hashlib.sha256(b"".join(path.read_bytes() for path in _SOURCES)).hexdigest()
    python = VENV / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        venv.create(VENV, clear=True, with_pip=True)
        pip: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--editable", f"{ROOT}[batch]", "--requirement", _SOURCES[0]], check=True)
        stamp.write_text(wanted)
    return python


if __name__ == "__main__":
    os.environ.pop("PYTHONPATH", None)
    sys.exit(main())
