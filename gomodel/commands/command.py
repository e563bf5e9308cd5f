"""A subcommand of the command line, as a row, and the exit statuses of all of them.

Knows nothing of how the command line is read, which is `__main__`'s. What a command needs of the package is imported
when it is run, since who asks for the help or the version waits for nothing else.
"""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

OK = 0
FAILED = 1
WRONG_USE = 2
CONFIG_ERROR = 64  # EX_USAGE of sysexits.h
INTERRUPTED = 130


def _no_options(parser: "ArgumentParser") -> None:
    pass


class Command(NamedTuple):
    """A subcommand: `run` does it and returns the exit status; it may raise ConfigError.

    `arguments` declares its options, `epilog` makes what its help says beneath them.
    """

    name: str
    summary: str
    run: "Callable[[Namespace | None], int]"
    arguments: "Callable[[ArgumentParser], None]" = _no_options
    epilog: "Callable[[], str] | None" = None
