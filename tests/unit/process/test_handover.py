"""What one release tells the next: sockets by their numbers, what it must not lose, and what is out of rotation."""

import json
import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from gomodel.balancing import rotation
from gomodel.config.load import from_environ
from gomodel.config.settings import ConfigError
from gomodel.host.listeners import Listener
from gomodel.process.handover import VARIABLE, Between, Taken, environment, offer, taken

OLD = {"VLLM_BASE_URL": "http://x/v1"}


@pytest.fixture
def sockets() -> Iterator[list[socket.socket]]:
    """Two listeners, and both ends of a line."""
    made = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    made += socket.socketpair()
    yield made
    for each in made:
        each.close()
    rotation.shared.clear()


def handed_over(
    sockets: list[socket.socket], files: dict[str, Any] | None = None, **environ: str
) -> tuple[Between, Taken]:
    """The old one's end, and what the new one has; descriptors are not inherited here but copied. `files`: how the old
    one had found them, which a release before this one does not say (None).
    """
    first, second, ours, theirs = sockets
    listeners = [Listener(first), Listener(second, file=("/x", 7, 8))]
    config = replace(from_environ({**OLD, **environ}), **(files or {}))
    said = json.loads(offer(theirs.fileno(), listeners, config, activated=False))
    if files is None:
        del said["files"]
    said["line"] = os.dup(said["line"])
    said["listeners"] = [[os.dup(fd), file] for fd, file in said["listeners"]]
    rotation.shared.clear()
    found = taken({VARIABLE: json.dumps(said)})
    assert found is not None
    return Between(ours.dup()), found


def test_who_was_started_by_itself_was_handed_nothing() -> None:
    assert taken({}) is None


def test_the_new_one_is_told_nothing_that_was_for_the_old_one() -> None:
    old = {
        "PATH": "/bin",
        VARIABLE: "{}",
        "LISTEN_PID": "1",
        "LISTEN_FDS": "1",
        "WATCHDOG_PID": "1",
        "WATCHDOG_USEC": "9",
    }
    assert environment(old, "x") == {"PATH": "/bin", "WATCHDOG_USEC": "9", VARIABLE: "x"}


def test_the_new_one_says_which_sockets_it_leaves_alone(sockets: list[socket.socket]) -> None:
    old, new = handed_over(sockets)
    assert [each.file for each in new.held.left] == [None, (7, 8)]
    name = sockets[0].getsockname()
    (kept,) = new.held.tcp(socket.AF_INET, *name)
    unwanted = new.held.left[0].sock
    new.ready()
    assert old.receive() == [["ready", [1]]]
    assert unwanted.fileno() == -1
    old.finish("numbers", {"a": [[["\ud800"], 1.5]]})
    assert new.line.receive() == [["numbers", {"a": [[["\ud800"], 1.5]]}]]
    for each in (kept, new.line):
        each.close()


def test_what_is_out_of_rotation_is_out_in_the_new_one(sockets: list[socket.socket]) -> None:
    rotation.shared.put("vllm", ["a:1"])
    old, new = handed_over(sockets)
    assert rotation.shared.all() == {"vllm": ["a:1"]}
    close(old, new)


@pytest.mark.parametrize(
    ("before", "now", "problem"),
    [
        ({}, OLD, ""),
        ({"GOMODEL_MASTER_KEY": "k"}, {**OLD, "GOMODEL_MASTER_KEY": "l"}, ""),
        ({"GOMODEL_MASTER_KEY": "k"}, OLD, "GOMODEL_MASTER_KEY was set and is gone"),
        ({"VLLM_BASE_URL": ""}, {}, ""),
        ({}, {}, "no VLLM_BASE_URL is set any more"),
    ],
)
def test_a_configuration_that_has_lost_what_protects_is_refused(
    sockets: list[socket.socket], before: dict[str, Any], now: dict[str, Any], problem: str
) -> None:
    old, new = handed_over(sockets, **before)
    if problem:
        with pytest.raises(ConfigError, match=problem):
            new.check(from_environ(now))
    else:
        new.check(from_environ(now))
    close(old, new)


@pytest.mark.parametrize(
    ("before", "now", "problem"),
    [
        ({"dotenv": True}, {"dotenv": True}, ""),
        ({"dotenv": True}, {"dotenv": True, "dotenv_ended": False}, "the last line of .env has lost its line end"),
        ({"dotenv": True, "dotenv_ended": False}, {"dotenv": True, "dotenv_ended": False}, ""),
        ({}, {"dotenv": True, "dotenv_ended": False}, ""),
        ({"dotenv": True}, {}, ".env was in use and is now missing"),
        (
            {"ended": {"K ('k')": True}},
            {"ended": {"K ('k')": False}},
            r"the last line of K \('k'\) has lost its line end",
        ),
        ({"ended": {"K ('k')": False}}, {"ended": {"K ('k')": False}}, ""),
        ({"ended": {"K ('k')": True}}, {"ended": {"K ('l')": False}}, ""),
        (None, {"dotenv": True, "dotenv_ended": False}, ""),
    ],
)
def test_a_file_that_may_be_cut_short_is_refused_as_at_a_reload(
    sockets: list[socket.socket], before: dict[str, Any] | None, now: dict[str, Any], problem: str
) -> None:
    old, new = handed_over(sockets, before)
    config = replace(from_environ(OLD), **now)
    if problem:
        with pytest.raises(ConfigError, match=problem):
            new.check(config)
    else:
        new.check(config)
    close(old, new)


def close(old: Between, new: Taken) -> None:
    old.close()
    new.line.close()
    for each in new.held.everything():
        each.close()
