"""Clients of several keys that come and leave at random, and workers that die at random: no slot and no place is lost.

GOMODEL_SOAK is for how many requests; `make soak` takes many.
"""

import asyncio
import json
import os
import random
import signal
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any

from ..harness.gateways import have_listened, started
from ..harness.processes import Process, Run, children, pause
from ..harness.scripted import SAFETY_S, RawClient, ScriptedUpstream, env_for, request
from ..harness.verdicts import post, turned
from .test_workers_queueing import Engine

REQUESTS = int(os.environ.get("GOMODEL_SOAK", "300"))
LONG = REQUESTS > 1000
CLIENTS, LIMIT = (200, 8) if LONG else (40, 4)
KEYS = {f"k{number}": f"sk-soak-{number}-0123456789" for number in range(5)}
MASTER = "sk-soak-master-0123456789"
_MOST_S = 0.05 if LONG else 0.004
_LIMITS = ("weight = 3", 'in_flight = 2\nwhen_full = "wait"', "", "weight = 0.5", "")


class Busy(Engine):
    """Works for a random while."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance

    async def work(self, connection: Any) -> None:
        """As Engine."""
        await connection.until(asyncio.sleep(self._chance.uniform(0, _MOST_S)))


async def one(port: int, key: str, chance: random.Random) -> str:
    """A request, and what became of it; a third leave at a random moment."""
    client = None
    try:
        async with asyncio.timeout(SAFETY_S * 3):
            client = await RawClient.connect(port)
            await client.send(post(headers=[("x-api-key", KEYS[key])]))
            if chance.random() < 1 / 3:
                with suppress(TimeoutError):
                    async with asyncio.timeout(chance.uniform(0, 4 * _MOST_S)):
                        await client.read_head()
                getattr(client, chance.choice(["fin", "reset"]))()
                return "left"
            answer = await client.read_response()
            return str(answer.status) if answer.complete else "broken off"
    except TimeoutError:
        return "forgotten"
    except Exception:
        return "broken off"
    finally:
        if client is not None:
            client.wire.close()


async def listed(process: Process) -> Any:
    """The requests that run; None from a worker that was killed a moment ago."""
    client = await RawClient.connect(process.port)
    try:
        await client.send(request("GET", "/admin/requests", [("x-api-key", MASTER), ("Connection", "close")]))
        answer = await client.read_response()
        return json.loads(answer.body)["requests"] if answer.complete and answer.status == 200 else None
    except ConnectionError:
        return None
    finally:
        client.wire.close()


async def test_counts_end_at_zero_whatever_happened(run: Run, upstream: ScriptedUpstream, tmp_path: Path) -> None:
    chance = random.Random(7)
    engine = Busy(chance)
    upstream.repeat(engine)
    upstream.lenient = True  # whose worker dies sends half a request
    keys = tmp_path / "keys.toml"
    keys.write_text(
        "".join(
            f'[keys.{name}]\nsha256 = "{sha256(key.encode()).hexdigest()}"\n{limits}\n'
            for (name, key), limits in zip(KEYS.items(), _LIMITS, strict=True)
        )
    )
    environ = {"VLLM_MAX_IN_FLIGHT": str(LIMIT), "GOMODEL_KEYS_FILE": str(keys), "GOMODEL_MASTER_KEY": MASTER}
    code = "import gomodel.process.supervisor as s\ns.LIMITS = s.Limits(backoff_s=0.01)\n"
    code += "from gomodel.__main__ import main; main()"
    process = await started(run, 3, {**env_for(vllm=upstream), **environ}, code=code)
    outcomes: Counter[str] = Counter()
    left = iter(range(REQUESTS))

    async def client() -> None:
        for _ in left:
            outcomes[await one(process.port, chance.choice(sorted(KEYS)), chance)] += 1

    async def killer() -> None:
        # In a long run seldom enough that workers live on for a while: the supervisor gives up on those that do not.
        for started_ever in count(3):
            await asyncio.sleep(chance.uniform(4.0, 12.0) if LONG else chance.uniform(0.05, 0.2))
            await have_listened(process, started_ever - 1)  # one of the three serves, however busy the machine is
            pid = chance.choice(children(process.pid))
            os.kill(pid, signal.SIGKILL)
            await process.says(f"-{pid} ended with SIGKILL")

    killing = asyncio.create_task(killer())
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    killing.cancel()
    assert sum(outcomes.values()) == REQUESTS
    assert outcomes.keys() <= {"200", "left", "broken off"}, outcomes
    assert outcomes["200"] > 0
    assert engine.most <= LIMIT
    await turned(lambda: engine.now == 0)
    async with asyncio.timeout(SAFETY_S):
        while await listed(process) != []:
            await pause()
    # And all of the limit can be had again.
    before = engine.served
    answers = [one(process.port, "k0", random.Random(0)) for _ in range(4 * LIMIT)]
    await asyncio.gather(*answers)
    assert engine.served > before
    await turned(lambda: engine.now == 0)
    assert await process.stop() == 0
    print(dict(outcomes), "most at once:", engine.most)
