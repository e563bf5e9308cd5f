"""What this process costs the machine: CPU time, memory, open descriptors and since when, under Prometheus' own names.

Decides where the numbers come from: the kernel, when somebody asks. Knows nothing of other processes or of how numbers
are exposed.
"""

import os
import resource
import time
from collections.abc import Mapping

_PAGE_BYTES = resource.getpagesize()
_START_FIELD = 21  # of /proc/self/stat (proc(5)), counted from 0
_AFTER_NAME = 2  # the process's name, which may hold spaces and parentheses, is cut off with the field before it


def process_metrics() -> Mapping[str, float]:
    """By metric; seconds, bytes and counts. Only those that the system tells."""
    found = {"process_cpu_seconds_total": time.process_time()}
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    found["process_max_fds"] = float("inf") if limit == resource.RLIM_INFINITY else limit
    try:
        with open("/proc/self/statm", "rb") as file:
            pages = file.read().split()
        found["process_virtual_memory_bytes"] = int(pages[0]) * _PAGE_BYTES
        found["process_resident_memory_bytes"] = int(pages[1]) * _PAGE_BYTES
        found["process_open_fds"] = _open_descriptors()
        found["process_start_time_seconds"] = _started_at()
    except OSError:
        pass  # no /proc, as in some sandboxes
    return found


def _open_descriptors() -> int:
    # Linux counts them since 6.2; before, all of them have to be listed.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


def _started_at() -> float:
    """Seconds since 1970."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    after_boot_s = int(fields[_START_FIELD - _AFTER_NAME]) / os.sysconf("SC_CLK_TCK")
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + after_boot_s
