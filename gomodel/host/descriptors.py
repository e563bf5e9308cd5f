"""How many file descriptors this process may open, how they are shared out, and whether one was missing.

Decides how many clients there may be and how many idle connections to instances; opens nothing of that. The kernel
gives out the lowest free number, so the number of a new descriptor says how full the table is.
"""

import errno
import os
import resource
import socket

# Raised when the process (EMFILE) or the host (ENFILE) has no descriptor left, or the kernel no memory for one.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# A look-up opens a file and a socket or two; with fewer left it fails for want of them, whatever it says.
_LOOKUP = 4
# Whatever the system allows; a limit of open files that is too low for this many fails in other ways.
FEWEST_CLIENTS = 8
# Of our own, besides what is open at the start: files of a look-up, a log that is opened anew, a scrape of the workers.
_SPARE = 8
# Each instance's probe, its model list, and a look-up of its name.
_PER_INSTANCE = 4


def limit() -> int:
    """The highest number of descriptors the process may have (RLIMIT_NOFILE)."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 30


def open_now() -> int:
    """How many descriptors are open; 0 where the system does not say."""
    try:
        return len(os.listdir("/dev/fd")) - 1  # its own
    except OSError:
        return 0


def shortage() -> int | None:
    """The errno of a descriptor that could not be had now, None when there are enough for a look-up."""
    try:
        with socket.socket() as probe:
            scarce = probe.fileno() >= limit() - _LOOKUP
    except OSError as error:
        return error.errno
    return errno.EMFILE if scarce else None


def most_clients(limit: int, used: int, instances: int) -> int:
    """How many clients there may be, where `limit` files may be open and `used` are.

    Of what is left two fifths are for clients, as much for the instances' connections that serve them, and the last
    fifth for those that lie idle (`most_idle`).
    """
    return max(FEWEST_CLIENTS, 2 * _left(limit, used, instances) // 5)


def most_idle(limit: int, used: int, instances: int) -> int:
    """How many idle connections each of `instances` may keep."""
    return max(1, _left(limit, used, instances) // 5 // instances)


def _left(limit: int, used: int, instances: int) -> int:
    return limit - used - _SPARE - _PER_INSTANCE * instances
