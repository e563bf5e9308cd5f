"""Builds sdist and wheel into dist/, twice, and checks that both times are the same: `python -m tests.packaging`.

Decides what has to be in them and what must not. The time in them is SOURCE_DATE_EPOCH, by default that of the last
commit. setuptools writes the time of the build into an sdist, so its archive is written anew with that time instead.
"""

import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
# What nobody who installs it needs, or may see.
_UNWANTED = re.compile(r"(?:^|/)(?:\.env|\.git|\.venv|build|__pycache__|node_modules)(?:/|$)|\.(?:py[co]|log|db)$")
_IN_SDIST = (
    "LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md", "Makefile", "setup.cfg", "setup.py", "pyproject.toml",
    ".env.example", "docker/Dockerfile", "docker/constraints.txt", "docs/contract.md", "docs/images/page.png",
    "mkdocs.yml", "tests/conftest.py", "tests/harness/localhost.pem", "bench/upstream.py", "gomodel/py.typed",
)  # fmt: skip


def main() -> int:
    epoch = os.environ.get("SOURCE_DATE_EPOCH") or _output("git", "log", "-1", "--format=%ct")
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        first, second = (_build(Path(place), int(epoch)) for place in (one, other))
        _same(first, second)
        _check_sdist(first["sdist"])
        _check_wheel(first["wheel"])
        subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *first.values()], check=True)
        target = ROOT / "dist"
        target.mkdir(exist_ok=True)
        for each in first.values():
            (target / each.name).write_bytes(each.read_bytes())
            print(f"{hashlib.sha256(each.read_bytes()).hexdigest()}  dist/{each.name}")
    return 0


def _build(place: Path, epoch: int) -> dict[str, Path]:
    """The sdist of what is committed, or changed and not yet, and the wheel that is built from the sdist."""
    tree = place / "tree"
    names = _output("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    for name in filter(None, names):
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_bytes((ROOT / name).read_bytes())
            (tree / name).chmod((ROOT / name).stat().st_mode & 0o755 | 0o644)
    environ = {**os.environ, "SOURCE_DATE_EPOCH": str(epoch)}
    command = [sys.executable, "-m", "build", "--outdir", str(place / "made"), str(tree)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    [sdist], [wheel] = (place / "made").glob("*.tar.gz"), (place / "made").glob("*.whl")
    sdist.write_bytes(_reproducible(sdist.read_bytes(), epoch))
    return {"sdist": sdist, "wheel": wheel}


def _reproducible(archive: bytes, epoch: int) -> bytes:
    """The same files, in order of their names, without owner, at one time."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(archive)) as before, tarfile.open(fileobj=plain, mode="w") as after:
        for each in sorted(before.getmembers(), key=lambda member: member.name):
            each.mtime, each.uid, each.gid, each.uname, each.gname, each.pax_headers = epoch, 0, 0, "", "", {}
            after.addfile(each, before.extractfile(each) if each.isfile() else None)
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=epoch) as out:
        out.write(plain.getvalue())
    return packed.getvalue()


def _same(first: dict[str, Path], second: dict[str, Path]) -> None:
    for kind, path in first.items():
        if path.read_bytes() != second[kind].read_bytes():
            sys.exit(f"the {kind} differs between two builds")


def _check_sdist(path: Path) -> None:
    with tarfile.open(path) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    _check(path, names, _IN_SDIST)


def _check_wheel(path: Path) -> None:
    ours = _output("git", "ls-files", "-z", "gomodel").split("\0")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        info = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = archive.read(info).decode()
    _check(path, names, [name for name in ours if name and (ROOT / name).exists()])
    roots = {name.split("/")[0] for name in names} - {info.split("/")[0]}
    if roots != {"gomodel"}:
        sys.exit(f"{path.name} installs {', '.join(sorted(roots))}, and should nothing but gomodel")
    for field in ("Requires-Python: >=3.11", "Provides-Extra: all", "Keywords: ", "Classifier: Typing :: Typed"):
        if field not in metadata:
            sys.exit(f"{path.name} does not say {field}")


def _check(path: Path, names: list[str], wanted: Iterable[str]) -> None:
    if missing := sorted(set(wanted) - set(names)):
        sys.exit(f"{path.name} lacks {', '.join(missing)}")
    if unwanted := [name for name in names if _UNWANTED.search(name)]:
        sys.exit(f"{path.name} has {', '.join(unwanted)}")


def _output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
