"""The releases before this one, as processes: who is told to end, who is no more, and what is handed on."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from gomodel.process import elders
from gomodel.process.elders import Elders

SIGNALS = "import os, signal; print(signal.sigwait({signal.SIGTERM, signal.SIGINT}).name, flush=True)\n"


class Sent(list[tuple[int, int]]):
    """The signals that were sent, with the descriptor of whom they were sent to."""


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    found = Sent()
    monkeypatch.setattr(elders.signal, "pidfd_send_signal", lambda fd, number: found.append((fd, number)))
    return found


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Three that run until their standard input is closed."""
    found = [subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    yield found
    for each in found:
        each.communicate()


def end(process: subprocess.Popen[bytes], fd: int) -> None:
    """It has ended, and nobody has asked how."""
    process.kill()
    os.waitid(os.P_PIDFD, fd, os.WEXITED | os.WNOWAIT)


def test_the_newest_that_runs_is_told_and_tells_the_others(
    processes: list[subprocess.Popen[bytes]], sent: Sent, caplog: pytest.LogCaptureFixture
) -> None:
    fds = [os.pidfd_open(each.pid) for each in processes]
    found = Elders(zip(fds, [each.pid for each in processes], strict=True))
    assert found.running == [each.pid for each in processes]
    found.order("drain")
    end(processes[0], fds[0])
    assert found.running == [each.pid for each in processes[1:]]
    found.order("abort")
    assert sent == [(fds[0], signal.SIGTERM), (fds[1], signal.SIGTERM), (fds[1], signal.SIGINT)]
    found.lost()
    assert f"still runs (process {processes[1].pid}, {processes[2].pid})" in caplog.text
    found.forget(fds[1])
    found.forget(fds[1])
    assert found.running == [processes[2].pid]
    end(processes[2], fds[2])
    found.order("drain")
    assert len(sent) == 3
    assert list(found.known) == [fds[0], fds[2]]
    found.close()
    assert not found.known
    for fd in fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_one_that_ends_in_good_order_leaves_nobody(
    processes: list[subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    fds = [os.pidfd_open(each.pid) for each in processes[:2]]
    found = Elders(zip(fds, [each.pid for each in processes[:2]], strict=True))
    end(processes[1], fds[1])
    found.lost()  # and its process is about to end
    assert caplog.text == ""
    found.close()
    found.lost()
    found.order("drain")


def test_this_process_and_those_before_it_are_handed_on(processes: list[subprocess.Popen[bytes]]) -> None:
    fd = os.pidfd_open(processes[0].pid)
    found = Elders([(fd, processes[0].pid)])
    with found.handed_on() as given:
        assert [pid for _, pid in given] == [os.getpid(), processes[0].pid]
        assert fd not in dict(given)
        heir = Elders([(os.dup(copy), pid) for copy, pid in given])
    for copy, _ in given:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(copy)
    assert heir.running == [os.getpid(), processes[0].pid]
    heir.close()
    found.close()
    with Elders([(1_000_000, processes[0].pid)]).handed_on() as given:  # it is forgotten at this moment
        assert [pid for _, pid in given] == [os.getpid()]


def test_where_the_kernel_has_no_such_descriptors_nothing_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(elders.os, "pidfd_open", none)
    with Elders().handed_on() as given:
        assert given == []


def test_a_process_gets_the_signal_that_is_meant_for_it() -> None:
    code = f"import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {{15, 2}}); print(flush=True)\n{SIGNALS * 2}"
    with subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = Elders([(os.pidfd_open(process.pid), process.pid)])
        found.order("abort")
        assert sorted(process.stdout.read().split()) == [b"SIGINT", b"SIGTERM"]
        found.close()
