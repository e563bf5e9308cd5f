"""The end of a process with the one that forked it, whatever it is doing: Linux's PR_SET_PDEATHSIG.

Decides what happens where a parent is killed. On other systems it changes nothing.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """In a child just forked by `parent`, in the thread that goes on: be killed when the parent is gone."""
    if sys.platform == "linux":
        _set(signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before this
            os.kill(os.getpid(), signal.SIGKILL)


def outlive() -> None:
    """From now on the end of the parent is something to be noticed."""
    if sys.platform == "linux":
        _set(0)


def _set(number: int) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number))
