"""The subcommands: one row for each, with its options and what it does.

Decides what of the package each of them needs, and imports it when it is called for. Knows nothing of how the command
line is read, which is `__main__`'s.
"""

import gc
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from .host.signals import Signals

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Callable

OK = 0
FAILED = 1
WRONG_USE = 2
CONFIG_ERROR = 64  # EX_USAGE of sysexits.h
INTERRUPTED = 130

# What a client or an instance that leaves looks like while nobody reads from it is Linux' alone (`kernel`); elsewhere
# slots on GPUs would be kept for clients that are gone.
_NOT_LINUX = "gomodel runs on Linux; this is {}. Elsewhere use its container image: see docs/deploy.md."
# How each shell completes the name of a file, for --completion.
_A_FILE = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}
_SERVE = """\
variables most used, over a file .env (gomodel --example-env explains them all):
{variables}

signals:
  SIGTERM, SIGINT  let running requests end, then exit; a second one aborts them
  SIGHUP           read the configuration again; no connection is dropped
  SIGUSR1          log how busy the gateway is
  SIGUSR2          let the installed release take over; no client notices

exit status:
  0      ended after a drain
  1      cannot listen, or no worker stays up
  2, 64  wrong use of the command line; problems of the configuration, listed
  128+n  a second signal n aborted running requests (130 SIGINT, 143 SIGTERM)
"""


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


def _variables() -> str:
    from .config.reference import first_names  # noqa: PLC0415

    return _SERVE.format(variables=first_names())


def serve(options: "Namespace | None" = None) -> int:
    """Serve what the environment describes until told to end."""
    if sys.platform != "linux":
        return _refuse_platform()
    signals = _signals()
    from .config.load import load  # noqa: PLC0415 - the signals come first

    config = load(os.environ)
    from .upstream.root_certificates import postponed  # noqa: PLC0415

    with postponed():
        from .process.start import start  # noqa: PLC0415

    return start(config, lambda files: load(os.environ, files=files), signals)


def _check(options: "Namespace | None") -> int:
    if sys.platform != "linux":
        return _refuse_platform()
    from .config.load import load  # noqa: PLC0415

    try:
        config = load(os.environ)
        from .process.check import check  # noqa: PLC0415

        beside = ""
        if config.batches.on:
            from .batches.database_check import database_problem  # noqa: PLC0415 - who has none does not pay for it

            beside = database_problem(config.batches)
        return OK if check(config, beside) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _demo(options: "Namespace | None") -> int:
    if sys.platform != "linux":
        return _refuse_platform()
    signals = _signals()
    from .demo import start_demo  # noqa: PLC0415 - the signals come first

    assert options is not None
    return start_demo(signals, options.rate, options.port)


def _demo_options(parser: "ArgumentParser") -> None:
    parser.add_argument(
        "--rate", type=_number(float, float("inf")), metavar="N", help="tokens per second of a stream (default 25)"
    )
    parser.add_argument(
        "--port", type=_number(int, 1 << 16), metavar="N", help="port to listen on (default: PORT, or 8080)"
    )


def _batch(options: "Namespace | None") -> int:
    assert options is not None
    from pathlib import Path  # noqa: PLC0415

    from .batches.command import Asked, batch  # noqa: PLC0415
    from .config.load import load  # noqa: PLC0415

    url, key = options.url or os.environ.get("OPENAI_BASE_URL"), os.environ.get("OPENAI_API_KEY")
    if url is None or key is None:
        config = load(os.environ)  # of the gateway on this host
        if url is None and config.port is None:
            print("gomodel batch: --url is needed: the gateway on this host listens on a unix socket", file=sys.stderr)
            return FAILED
        scheme = "http" if config.certificate is None else "https"
        url = url or f"{scheme}://localhost:{config.port}{config.base_path}/v1"
        key = key or (config.master_keys[0].reveal() if config.master_keys else "")
    url = url.rstrip("/")
    if not url.endswith("/v1"):
        url += "/v1"
    return batch(Asked(Path(options.file), Path(options.out), url, key, options.window))


