"""The fork of a worker process, and its exit.

Decides what a child must not inherit of its parent: lines of the log that are not written yet, signals that are the
parent's, and the way back into the parent's code. Until it says otherwise it ends with its parent.
"""

import logging
import os
from collections.abc import Callable
from typing import NoReturn

from ..host import parent_death
from ..host.listeners import ListenError
from ..host.signals import Signals

_logger = logging.getLogger("gomodel")


def fork(signals: Signals, child: Callable[[], int]) -> int:
    """The pid of a new process that ends with the status that `child` returns, 1 when it raises. Raises OSError."""
    for handler in _logger.handlers:
        handler.flush()  # a copy of what waits there would be written twice
    parent = os.getpid()
    with signals.held():
        pid = os.fork()
        if pid == 0:
            parent_death.end_with(parent)
            signals.detach()
    if pid == 0:
        _end_with(child)
    return pid


def _end_with(child: Callable[[], int]) -> NoReturn:
    status = 1
    try:
        status = child()
    except ListenError as error:
        _logger.error("%s", error)
    except BaseException:
        _logger.exception("The worker failed")
    finally:
        logging.shutdown()
        os._exit(status)
