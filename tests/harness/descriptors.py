"""File descriptors that run out: in this process for a moment, or in another one for its life.

Decides how many may be opened. No privilege is needed: only this process's own soft limit is lowered.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def few_descriptors(left: int = 0) -> Iterator[None]:
    """Within, `left` descriptors can be opened and the next one fails with EMFILE."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    fillers: list[int] = []
    highest = max(int(fd) for fd in os.listdir("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1 + left, hard))
        try:
            while True:
                fillers.append(os.dup(0))
        except OSError:
            pass
        for _ in range(left):
            os.close(fillers.pop())
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in fillers:
            os.close(fd)


def limited_to(count: int) -> str:
    """What to run first in a process of Python's that is to have no more than `count`, now and later."""
    return f"import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({count}, {count})); "
