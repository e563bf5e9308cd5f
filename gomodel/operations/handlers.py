"""The handlers for operators: readiness, metrics, the lists of running requests and of keys.

Decides whom to ask: this process alone about readiness, all workers about the rest. What is said is decided in
`readiness`, `metrics`, `requests`, `usage` and `keys`.
"""

import asyncio
import json
from collections.abc import Callable, Iterable
from time import monotonic, time
from typing import Any

from ..access.callers import Callers
from ..access.slots import Slots
from ..balancing import rotation
from ..balancing.instances import Providers
from ..balancing.model_lists import ModelLists
from ..downstream.request import Handler, Reply, Request
from ..errors import InvalidValue, NotFound
from ..routes.query import parameters
from ..routes.route import Kind
from ..telemetry import failures
from ..telemetry.counters import Telemetry
from ..telemetry.history import charts
from ..telemetry.record import Record
from ..telemetry.usage_table import Asked, as_csv, as_json, summed
from ..upstream.probes import Probes
from ..version import VERSION
from . import instances, keys
from .engines import Engines
from .history import Sampling, Window, said
from .metrics import expose, snapshot
from .pressure import PRESSURE, pressure
from .readiness import report
from .requests import abort, listed, merged
from .siblings import METRICS, PLACES, ROTATION, ask_siblings, register
from .usage import since, used


