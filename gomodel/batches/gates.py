"""The gates of all models: how fast batches go, by what other requests at the same servers say each second.

Decides whose first bytes slow which model's lines: those at the servers that answered these lines.
"""

from typing import Any

from .gate import Gate
from .politeness import Pace, Pressure


class Gates:
    """One gate for each model that lines name."""

    def __init__(self, concurrency: int) -> None:
        """`concurrency`: lines at once per replica (BATCH_CONCURRENCY)."""
        self.concurrency = concurrency
        self._gates: dict[str, Gate] = {}
        self._totals: dict[str, tuple[tuple[int, ...], float]] = {}  # by server: first bytes so far, and their sum

    def of(self, model: str) -> Gate:
        """The gate of a model, made when it is first asked for."""
        gate = self._gates.get(model)
        if gate is None:
            gate = self._gates[model] = Gate(Pace(self.concurrency))
        return gate

    def clear(self) -> None:
        """No batch runs: what was learned of its pace is of no use to the next."""
        self._gates.clear()

    def adapt(self, said: dict[str, Any], now: float) -> None:
        """A second has passed. `said` is by server: first bytes of others so far, their sum, who waits, replicas."""
        pressures: dict[str, Pressure] = {}
        for server, (counts, sum_s, waiting, _) in said.items():
            before, before_s = self._totals.get(server, (counts, sum_s))
            # Less than before: a worker that had counted is gone.
            new = tuple(max(0, count - then) for count, then in zip(counts, before, strict=True))
            pressures[server] = Pressure(new, max(0.0, sum_s - before_s), waiting)
            self._totals[server] = counts, sum_s
        for gate in self._gates.values():
            theirs = [pressures[server] for server in gate.servers if server in pressures]
            replicas = sum(said[server][3] for server in gate.servers if server in said)
            gate.pace.ceiling = self.concurrency * max(1, replicas)
            whole = Pressure(
                tuple(map(sum, zip(*(each.counts for each in theirs), strict=True))),
                sum(each.sum_s for each in theirs),
                sum(each.waiting for each in theirs),
            )
            gate.pace.second(whole, now, used=gate.kept)
            gate.kept = bool(gate.waiting)
            gate.admit()
