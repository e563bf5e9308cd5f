"""What the supervisor does with what a worker said before it was gone; processes are in test_workers."""

import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from gomodel.config.load import from_environ
from gomodel.host.signals import Signals
from gomodel.host.systemd import Notifier
from gomodel.process.orders import Line, encoded
from gomodel.process.supervisor import Supervisor
from gomodel.process.workers import Worker

from ...harness.gateway import DEFAULTS

NUMBERS = {"gomodel_upstream_retries_total": [(("vllm",), 7)], "gomodel_requests_in_flight": [(("vllm",), 1)]}


class Workers:
    """A supervisor of two workers that are nothing but the other ends of their lines."""

    def __init__(self) -> None:
        config = from_environ({**DEFAULTS, "GOMODEL_WORKERS": "2"})
        self.supervisor = Supervisor(config, lambda: config, Signals(), Notifier({}))
        self.supervisor._ending.begun = True  # nobody takes the place of one that is gone
        self.workers: list[Worker] = []
        self.ends: list[socket.socket] = []
        for place in self.supervisor._crew._restarts.places:
            ours, theirs = socket.socketpair()
            line = Line(ours)
            worker = Worker(place, place.index, line)
            self.supervisor._workers.running.append(worker)
            self.supervisor._selector.register(line, selectors.EVENT_READ, worker)
            self.supervisor._switchboard.join(line)
            self.workers.append(worker)
            self.ends.append(theirs)

    def turn(self) -> None:
        """Acts on what has happened, and waits for nothing."""
        self.supervisor._feed_at = 0.0
        self.supervisor._turn()

    def told(self, at: int) -> list[Any]:
        line = Line(self.ends[at].dup())
        try:
            return line.receive()
        finally:
            line.close()


@pytest.fixture
def two() -> Iterator[Workers]:
    made = Workers()
    yield made
    made.supervisor._release()
    for end in made.ends:
        end.close()


def test_the_last_words_of_a_worker_count_when_its_end_is_noticed_first(two: Workers) -> None:
    two.ends[0].sendall(encoded(("numbers", NUMBERS)))
    two.ends[0].close()
    two.supervisor._crew.lost(two.workers[0], 0)
    two.ends[1].sendall(encoded(("ask", 1, "metrics", NUMBERS)))
    two.turn()
    [(_, _, snapshots)] = two.told(1)
    found = [number for each in snapshots for _, number in each["gomodel_upstream_retries_total"]]
    assert sum(found) == 14
    assert sum(len(each.get("gomodel_requests_in_flight", [])) for each in snapshots) == 1


def test_a_question_to_a_worker_that_dies_over_it_is_over_at_once(two: Workers) -> None:
    two.ends[1].sendall(encoded(("ask", 1, "requests", None)))
    two.turn()
    assert two.told(1) == []
    two.ends[0].close()
    two.turn()
    assert two.told(1) == [("answers", 1, [])]


def test_a_worker_that_reads_late_gets_what_waited_for_it(two: Workers) -> None:
    padding = "x" * 3_000_000
    two.supervisor._workers.order("reload", padding)
    received: list[object] = []
    reader = Line(two.ends[0].dup())
    for _ in range(100):
        received += reader.receive()
        two.turn()
    reader.close()
    assert received == [("reload", padding)]
