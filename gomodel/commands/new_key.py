"""`gomodel new-key`: its options, and which names a key may have."""

import sys
from typing import TYPE_CHECKING

from .command import OK, WRONG_USE, Command

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _run(options: "Namespace | None") -> int:
    from ..access.new_key import new_key  # noqa: PLC0415
    from ..config.keys_file import checked_name  # noqa: PLC0415

    assert options is not None
    try:
        new_key(checked_name(options.name))
    except ValueError as error:
        print(f"gomodel new-key: {options.name!r} cannot be a key's name: {error}", file=sys.stderr)
        return WRONG_USE
    return OK


def _options(parser: "ArgumentParser") -> None:
    parser.add_argument("name", metavar="NAME", help="who gets it, as logs and metrics will say")


NEW_KEY = Command("new-key", "print a new key once, and its entry for the keys file", _run, _options)