def _batch_options(parser: "ArgumentParser") -> None:
    file = parser.add_argument(
        "file", metavar="FILE", help="requests as JSON lines, as OpenAI's batches or vllm run-batch have them"
    )
    out = parser.add_argument(
        "--out", metavar="RESULT", required=True, help="file for the answers; lines that it has are not run"
    )
    file.complete = out.complete = _A_FILE  # type: ignore[attr-defined]
    parser.add_argument(
        "--url", metavar="URL", help="base URL of the gateway (default: OPENAI_BASE_URL, or the gateway on this host)"
    )
    parser.add_argument("--window", metavar="DURATION", default="24h", help="give up after this time (default 24h)")


def _batch_epilog() -> str:
    return """\
The gateway needs GOMODEL_DATA_DIR. The key is that of OPENAI_API_KEY, or the
gateway's own on this host. Ctrl-C keeps what is done, a
second one leaves the batch to the gateway; the same command again goes on.

exit status: 0 when each line was answered with success, 1 otherwise,
130 after Ctrl-C
"""


def _number(kind: type[float], limit: float) -> "Callable[[str], float]":
    def number(text: str) -> float:
        value = kind(text)
        if not 0 <= value < limit:
            raise ValueError
        return value

    return number


def _signals() -> Signals:
    """Take the signals over, before anything that takes time."""
    signals = Signals()
    signals.install()
    # What a start-up makes exists for good; looking for garbage among it takes time. `Serving` turns it on again.
    gc.disable()
    return signals


def _refuse_platform() -> int:
    print(_NOT_LINUX.format(sys.platform), file=sys.stderr)
    return FAILED


def _usage(options: "Namespace | None") -> int:
    from .config.load import load  # noqa: PLC0415
    from .process.usage_report import report  # noqa: PLC0415

    assert options is not None
    asked = {"by": options.by, "from": options.since, "to": options.until}
    try:
        done = report(load(os.environ), options.url, asked, as_csv=options.csv)
        sys.stdout.flush()
        return OK if done else FAILED
    except BrokenPipeError:  # as of `| head`, which has what it wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED


def _usage_options(parser: "ArgumentParser") -> None:
    parser.add_argument("--by", default="key,model,instance", metavar="LIST", help="of key, model, instance (all)")
    parser.add_argument("--from", dest="since", metavar="TIME", help="such as 2027-01-31 (needs GOMODEL_DATA_DIR)")
    parser.add_argument("--to", dest="until", metavar="TIME", help="the same")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    parser.add_argument("--url", metavar="URL", help="where the gateway is (default: what the environment describes)")


def _new_key(options: "Namespace | None") -> int:
    from .access.new_key import new_key  # noqa: PLC0415
    from .config.keys_file import checked_name  # noqa: PLC0415

    assert options is not None
    try:
        new_key(checked_name(options.name))
    except ValueError as error:
        print(f"gomodel new-key: {options.name!r} cannot be a key's name: {error}", file=sys.stderr)
        return WRONG_USE
    return OK


def _new_key_options(parser: "ArgumentParser") -> None:
    parser.add_argument("name", metavar="NAME", help="who gets it, as logs and metrics will say")


def _doctor(options: "Namespace | None") -> int:
    from pathlib import Path  # noqa: PLC0415

    from .config.load import load  # noqa: PLC0415
    from .doctor.command import Asked, Refused, WrongUse, doctor  # noqa: PLC0415
    from .doctor.examination import Effort  # noqa: PLC0415

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


def _doctor_options(parser: "ArgumentParser") -> None:
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
        type=_number(float, 86400),
        default=0,
        metavar="SECONDS",
        help="also ask for an answer that takes this",
    )
    add("--large", type=_number(float, 1024), default=8, metavar="MIB", help="size of the large body (default 8)")
    add("--json", action="store_true", help="print JSON")


