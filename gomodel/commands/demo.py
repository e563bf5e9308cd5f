"""`gomodel demo`: serving in front of a simulated vLLM."""

from typing import TYPE_CHECKING

from .arguments import number
from .command import FAILED, Command
from .serve import on_linux, take_signals

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _run(options: "Namespace | None") -> int:
    if not on_linux():
        return FAILED
    signals = take_signals()
    from ..demo import start_demo  # noqa: PLC0415 - the signals come first

    assert options is not None
    return start_demo(signals, options.rate, options.port)


def _options(parser: "ArgumentParser") -> None:
    parser.add_argument(
        "--rate", type=number(float, float("inf")), metavar="N", help="tokens per second of a stream (default 25)"
    )
    parser.add_argument(
        "--port", type=number(int, 1 << 16), metavar="N", help="port to listen on (default: PORT, or 8080)"
    )


DEMO = Command("demo", "serve in front of a simulated vLLM: no GPU, no key", _run, _options)
