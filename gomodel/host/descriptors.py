"""How many file descriptors this process may open, and whether one that is missing is why something failed.

Decides nothing of what is opened. The kernel gives out the lowest free number, so the number of a new descriptor
says how full the table is.
"""

import errno
import os
import resource
import socket

# Raised when the process (EMFILE) or the host (ENFILE) has no descriptor left, or the kernel no memory for one.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# A look-up opens a file and a socket or two; with fewer left it fails for want of them, whatever it says.
_LOOKUP = 4


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
