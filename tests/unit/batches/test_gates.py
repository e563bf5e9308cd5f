"""Which model's lines are slowed by what others get where, and how many lines its servers may have at once."""

import asyncio
from typing import Any

import pytest

from gomodel.batches.gates import Gates
from gomodel.batches.politeness import Pace, Pressure


class Told(Pace):
    """Notes what it is told of each second, and allows one line more each time."""

    def __init__(self) -> None:
        super().__init__(1)
        self.told: list[tuple[Pressure, float, bool]] = []

    def second(self, pressure: Pressure, now: float, *, used: bool) -> None:
        self.told.append((pressure, now, used))
        self.limit += 1


def gates(**servers: set[str]) -> tuple[Gates, dict[str, Told]]:
    """Five lines at once for each replica; the models and the servers that answered their lines."""
    made, paces = Gates(5), {}
    for model, names in servers.items():
        gate = made.of(model)
        gate.pace = paces[model] = Told()
        gate.servers |= names
    return made, paces


def test_a_model_has_one_gate_until_no_batch_runs():
    made = Gates(5)
    gate = made.of("m")
    assert made.of("m") is gate
    assert made.of("n") is not gate
    assert (gate.pace.limit, gate.pace.ceiling) == (1, 5)
    made.clear()
    assert made.of("m") is not gate


def test_a_model_hears_of_what_came_since_at_the_servers_that_answered_its_lines():
    made, paces = gates(m={"a", "b"}, n={"b"}, o={"gone"})
    made.adapt({"a": ((1, 2), 3.0, 0, 1), "b": ((10, 20), 30.0, 4, 1), "c": ((100, 200), 300.0, 50, 1)}, 7.0)
    made.adapt({"a": ((2, 4), 3.5, 1, 1), "b": ((15, 20), 32.0, 2, 1), "c": ((900, 900), 900.0, 0, 1)}, 8.0)
    assert paces["m"].told == [(Pressure((0, 0), 0.0, 4), 7.0, False), (Pressure((6, 2), 2.5, 3), 8.0, False)]
    assert paces["n"].told == [(Pressure((0, 0), 0.0, 4), 7.0, False), (Pressure((5, 0), 2.0, 2), 8.0, False)]
    assert paces["o"].told == [(Pressure((), 0, 0), 7.0, False), (Pressure((), 0, 0), 8.0, False)]


def test_what_a_worker_took_with_it_is_no_pressure_and_counts_on_from_there():
    made, paces = gates(m={"a"})
    for now, (counts, sum_s) in enumerate((((9, 5), 8.0), ((4, 6), 2.0), ((5, 6), 2.5))):
        made.adapt({"a": (counts, sum_s, 0, 1)}, float(now))
    assert [pressure for pressure, _, _ in paces["m"].told] == [
        Pressure((0, 0), 0.0, 0),
        Pressure((0, 1), 0.0, 0),
        Pressure((1, 0), 0.5, 0),
    ]


@pytest.mark.parametrize(
    ("servers", "ceiling"), [(set(), 5), ({"a"}, 5), ({"b"}, 15), ({"a", "b"}, 20), ({"none"}, 5), ({"gone"}, 5)]
)
def test_as_many_lines_may_run_as_its_servers_have_replicas(servers: set[str], ceiling: int):
    made, paces = gates(m=servers)
    said: dict[str, Any] = {"a": ((0,), 0.0, 0, 1), "b": ((0,), 0.0, 0, 3), "none": ((0,), 0.0, 0, 0)}
    made.adapt(said, 0.0)
    assert paces["m"].ceiling == ceiling


async def test_the_pace_hears_whether_a_line_had_to_wait_and_what_it_allows_goes_in():
    made, paces = gates(m={"a"})
    gate = made.of("m")
    lines = [asyncio.ensure_future(gate.enter()) for _ in range(4)]
    await asyncio.sleep(0)
    assert (gate.running, gate.waiting) == (1, 3)
    for running in (2, 3, 4, 4):
        made.adapt({}, 0.0)
        assert gate.running == running
    # What was kept back when the second began counts for it, though it has gone in since.
    assert [used for _, _, used in paces["m"].told] == [True, True, True, True]
    made.adapt({}, 0.0)
    assert not paces["m"].told[-1][2]
    await asyncio.gather(*lines)
