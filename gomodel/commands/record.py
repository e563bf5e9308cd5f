"""`gomodel record`: its options, and where what is recorded goes."""

import os
import sys
from typing import TYPE_CHECKING

from .arguments import address, number
from .command import FAILED, OK, WRONG_USE, Command

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _run(options: "Namespace | None") -> int:
    from pathlib import Path  # noqa: PLC0415

    from ..config.load import load  # noqa: PLC0415
    from ..doctor.places import of_instance, place_of  # noqa: PLC0415
    from ..recording.command import Recording, Refused, record  # noqa: PLC0415

    assert options is not None
    try:
        to = place_of(options.to, None) if options.to else of_instance(load(os.environ).instances[0])
    except ValueError as error:
        print(f"gomodel record: --to: {error}", file=sys.stderr)
        return WRONG_USE
    host, port = options.listen
    try:
        record(Recording(Path(options.directory), to, host, port, int(options.limit * (1 << 20))))
    except Refused as refused:
        print(f"gomodel record: {refused}", file=sys.stderr)
        return FAILED
    return OK


def _options(parser: "ArgumentParser") -> None:
    add = parser.add_argument
    add("directory", metavar="DIR", help="where a file of what passes is made")
    add("--to", metavar="URL", help="where it goes (default: the first instance)")
    add("--listen", type=address, default=("127.0.0.1", 8090), metavar="HOST:PORT", help="(default 127.0.0.1:8090)")
    add("--limit", type=number(float, 1 << 40), default=1024, metavar="MIB", help="size of the file (default 1024)")


def _epilog() -> str:
    return """\
A relay of its own, to be set between: as VLLM_BASE_URL of a gateway, or as the
base URL of clients. No byte is changed. Keys and cookies are not recorded;
prompts and answers are, readable by you alone. At the limit, or where the disk
is full, recording ends and what passes still passes. Ctrl-C ends it.

exit status: 0, or 1 when it cannot listen or write
"""


RECORD = Command("record", "write down what passes between clients and a server", _run, _options, _epilog)
