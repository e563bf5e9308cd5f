"""`gomodel doctor`: its options, and what its exit status says."""

import os
import sys
from typing import TYPE_CHECKING

from .arguments import number
from .command import FAILED, INTERRUPTED, OK, WRONG_USE, Command

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _run(options: "Namespace | None") -> int:
    from pathlib import Path  # noqa: PLC0415

    from ..config.load import load  # noqa: PLC0415
    from ..doctor.command import Asked, Refused, WrongUse, doctor  # noqa: PLC0415
    from ..doctor.examination import Effort  # noqa: PLC0415

    assert options is not None
    effort = Effort(idle_s=options.idle, large_bytes=int(options.large * (1 << 20)))
    key_file = Path(options.key_file) if options.key_file else None
    asked = Asked(
        options.through or (), options.instance, options.model, key_file, options.insecure, options.json, effort
    )
    try:
        return OK if doctor(load(os.environ), asked) else FAILED
    except Refused as refused:
        print(f"gomodel doctor: {refused}", file=sys.stderr)
        return WRONG_USE if isinstance(refused, WrongUse) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _options(parser: "ArgumentParser") -> None:
    add = parser.add_argument
    add(
        "--through",
        metavar="URL",
        action="append",
        help="a gateway; again for each one before it (default: this host's)",
    )
    add("--instance", metavar="NAME", help="examine this instance alone")
    add("--model", metavar="NAME", help="what the gateway calls its model (default: by its list)")
    add("--key-file", metavar="FILE", help="the gateway's key (default: the master key's)")
    add("--insecure", action="store_true", help="take any certificate of the gateway")
    add(
        "--idle",
        type=number(float, 86400),
        default=0,
        metavar="SECONDS",
        help="also ask for an answer that takes this",
    )
    add("--large", type=number(float, 1024), default=8, metavar="MIB", help="size of the large body (default 8)")
    add("--json", action="store_true", help="print JSON")


def _epilog() -> str:
    return """\
Asks each instance the same directly and through the gateway, and says what
differs, where, and what to change. Its report holds no key.

exit status: 0 when nothing is broken, 1 otherwise, 2 for wrong use
"""


DOCTOR = Command("doctor", "find what a gateway, or a proxy before it, breaks", _run, _options, _epilog)
