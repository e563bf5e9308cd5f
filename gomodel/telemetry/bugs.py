"""A task in the background that fails is a bug, and nobody waits for it: its failure is said in the log."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

_logger = logging.getLogger("gomodel")


def reported(what: str) -> Callable[[asyncio.Task[None]], None]:
    """A done callback that logs the exception of a task; `what` begins the line, as in "A health probe"."""
    return partial(_report, what)


def _report(what: str, task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _logger.error("%s failed inside the gateway", what, exc_info=error)
