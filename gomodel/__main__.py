"""The command line: what `python -m gomodel` can be asked for, and its exit statuses.

Imports what a request for help or for the version does not need only when it is needed, and takes over the signals
before anything that takes time.
"""

import gc
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from .host.signals import Signals
from .version import VERSION

if TYPE_CHECKING:
    from argparse import Namespace
    from collections.abc import Callable

    from .config.settings import ConfigError

OK = 0
FAILED = 1
CONFIG_ERROR = 64  # EX_USAGE of sysexits.h
INTERRUPTED = 130
_STDOUT, _STDERR = 1, 2

# What a client or an instance that leaves looks like while nobody reads from it is Linux' alone (`kernel`); elsewhere
# slots on GPUs would be kept for clients that are gone.
_NOT_LINUX = "gomodel runs on Linux; this is {}. Elsewhere use its container image: see docker/ and README.md."
_DESCRIPTION = "A streaming gateway in front of vLLM. Without an option it serves what the environment describes."
_EPILOG = """\
The configuration is read from the environment, over a file .env in the working directory. Most used:
{variables}
VLLM_<NAME>_BASE_URL, VLLM_<NAME>_API_KEY and so on describe further instances, vllm-<name>. A key can stand in a file
that <its variable>_FILE names. --example-env prints all variables with their meaning and default.

signals:
  SIGTERM, SIGINT, SIGQUIT, SIGPWR
                            let running requests end, then exit; a second one aborts them
  SIGHUP                    read the configuration again, without dropping a connection; one that is bad, or that
                            lost the master key or the whole .env, is logged and the old one stays
  SIGUSR1                   log how busy the gateway is
  SIGTSTP (Ctrl-Z)          stop until SIGCONT, as any program
All others but those of a fault (SIGSEGV, SIGABRT ...) are ignored; SIGUSR2, too, with a line in the log.

exit status:
  0    ended after a drain, or the check found every instance well
  1    cannot listen, a worker cannot start or all keep dying, or the check found an instance that does not answer
  2    wrong use of the command line
  64   the configuration has problems; all of them are listed and nothing was bound
  128+n  signal n came a second time and aborted running requests (130: SIGINT, 143: SIGTERM)
"""


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
    options = _parse(arguments) if arguments else None
    if options is not None and options.example_env:
        from .config.reference import example_env  # noqa: PLC0415

        print(example_env(), end="")
        return OK
    if sys.platform != "linux":
        print(_NOT_LINUX.format(sys.platform), file=sys.stderr)
        return FAILED
    if options is not None and options.check:
        return _check()
    signals = Signals()
    signals.install()
    # What a start-up makes exists for good; looking for garbage among it takes time. `Serving` turns it on again.
    gc.disable()
    from .config.load import load  # noqa: PLC0415 - the signals come first
    from .config.settings import ConfigError  # noqa: PLC0415 - the signals come first

    try:
        if options is not None and options.demo:
            from .demo import start_demo  # noqa: PLC0415

            return start_demo(signals, options.rate, options.port)
        config = load(os.environ)
        from .upstream.root_certificates import postponed  # noqa: PLC0415

        with postponed():
            from .process.start import start  # noqa: PLC0415

        return start(config, lambda files: load(os.environ, files=files), signals)
    except ConfigError as error:
        return _refuse(error)


def _check() -> int:
    from .config.load import load  # noqa: PLC0415
    from .config.settings import ConfigError  # noqa: PLC0415

    try:
        config = load(os.environ)
        from .process.check import check  # noqa: PLC0415

        return OK if check(config) else FAILED
    except ConfigError as error:
        return _refuse(error)
    except KeyboardInterrupt:
        return INTERRUPTED


def _refuse(error: "ConfigError") -> int:
    count = len(error.problems)
    print(f"gomodel: the configuration has {count} problem{'s' if count > 1 else ''}:", file=sys.stderr)
    for problem in error.problems:
        print(f"  {problem}", file=sys.stderr)
    return CONFIG_ERROR


def _parse(arguments: list[str]) -> "Namespace":
    from argparse import ArgumentParser, RawDescriptionHelpFormatter  # noqa: PLC0415

    class Parser(ArgumentParser):
        def format_help(self) -> str:
            from .config.reference import help_text  # noqa: PLC0415

            self.epilog = _EPILOG.format(variables=help_text())
            return super().format_help()

    parser = Parser(prog="gomodel", description=_DESCRIPTION, formatter_class=RawDescriptionHelpFormatter)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true", help="check the configuration, ask every instance once, and exit")
    mode.add_argument(
        "--demo", action="store_true", help="serve in front of a simulated vLLM: no GPU, no model, no key"
    )
    mode.add_argument(
        "--example-env", action="store_true", help="print a .env file with every variable, its meaning and its default"
    )
    parser.add_argument(
        "--rate",
        type=_number(float, float("inf")),
        metavar="N",
        help="with --demo: tokens per second of a stream (default 25)",
    )
    parser.add_argument(
        "--port",
        type=_number(int, 1 << 16),
        metavar="N",
        help="with --demo: port to listen on (default: PORT, or 8080)",
    )
    parser.add_argument("--version", action="version", version=f"gomodel {VERSION}")
    options = parser.parse_args(arguments)
    if not options.demo and (options.rate is not None or options.port is not None):
        parser.error("--rate and --port go with --demo; the port to serve on is set with PORT")
    return options


def _number(kind: type[float], limit: float) -> "Callable[[str], float]":
    def number(text: str) -> float:
        value = kind(text)
        if not 0 <= value < limit:
            raise ValueError
        return value

    return number


if __name__ == "__main__":
    main()
