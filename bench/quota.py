"""A fixed share of a core for each worker process, from the kernel's CPU controller (cgroup v1 or v2; wants root).

On a machine with as many cores as workers the load and the upstream compete with the second worker, and what is
measured is the machine's size. With a share each, throughput says whether the workers hinder one another. Decides where
the groups are and which processes are workers: those of a tree that have no children.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import procfs

ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 10_000


class NoQuota(Exception):
    """This machine gives no shares; the text says why."""


def workers_of(root: int, proc: Path = procfs.PROC) -> list[int]:
    """The processes of a tree that have no children. Raises ProcessLookupError when the root is gone."""
    members = procfs.tree(root, proc)
    parents = {stat.parent for stat in members}
    return [stat.pid for stat in members if stat.pid not in parents]


@contextmanager
def share(pids: list[int], cores: float, root: Path = ROOT) -> Iterator[None]:
    """Each of `pids` gets `cores` of a core inside the block. Raises NoQuota, before anything has changed."""
    made: list[tuple[Path, int]] = []
    home, line, name = _controller(root)
    quota = int(cores * _PERIOD_US)
    try:
        for pid in pids:
            group = home / f"bench-{os.getpid()}-{pid}"
            group.mkdir()
            made.append((group, pid))
            for file, text in ((name, line.format(quota=quota, period=_PERIOD_US)), ("cgroup.procs", str(pid))):
                if file == "cpu.cfs_quota_us":
                    (group / "cpu.cfs_period_us").write_text(str(_PERIOD_US))
                (group / file).write_text(text)
        yield
    except OSError as error:
        raise NoQuota(f"{error.strerror}: {error.filename}") from error
    finally:
        for group, pid in made:
            try:
                (home / "cgroup.procs").write_text(str(pid))
            except OSError:
                pass  # it has ended
            group.rmdir()


def _controller(root: Path) -> tuple[Path, str, str]:
    """Where groups go, what a quota looks like there, and its file."""
    if (root / "cpu" / "cgroup.procs").exists():
        return root / "cpu", "{quota}", "cpu.cfs_quota_us"
    try:
        if "cpu" in (root / "cgroup.controllers").read_text().split():
            (root / "cgroup.subtree_control").write_text("+cpu")
            return root, "{quota} {period}", "cpu.max"
    except OSError as error:
        raise NoQuota(f"{error.strerror}: {error.filename}") from error
    raise NoQuota("no CPU controller")