def _doctor_epilog() -> str:
    return """\
Asks each instance the same directly and through the gateway, and says what
differs, where, and what to change. Its report holds no key.

exit status: 0 when nothing is broken, 1 otherwise, 2 for wrong use
"""


def _record(options: "Namespace | None") -> int:
    from pathlib import Path  # noqa: PLC0415

    from .config.load import load  # noqa: PLC0415
    from .doctor.places import of_instance, place_of  # noqa: PLC0415
    from .recording.command import Recording, Refused, record  # noqa: PLC0415

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


def _record_options(parser: "ArgumentParser") -> None:
    add = parser.add_argument
    add("directory", metavar="DIR", help="where a file of what passes is made")
    add("--to", metavar="URL", help="where it goes (default: the first instance)")
    add("--listen", type=_address, default=("127.0.0.1", 8090), metavar="HOST:PORT", help="(default 127.0.0.1:8090)")
    add("--limit", type=_number(float, 1 << 40), default=1024, metavar="MIB", help="size of the file (default 1024)")


def _record_epilog() -> str:
    return """\
A relay of its own, to be set between: as VLLM_BASE_URL of a gateway, or as the
base URL of clients. No byte is changed. Keys and cookies are not recorded;
prompts and answers are, readable by you alone. At the limit, or where the disk
is full, recording ends and what passes still passes. Ctrl-C ends it.

exit status: 0, or 1 when it cannot listen or write
"""


def _replay(options: "Namespace | None") -> int:
    from pathlib import Path  # noqa: PLC0415

    from .config.settings import Secret  # noqa: PLC0415
    from .doctor.places import key_in, place_of  # noqa: PLC0415
    from .recording.command import Refused, as_load, replay  # noqa: PLC0415

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


def _replay_options(parser: "ArgumentParser") -> None:
    add = parser.add_argument
    add("directory", metavar="DIR", help="of a recording, or its file")
    add("--speed", type=_number(float, 1e6), default=1, metavar="N", help="times as fast; 0: no pauses")
    add("--listen", type=_address, default=("127.0.0.1", 8000), metavar="HOST:PORT", help="(default 127.0.0.1:8000)")
    add("--any-body", action="store_true", help="answer by method and path where no body fits")
    add("--as-load", metavar="URL", help="send what was asked to this gateway instead")
    add("--key-file", metavar="FILE", help="its key (default: OPENAI_API_KEY, the master key)")


def _replay_epilog() -> str:
    return """\
A vLLM that answers as recorded, byte for byte and at the recorded pace, what is
asked to the byte as then; anything else is 404. With --as-load the requests are
sent at their recorded times, and what came is summed up.

exit status: 0; with --as-load 1 when something failed that had not
"""


def _address(text: str) -> tuple[str, int]:
    """HOST:PORT, or PORT alone."""
    host, _, port = text.rpartition(":")
    number = int(port)
    if not 0 <= number < 1 << 16:
        raise ValueError
    return host.strip("[]") or "127.0.0.1", number


# The first is meant where none is named.
COMMANDS = (
    Command("serve", "serve what the environment describes (default)", serve, epilog=_variables),
    Command("check", "check the configuration, and ask every instance once", _check),
    Command("demo", "serve in front of a simulated vLLM: no GPU, no key", _demo, _demo_options),
    Command("doctor", "find what a gateway, or a proxy before it, breaks", _doctor, _doctor_options, _doctor_epilog),
    Command("record", "write down what passes between clients and a server", _record, _record_options, _record_epilog),
    Command("replay", "answer, or ask, as a recording says", _replay, _replay_options, _replay_epilog),
    Command("usage", "print who used how many tokens", _usage, _usage_options),
    Command("new-key", "print a new key once, and its entry for the keys file", _new_key, _new_key_options),
    Command("batch", "run a file of requests by a gateway", _batch, _batch_options, _batch_epilog),
)
