"""`gomodel replay`: its options, and with which key a recording is sent as load."""

import os
import sys
from typing import TYPE_CHECKING

from .arguments import address, number
from .command import FAILED, INTERRUPTED, OK, WRONG_USE, Command

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace


def _run(options: "Namespace | None") -> int:
    from pathlib import Path  # noqa: PLC0415

    from ..config.settings import Secret  # noqa: PLC0415
    from ..doctor.places import key_in, place_of  # noqa: PLC0415
    from ..recording.command import Refused, as_load, replay  # noqa: PLC0415

    assert options is not None
    directory, (host, port) = Path(options.directory), options.listen
    source = f"--key-file {options.key_file}"
    try:
        if options.as_load is None:
            replay(directory, host, port, options.speed, any_body=options.any_body)
            return OK
        given = os.environ.get("OPENAI_API_KEY") or os.environ.get("GOMODEL_MASTER_KEY")
        key = Secret(given) if given else None
        try:
            if options.key_file:
                key = key_in(Path(options.key_file))
            source = "--as-load"
            place = place_of(options.as_load, key)
        except ValueError as error:
            print(f"gomodel replay: {source}: {error}", file=sys.stderr)
            return WRONG_USE
        return OK if as_load(directory, place, options.speed) else FAILED
    except Refused as refused:
        print(f"gomodel replay: {refused}", file=sys.stderr)
        return FAILED
    except OSError as error:
        print(f"gomodel replay: {source}: {error.strerror}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED


def _options(parser: "ArgumentParser") -> None:
    add = parser.add_argument
    add("directory", metavar="DIR", help="of a recording, or its file")
    add("--speed", type=number(float, 1e6), default=1, metavar="N", help="times as fast; 0: no pauses")
    add("--listen", type=address, default=("127.0.0.1", 8000), metavar="HOST:PORT", help="(default 127.0.0.1:8000)")
    add("--any-body", action="store_true", help="answer by method and path where no body fits")
    add("--as-load", metavar="URL", help="send what was asked to this gateway instead")
    add("--key-file", metavar="FILE", help="its key (default: OPENAI_API_KEY, the master key)")


def _epilog() -> str:
    return """\
A vLLM that answers as recorded, byte for byte and at the recorded pace, what is
asked to the byte as then; anything else is 404. With --as-load the requests are
sent at their recorded times, and what came is summed up.

exit status: 0; with --as-load 1 when something failed that had not
"""


REPLAY = Command("replay", "answer, or ask, as a recording says", _run, _options, _epilog)