class Operations:
    """What operators may ask of one app."""

    def __init__(
        self,
        telemetry: Telemetry,
        providers: Providers,
        models: ModelLists,
        draining: Callable[[], bool],
        slots: Slots,
        callers: Callers | None = None,
        *,
        addresses: bool = True,
        batches: bool = False,
        said: Iterable[tuple[str, str, str, bool]] = (),
    ) -> None:
        """`addresses`: the metrics may name each replica by its address. `said`: as `Config.said`."""
        self._slots = slots
        self.kept_usage: Handler | None = None  # answers for a time, where usage is kept
        self._telemetry = telemetry
        self._providers = providers
        self._models = models
        self._draining = draining
        self._callers = callers
        self._addresses = addresses
        self._batches = batches
        self._said = said
        self._sampling = Sampling(telemetry)
        self._engines = Engines()
        self._probes = Probes(providers.replicas, on_alive=models.keep_fresh)
        self.handlers: dict[Kind, Handler] = {
            Kind.READY: self.ready,
            Kind.METRICS: self.metrics,
            Kind.ADMIN_REQUESTS: self.requests,
            Kind.ADMIN_USAGE: self.usage,
            Kind.ADMIN_INSTANCES: self.instances,
            Kind.ADMIN_KEYS: self.keys,
            Kind.ADMIN_HISTORY: self.history,
            Kind.ADMIN_ENGINES: self.engines,
            Kind.ADMIN_FAILURES: self.failures,
            Kind.ADMIN_CONFIGURATION: self.configuration,
        }

    def start(self) -> None:
        """Probe the instances and answer the other workers."""
        register(METRICS, lambda _: self._snapshot(None))
        if self._batches:
            register(PRESSURE, lambda _: pressure(self._telemetry, self._providers, monotonic()))
        register("requests", lambda _: self._listed(None))
        register("keys", lambda _: keys.counted(self._callers))
        register("abort", lambda request_id: self._abort(request_id, None))
        register(ROTATION, self._keep_out)
        register("history", lambda asked: self._telemetry.history.read(*asked))
        register("failures", lambda _: failures.last())
        self._sampling.start()
        self._probes.start()

    def follow(self) -> None:
        """Some replicas came or left."""
        self._probes.follow(self._providers.replicas)

    def stop(self) -> None:
        """Probe and look no more: another app does."""
        self._sampling.stop()
        self._probes.stop()

    async def close(self) -> None:
        """Stop, and return when nothing is left of it."""
        await self._sampling.close()
        await self._engines.close()
        await self._probes.close()

    async def ready(self, request: Request) -> Reply:
        """GET /health/ready; contract section 5."""
        await self._probes.first_verdict()
        ready, body = report(self._providers.instances.values(), asking=self._probes.asking, draining=self._draining())
        return Reply(200 if ready else 503, body, {"Cache-Control": "no-store"})

    async def metrics(self, request: Request) -> Reply:
        """GET /metrics: all workers in one scrape; contract section 8."""
        snapshots = await ask_siblings(METRICS, self._snapshot(request.record))
        # A large table takes tens of milliseconds, which no stream should wait for.
        accept = request.message.headers.get("Accept", "")
        text, media_type = await asyncio.to_thread(expose, snapshots, accept)
        return Reply(200, text, content_type=media_type)

    async def requests(self, request: Request) -> Reply:
        """GET /admin/requests and DELETE /admin/requests/{id}. Raises NotFound when no worker runs that request."""
        request_id = request.route.id
        if request_id is None:
            lists = [self._listed(request.record), *await ask_siblings("requests")]
            order = self._slots.order()
            if any(entry["place"] for each in lists for entry in each):
                order += await ask_siblings(PLACES)
            return _json({"requests": merged(lists, order)})
        count = self._abort(request_id, request.record) + sum(await ask_siblings("abort", request_id))
        if not count:
            raise NotFound("No request with this id is running; GET /admin/requests lists those that are.")
        return Reply(200, json.dumps({"id": request_id, "aborted": count}).encode())

    async def usage(self, request: Request) -> Reply | None:
        """GET /admin/usage: all workers as one; contract section 8. Raises InvalidValue."""
        now = time()
        asked = Asked(parameters(request.target), request.message.headers.get("Accept", ""), now)
        if asked.window is not None:
            if self.kept_usage is None:
                why = "Usage is kept by time where GOMODEL_DATA_DIR is set; leave out from and to."
                raise InvalidValue(None, why, code="invalid_parameter")
            return await self.kept_usage(request)
        snapshots = await ask_siblings(METRICS, self._snapshot(request.record))
        rows = await asyncio.to_thread(lambda: summed(used(snapshots), asked.by))  # there may be thousands
        headers = {"Cache-Control": "no-store"}
        if asked.csv:
            return Reply(200, as_csv(rows, asked), headers, content_type="text/csv; charset=utf-8")
        return Reply(200, as_json(rows, asked, since(snapshots), now), headers)

    async def instances(self, request: Request) -> Reply:
        """GET /admin/instances, and POST to an instance's `drain` or `resume` there.

        Raises NotFound for an instance or a replica that there is not.
        """
        if request.route.id is not None:
            await self._rotate(request)
        found = instances.listed(self._providers.instances.values(), asking=self._probes.asking)
        return _json({"instances": found})

    async def _rotate(self, request: Request) -> None:
        """Take an instance, or the replica that the query names, out of rotation or back, here and in all workers."""
        name, address = request.route.id or "", parameters(request.target).get("replica")
        instance = self._providers.instances.get(name)
        if instance is None:
            raise NotFound(f"No instance is named {name!r}; there are: {', '.join(self._providers.instances)}.")
        known = [each.address for each in instance.replicas]
        drains = request.route.template.endswith("/drain")
        # One that left may be out all the same, and would be when it comes back.
        if address is not None and address not in known and (drains or not rotation.shared.names(name, address)):
            there_are = f"there are: {', '.join(known)}." if known else "it has none at the moment."
            raise NotFound(f"Instance '{name}' has no replica {address!r}; {there_are}")
        out = rotation.shared.drained(name, address) if drains else rotation.shared.resumed(name, address, known)
        change = [name, sorted(out)]
        self._keep_out(change)
        await ask_siblings(ROTATION, change)

    def _keep_out(self, change: list[Any]) -> bool:
        """What of an instance is out of rotation, as a worker was told."""
        rotation.shared.put(*change)
        for instance in self._providers.instances.values():
            instance.keep_out()
        return True

    async def keys(self, request: Request) -> Reply:
        """GET /admin/keys: who has asked, what they used, and their limits; contract section 9."""
        if self._callers is None:
            return _json(keys.listed(None, []))
        snapshots, answers = await asyncio.gather(
            ask_siblings(METRICS, self._snapshot(request.record)), ask_siblings("keys")
        )
        ever = await asyncio.to_thread(keys.totals, snapshots)  # there may be thousands
        return _json(keys.listed(self._callers, [keys.counted(self._callers), *answers], ever))

    async def history(self, request: Request) -> Reply:
        """GET /admin/history: the last hour in numbers, of all workers there are. Raises InvalidValue."""
        window = Window(parameters(request.target), time())
        found = [self._telemetry.history.read(*window.asked), *await ask_siblings("history", window.asked)]
        series = await asyncio.to_thread(charts, found, window.steps, window.step_s)  # there may be hundreds
        return _json(said(window, series))

    async def engines(self, request: Request) -> Reply:
        """GET /admin/engines: what every vLLM says of its own queue and cache; contract section 8."""
        return _json({"engines": await self._engines.listed(self._providers.replicas)})

    async def failures(self, request: Request) -> Reply:
        """GET /admin/failures: the last requests that failed, of all workers there are, the newest first."""
        found = [*failures.last(), *(each for answer in await ask_siblings("failures") for each in answer)]
        return _json({"failures": sorted(found, key=lambda each: -float(each["at"]))[: failures.KEPT]})

    async def configuration(self, request: Request) -> Reply:
        """GET /admin/configuration: every variable with its value in force, and no secret."""
        names = ("section", "variable", "value", "set")
        rows = [dict(zip(names, row, strict=True)) for row in self._said]
        return _json({"version": VERSION, "configuration": rows})

    def counted(self) -> dict[str, Any]:
        """All numbers of this process."""
        return self._snapshot(None)

    def _snapshot(self, asked_by: Record | None) -> dict[str, Any]:
        return snapshot(
            self._telemetry,
            self._providers,
            self._models,
            asked_by,
            self._callers,
            addresses=self._addresses,
            batches=self._batches,
        )

    def _listed(self, asked_by: Record | None) -> list[dict[str, Any]]:
        return listed(self._telemetry.running.records, monotonic(), asked_by)

    def _abort(self, request_id: str, asked_by: Record | None) -> int:
        return abort(self._telemetry.running.records, request_id, asked_by)


def _json(content: Any) -> Reply:
    return Reply(200, json.dumps(content).encode(), {"Cache-Control": "no-store"})
