"""Two unix sockets between the processes of one gateway: the batcher's API, and the gateway's door for its lines.

Decides where they are: in a directory that nobody else may enter, made anew by each gateway. Whoever connects is one of
the gateway's own processes, so what it says of itself is believed.
"""

import glob
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

_MODE = 0o600
API = "api"
LINES = "lines"
_PREFIX = "gomodel-batches-"
# Younger than this a directory may have no sockets yet.
_STALE_S = 60.0
_VSIZE = 20  # of /proc/PID/stat, counted from the state

# Made before there are workers, who inherit the name.
_directory: str | None = None
_owner = 0


@contextmanager
def directory(*, wanted: bool) -> Iterator[None]:
    """There is a directory, if one is `wanted`, while the block runs in this process."""
    global _directory, _owner  # noqa: PLW0603 - a process belongs to one gateway
    if not wanted:
        yield
        return
    sweep()
    _directory = tempfile.mkdtemp(prefix=_PREFIX)  # mode 0700
    _owner = os.getpid()
    try:
        yield
    finally:
        remove(_directory)
        _directory = None


def path(name: str) -> str:
    """Where the socket is, or will be. Raises RuntimeError outside of `directory`."""
    if _directory is None:
        raise RuntimeError("this gateway has no private sockets")
    return os.path.join(_directory, name)


def owner() -> int:
    """The process that made the directory and will remove it."""
    return _owner


def is_owned(pid: int) -> bool:
    """Whether that process, of this user or of this very gateway, still runs.

    One that is ending has no memory any more before its sockets are closed, and keeps none as a zombie (proc(5)).
    """
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:
            return stat.read().rpartition(b") ")[2].split()[_VSIZE] != b"0"
    except OSError:
        return False


def bind(at: str) -> socket.socket:
    """A socket that listens at this path; one that was there is replaced. Raises OSError."""
    try:
        os.unlink(at)
    except FileNotFoundError:
        pass
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o777 & ~_MODE)
    try:
        sock.bind(at)
        sock.listen(socket.SOMAXCONN)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def remove(at: str) -> None:
    """Remove a directory of sockets; none is fine."""
    shutil.rmtree(at, ignore_errors=True)


def sweep() -> None:
    """Remove what gateways have left that were killed with all their processes."""
    before = time.time() - _STALE_S
    for each in glob.glob(os.path.join(tempfile.gettempdir(), _PREFIX + "*")):
        try:
            found = os.stat(each)
        except OSError:
            continue
        if found.st_uid == os.geteuid() and found.st_mtime < before and not _anybody(each):
            remove(each)


def _anybody(at: str) -> bool:
    """Whether somebody listens there; known by asking, since processes of other containers cannot be seen."""
    for name in (API, LINES):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.setblocking(False)
            try:
                probe.connect(os.path.join(at, name))
            except (FileNotFoundError, ConnectionRefusedError):
                continue
            except OSError:
                pass  # its queue is full, or it is not ours to judge
            return True
    return False
