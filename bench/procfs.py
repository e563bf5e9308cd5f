"""CPU time and memory of a process tree, read from /proc.

Decides how a tree is summed. Knows nothing of what the processes do.
"""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Stat:
    pid: int
    state: str
    parent: int
    group: int
    cpu_ticks: int


@dataclass(frozen=True, slots=True)
class Memory:
    resident_bytes: int
    peak_bytes: int


def parse_stat(text: str) -> Stat:
    """One /proc/PID/stat line (proc(5)): the ticks are utime + stime + cutime + cstime.

    The command name may hold spaces and parentheses, so fields are counted from the last one. A child's time moves into
    its parent's cutime when it is reaped, so a tree's sum never goes backwards while its root lives.
    """
    before, _, after = text.rpartition(")")
    fields = after.split()
    pid = int(before.split(" ", 1)[0])
    return Stat(pid, fields[0], int(fields[1]), int(fields[2]), sum(map(int, fields[11:15])))


def parse_status(text: str) -> Memory:
    """VmRSS and VmHWM of a /proc/PID/status file; zero for a process without memory, such as a zombie."""
    sizes = {"VmRSS": 0, "VmHWM": 0}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in sizes:
            sizes[name] = int(value.split()[0]) * 1024
    return Memory(sizes["VmRSS"], sizes["VmHWM"])


def _all(proc: Path) -> dict[int, Stat]:
    stats: dict[int, Stat] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit():
            try:
                stat = parse_stat((entry / "stat").read_text())
            except (FileNotFoundError, ProcessLookupError):
                continue
            stats[stat.pid] = stat
    return stats


def group_runs(group: int, proc: Path = PROC) -> bool:
    """True while a process of the process group runs; one that only waits to be reaped does not."""
    return any(stat.group == group and stat.state not in "ZX" for stat in _all(proc).values())


def tree(root: int, proc: Path = PROC) -> list[Stat]:
    """`root` and all its living descendants. Raises ProcessLookupError when the root is gone."""
    stats = _all(proc)
    if root not in stats:
        raise ProcessLookupError(f"process {root} is gone")
    members = [stats[root]]
    for member in members:
        members.extend(stat for stat in stats.values() if stat.parent == member.pid)
    return members


def cpu_s(root: int, proc: Path = PROC) -> float:
    """CPU seconds the tree has used so far, user and system, reaped children included; one tick is 10 ms."""
    return sum(stat.cpu_ticks for stat in tree(root, proc)) / _TICKS_PER_S


def memory(root: int, proc: Path = PROC) -> Memory:
    """Resident and peak resident bytes, summed over the tree (pages shared by two processes count twice)."""
    resident = peak = 0
    for stat in tree(root, proc):
        try:
            each = parse_status((proc / str(stat.pid) / "status").read_text())
        except (FileNotFoundError, ProcessLookupError):
            continue
        resident, peak = resident + each.resident_bytes, peak + each.peak_bytes
    return Memory(resident, peak)


def forget_peak(root: int, proc: Path = PROC) -> None:
    """Resets VmHWM of every process in the tree to its current VmRSS (proc(5), clear_refs); best effort."""
    for stat in tree(root, proc):
        try:
            (proc / str(stat.pid) / "clear_refs").write_text("5")
        except OSError:
            continue
