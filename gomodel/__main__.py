"""The command line: how what `python -m gomodel` is asked for is read, and its exit statuses.

What each subcommand does is in `commands`. Imports what a request for help or for the version does not need only when
it is needed, and what serving does not need not at all.
"""

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from .commands.command import CONFIG_ERROR, FAILED, OK, WRONG_USE, Command
from .commands.serve import SERVE
from .version import build

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace

    from .config.settings import ConfigError

_STDOUT, _STDERR = 1, 2
_DESCRIPTION = "A streaming gateway in front of vLLM. Without a command it serves."
_EPILOG = "gomodel COMMAND --help says more; that of serve has signals and exit statuses."
# What 0.1 had as flags.
_FLAGS = ("check", "demo")
_OF_DEMO = ("--rate", "--port")
SHELLS = ("bash", "zsh", "tcsh")


def main() -> NoReturn:
    """The process from its first line to its last."""
    _open_standard_descriptors()
    status = command(sys.argv[1:])
    # A dead name server can keep a resolver's thread, and with it the interpreter's own end, for a minute.
    if "logging" in sys.modules:
        sys.modules["logging"].shutdown()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            pass  # closed, or nobody reads it any more
    os._exit(status)


def _open_standard_descriptors() -> None:
    """Nobody reads or writes them where they were closed; but a socket in their place would be taken for them."""
    with suppress(OSError):
        while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
            pass
        os.close(fd)
        sys.stdout = sys.stdout or open(_STDOUT, "w", encoding="utf-8")  # noqa: SIM115 - open to the end
        sys.stderr = sys.stderr or open(_STDERR, "w", encoding="utf-8")  # noqa: SIM115


def command(arguments: list[str]) -> int:
    """Do what `arguments` ask for; the exit status."""
    chosen, options = SERVE, None
    if arguments not in ([], [chosen.name]):  # which needs no parser, and is in a hurry
        options = _parse(arguments)
        if options.example_env:
            from .config.reference import example_env  # noqa: PLC0415

            print(example_env(), end="")
            return OK
        if options.completion:
            return _complete(options.completion)
        chosen = options.command
    try:
        return chosen.run(options)
    except Exception as error:
        from .config.settings import ConfigError  # noqa: PLC0415 - the signals come first

        if isinstance(error, ConfigError):
            return _refuse(error)
        raise


def _refuse(error: "ConfigError") -> int:
    count = len(error.problems)
    print(f"gomodel: the configuration has {count} problem{'s' if count > 1 else ''}:", file=sys.stderr)
    for problem in error.problems:
        print(f"  {problem}", file=sys.stderr)
    for hint in error.hints:
        print(f"warning: {hint}", file=sys.stderr)
    return CONFIG_ERROR


def _complete(shell: str) -> int:
    """Print the completion script of a shell."""
    try:
        import shtab  # noqa: PLC0415 - an extra, and of use once
    except ImportError:
        print("gomodel: --completion needs shtab; pip install 'gomodel[completion]' brings it", file=sys.stderr)
        return FAILED
    print(shtab.complete(command_line(), shell))
    return OK


def _parse(arguments: list[str]) -> "Namespace":
    """What `arguments` ask for; `command` is a Command."""
    parser = command_line()
    arguments = _named(arguments)
    if arguments[0] != "demo" and any(each.partition("=")[0] in _OF_DEMO for each in arguments):
        parser.error("--rate and --port go with demo; the port to serve on is set with PORT")
    return parser.parse_args(arguments)


def command_line() -> "ArgumentParser":
    """What reads the command line, with every subcommand."""
    from argparse import ArgumentParser, RawDescriptionHelpFormatter  # noqa: PLC0415

    from .commands.table import COMMANDS  # noqa: PLC0415

    class Parser(ArgumentParser):
        of: Command | None = None

        def error(self, message: str) -> NoReturn:
            self.exit(WRONG_USE, f"{self.prog}: {message}\nFor what it takes: {self.prog} --help\n")

        def format_help(self) -> str:
            if self.of is not None and self.of.epilog is not None:
                self.epilog = self.of.epilog()
            return super().format_help()

    look = RawDescriptionHelpFormatter
    parser = Parser(
        prog="gomodel",
        usage="gomodel [OPTION] [COMMAND ...]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=look,
    )
    parser.set_defaults(command=SERVE)
    named = parser.add_subparsers(title="commands", metavar="COMMAND", prog="gomodel")
    for each in COMMANDS:
        summary = f"{each.summary[0].upper()}{each.summary[1:]}."
        own = named.add_parser(each.name, help=each.summary, description=summary, formatter_class=look)
        own.of = each
        each.arguments(own)
        own.set_defaults(command=each)
    parser.add_argument("--example-env", action="store_true", help="print a .env file with every variable")
    parser.add_argument(
        "--completion", choices=SHELLS, metavar="SHELL", help=f"print what completes this in {', '.join(SHELLS)}"
    )
    parser.add_argument("--version", action="version", version=f"gomodel {build()}")
    return parser


def _named(arguments: list[str]) -> list[str]:
    """`arguments` with a command in front where 0.1 took a flag for it, in any place: `--rate 5 --demo`."""
    for each in _FLAGS:
        if arguments[0].startswith("-") and f"--{each}" in arguments:
            at = arguments.index(f"--{each}")
            return [each, *arguments[:at], *arguments[at + 1 :]]
    return arguments


if __name__ == "__main__":
    main()
