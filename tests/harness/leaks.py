"""What a test must not leave behind: tasks, file descriptors, log records at ERROR, unhandled loop exceptions."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Callable

# Closing takes a few turns of the loop; a thing that is still there after this is leaked.
_SETTLE_S = 2.0
_SETTLE_STEP_S = 0.005
_FORMATTER = logging.Formatter("%(levelname)s %(name)s %(message)s")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def open_fds() -> Counter[str]:
    """How many descriptors of each kind this process has; a kind is "socket", "pipe", "anon_inode" or a file's path.

    Without the inode: uvloop makes a new pair of sockets of its own each time a loop is run.
    """
    kinds: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            kinds[os.readlink(f"/proc/self/fd/{fd}").partition(":")[0]] += 1
        except FileNotFoundError:
            continue  # the listing's own descriptor
    # libuv keeps one for the life of a loop that ever listened.
    del kinds["/dev/null"]
    return kinds


async def nothing_left(what: Callable[[], list[str]]) -> None:
    """Waits a bounded time for the list to become empty, then fails with what stayed on it."""
    for _ in range(int(_SETTLE_S / _SETTLE_STEP_S)):
        if not what():
            return
        await asyncio.sleep(_SETTLE_STEP_S)
    if left := what():
        raise AssertionError("left behind:\n" + "\n".join(left))


class Inventory:
    """The tasks and descriptors there are now, to be compared with those at the end."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._tasks = asyncio.all_tasks()
        self._fds = open_fds()

    def leaked(self) -> list[str]:
        """What there is now that was not there before."""
        tasks = asyncio.all_tasks() - self._tasks - {asyncio.current_task()}
        fds = open_fds() - self._fds
        return [f"task {task!r}" for task in tasks] + [f"{count} more {kind}" for kind, count in fds.items()]


class Records(logging.Handler):
    """Keeps every log record and every exception that reached the loop's handler while it is attached."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Of `loop`, or of the one that runs."""
        super().__init__(logging.NOTSET)
        self.records: list[logging.LogRecord] = []
        self.expected: list[str] = []
        self._loop = loop or asyncio.get_running_loop()
        self._levels: dict[logging.Logger, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def attach(self) -> None:
        logging.getLogger().addHandler(self)
        logger = logging.getLogger("gomodel")
        self._levels[logger] = logger.level
        logger.setLevel(logging.DEBUG)
        self._loop.set_exception_handler(self._on_loop_exception)

    def detach(self) -> None:
        self._loop.set_exception_handler(None)
        for logger, level in self._levels.items():
            logger.setLevel(level)
        logging.getLogger().removeHandler(self)

    def _on_loop_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        # The default handler logs at ERROR, which brings it back here with its traceback.
        loop.default_exception_handler(context)

    @property
    def text(self) -> str:
        """Everything logged, with tracebacks: the place to look for what must not be in a log."""
        lines = []
        for record in self.records:
            extras = {key: value for key, value in vars(record).items() if key not in _STANDARD}
            lines.append(f"{_FORMATTER.format(record)} {extras}")
        return "\n".join(lines)

    @property
    def unexpected(self) -> list[str]:
        """The records at ERROR and above that no string of `expected` is part of.

        Access lines apart: what made the gateway fail a request at ERROR says so in a line of its own.
        """
        errors = [each for each in self.records if each.levelno >= logging.ERROR and each.name != "gomodel.access"]
        texts = [_FORMATTER.format(record) for record in errors]
        return [text for text in texts if not any(part in text for part in self.expected)]
