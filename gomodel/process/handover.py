"""What a gateway says to the release that takes over from it, and that one to it.

Decides how both find each other, how listening sockets are named, and the messages between them. The two may be of
different releases: what is said is JSON, and what one does not know it leaves alone. Sockets are inherited, and named
by their numbers in _GOMODEL_HANDOVER beside that of the socket that joins the two and those of the processes before.

From the old one: ("go", numbers), when it takes no more clients; ("answer", number, numbers); ("numbers", numbers), its
last ones. From the new one: ("ready", indices of the listeners that it leaves alone), when it takes clients;
("question", number); ("drain",) and ("abort",), when it is told to end. `numbers` is a snapshot of the metrics.
"""

import json
import os
import socket
from collections.abc import Iterable, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from ..balancing import rotation
from ..config.settings import Config, ConfigError
from ..host.listeners import Listener
from ..host.taken_over import Held, TakenOver
from .elders import Elders
from .orders import HEADER_BYTES, Line, Message
from .reload import cut_short, opened

# Not one of the configuration.
VARIABLE = "_GOMODEL_HANDOVER"
# Of another process, or said to be for another one.
_NOT_INHERITED = (VARIABLE, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID")
# For the last numbers to be read.
_FAREWELL_S = 1.0


class Between(Line):
    """One end of the socket between the two."""

    @staticmethod
    def encoded(message: Message) -> bytes:
        """A message as it travels."""
        data = json.dumps(message).encode()
        return len(data).to_bytes(HEADER_BYTES, "big") + data

    decoded = staticmethod(json.loads)

    def finish(self, *message: Any) -> None:
        """Say the last thing, which is waited for, and close."""
        with suppress(OSError):
            self._sock.settimeout(_FAREWELL_S)
            self._sock.sendall(bytes(self._unsent) + self.encoded(message))
        self.close()


def offer(
    line: int,
    listeners: Iterable[Listener],
    config: Config,
    *,
    activated: bool,
    elders: Sequence[tuple[int, int]] = (),
) -> str:
    """The value of VARIABLE: `line` is the new one's end; `activated`: systemd made the sockets; `elders` as known."""
    return json.dumps(
        {
            "line": line,
            "listeners": [[each.sock.fileno(), each.file and each.file[1:]] for each in listeners],
            "activated": activated,
            "master_key": bool(config.master_keys),
            "keys_file": config.keys is not None,
            "assumed": any(each.assumed for each in config.instances),
            "files": {"dotenv": config.dotenv, "dotenv_ended": config.dotenv_ended, "ended": dict(config.ended)},
            "out_of_rotation": rotation.shared.all(),
            "elders": elders,
        }
    )


def environment(environ: MutableMapping[str, str], offered: str) -> dict[str, str]:
    """The new one's environment."""
    return {name: value for name, value in environ.items() if name not in _NOT_INHERITED} | {VARIABLE: offered}


@dataclass(slots=True)
class Taken:
    """What the new one was given."""

    line: Between
    held: TakenOver
    activated: bool
    elders: Elders
    _all: Sequence[Held]
    _master_key: bool
    _keys_file: bool
    _assumed: bool
    _files: dict[str, Any]

    def remembered(self, config: Config) -> Config:
        """`config`, but of files that were as whole as those that the old one has read."""
        return replace(config, **self._files)

    def check(self, config: Config) -> None:
        """Raises ConfigError where `config` lets in everybody, asks a server that nobody named, or is of files that may
        be cut short, and that of the old one is not, as at a reload.
        """
        problems = opened(config, master_key=self._master_key, keys_file=self._keys_file)
        if not self._assumed and any(each.assumed for each in config.instances):
            problems.append("no VLLM_BASE_URL is set any more; set it, or restart to serve the default")
        problems += cut_short(config, self.remembered(config))
        if problems:
            raise ConfigError(problems)

    def ready(self) -> None:
        """Clients are taken; the sockets that are not wanted are given up."""
        left = [index for index, each in enumerate(self._all) if each in self.held.left]
        for each in self.held.left:
            each.sock.close()
        self.line.send("ready", left)


def taken(environ: MutableMapping[str, str]) -> Taken | None:
    """What another gateway hands over to this process; None where it was started by itself."""
    said = environ.pop(VARIABLE, None)
    if said is None:
        return None
    offered = json.loads(said)
    for instance, out in offered["out_of_rotation"].items():
        rotation.shared.put(instance, out)
    held = [Held(_socket(fd), file and (file[0], file[1])) for fd, file in offered["listeners"]]
    had = offered["master_key"], offered["keys_file"], offered["assumed"]
    whole = offered.get("files", {})  # which a release before this one does not say
    files = {name: whole[name] for name in ("dotenv", "dotenv_ended", "ended") if name in whole}
    line = Between(_socket(offered["line"]))
    elders = offered.get("elders", [])  # as above
    for fd, _ in elders:
        os.set_inheritable(fd, False)
    return Taken(line, TakenOver(held), offered["activated"], Elders(elders), held, *had, files)


def _socket(fd: int) -> socket.socket:
    os.set_inheritable(fd, False)
    return socket.socket(fileno=fd)
