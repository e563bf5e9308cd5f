"""Three vLLM servers whose caches hold a third of the conversations each: who keeps a conversation where its cache is.

What vLLM itself counts of its prefix cache is compared with a client that knows the servers and hashes by itself.
"""

import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from . import processes
from .conftest import settings
from .processes import INSTANCE_KEY, MASTER_KEY, MODEL, Server
from .wire import get, post

pytestmark = pytest.mark.slow

CONVERSATIONS, TURNS = 48, 6
WORDS = ("cache", "server", "holds", "what", "was", "said", "before", "and", "need", "not", "be", "read", "again")
# Of 32 tokens each. All conversations fit into three such caches, and by far not into one.
BLOCKS = 550
CACHED = ("--block-size", "32", "--num-gpu-blocks-override", str(BLOCKS), "--max-model-len", "2048")
NAMES = ("vllm-a", "vllm-b", "vllm-c")
KINDS = ("header", "opening", "parts", "key")


@pytest.fixture(scope="module")
def servers(directory: Path) -> Iterator[list[Server]]:
    started: list[Server] = []
    try:
        for _ in range(3):
            started.append(
                processes.start_vllm(directory, *CACHED, VLLM_API_KEY=INSTANCE_KEY, VLLM_SERVER_DEV_MODE="1")
            )
        yield started
    finally:
        for each in started:
            each.stop()


def fleet_of(servers: Sequence[Server], **more: str) -> dict[str, str]:
    """The settings of a gateway in front of these."""
    found = settings(servers[0].port, **more)
    del found["VLLM_BASE_URL"], found["VLLM_API_KEY"]
    for name, server in zip("ABC", servers, strict=False):
        found[f"VLLM_{name}_BASE_URL"] = f"{server.url}/v1"
        found[f"VLLM_{name}_API_KEY"] = INSTANCE_KEY
    return found


@pytest.fixture
def gateways(directory: Path) -> Iterator[Callable[..., list[Server]]]:
    started: list[Server] = []

    def start(servers: Sequence[Server], count: int = 1, **more: str) -> list[Server]:
        for _ in range(count):
            started.append(processes.start_gateway(directory, fleet_of(servers, **more)))
            get(started[-1], "/v1/models", {"Authorization": f"Bearer {MASTER_KEY}"})
        return started

    yield start
    for each in started:
        each.stop()


@dataclass
class Talk:
    """One conversation: what was said, and who answered."""

    number: int
    kind: str
    messages: list[dict[str, Any]] = field(default_factory=list)
    served: list[str] = field(default_factory=list)

    def words(self, count: int, turn: int) -> str:
        return " ".join(random.Random(f"{self.number}/{turn}").choices(WORDS, k=count))

    def ask(self, server: Server, key: str) -> Any:
        turn = len(self.served)
        if not turn:
            self.messages = [{"role": "system", "content": "Be brief. " * 10}]
        said: Any = self.words(60 if turn else 250, turn)
        if self.kind == "parts":
            said = [{"type": "text", "text": said}]
        self.messages.append({"role": "user", "content": said})
        headers = {"Authorization": f"Bearer {key}"}
        body: dict[str, Any] = {"model": MODEL, "messages": self.messages, "max_tokens": 8, "temperature": 0}
        if self.kind == "header":
            headers["X-Session-ID"] = f"talk-{self.number}"
        elif self.kind == "key":
            body["prompt_cache_key"] = f"talk-{self.number}"
        answer = post(server, "/v1/chat/completions", body, headers)
        assert answer.status == 200, answer.body
        self.served.append(answer.header("x-gomodel-provider") or "")
        self.messages.append({"role": "assistant", "content": answer.json()["choices"][0]["message"]["content"] or "-"})
        return answer


def hold(choose: Callable[[Talk, int], Server], key: str = MASTER_KEY) -> list[Talk]:
    """All conversations at once, turn after turn of each."""
    talks = [Talk(number, KINDS[number % len(KINDS)]) for number in range(CONVERSATIONS)]

    def run(talk: Talk) -> None:
        for turn in range(TURNS):
            talk.ask(choose(talk, turn), key)

    with ThreadPoolExecutor(CONVERSATIONS // 2) as pool:
        list(pool.map(run, talks))
    return talks


def hits(servers: Sequence[Server], work: Callable[[], Any]) -> tuple[float, Any]:
    """The share of prompt tokens that the caches of `servers`, empty before, had during `work`; and its result."""

    def counted(what: str) -> float:
        texts = [get(each, "/metrics", {"Authorization": f"Bearer {INSTANCE_KEY}"}).body.decode() for each in servers]
        found = [re.findall(rf"^vllm:prefix_cache_{what}_total{{[^}}]*}} (\S+)$", text, re.MULTILINE) for text in texts]
        return sum(float(number) for numbers in found for number in numbers)

    for each in servers:
        assert post(each, "/reset_prefix_cache", {}, {"Authorization": f"Bearer {INSTANCE_KEY}"}).status == 200
    before = counted("hits"), counted("queries")
    result = work()
    return (counted("hits") - before[0]) / (counted("queries") - before[1]), result


@pytest.fixture(scope="module")
def yardstick(servers: list[Server]) -> float:
    """The hits of a client that hashes by itself."""
    share, _ = hits(servers, lambda: hold(lambda talk, _: servers[crc32(b"talk-%d" % talk.number) % 3], INSTANCE_KEY))
    return share


@pytest.mark.parametrize(("count", "workers"), [(1, "1"), (1, "2"), (2, "1")], ids=["one", "two workers", "two"])
def test_a_fleet_has_the_hits_of_a_client_that_hashes(
    servers: list[Server], yardstick: float, gateways: Callable[..., list[Server]], count: int, workers: str
) -> None:
    through = gateways(servers, count, GOMODEL_WORKERS=workers)
    share, talks = hits(servers, lambda: hold(lambda talk, turn: through[(talk.number + turn) % count]))
    served = Counter(name for talk in talks for name in talk.served)
    at_home = defaultdict(list)
    for talk in talks:
        at_home[talk.kind].append(Counter(talk.served).most_common(1)[0][1] / TURNS)
    print(f"hits {share:.3f}, yardstick {yardstick:.3f}, served {served}, at home {dict(at_home)}")
    assert share >= 0.95 * yardstick
    assert max(served.values()) <= 1.5 * CONVERSATIONS * TURNS / 3
    assert min(sum(shares) / len(shares) for shares in at_home.values()) >= 0.85


def test_without_homes_the_hits_are_fewer(
    servers: list[Server], yardstick: float, gateways: Callable[..., list[Server]]
) -> None:
    [through] = gateways(servers, ROUTING="least")
    share, _ = hits(servers, lambda: hold(lambda talk, turn: through))
    print(f"hits {share:.3f}, yardstick {yardstick:.3f}")
    assert share < 0.9 * yardstick


def test_one_conversation_for_all_is_spread(servers: list[Server], gateways: Callable[..., list[Server]]) -> None:
    [through] = gateways(servers)
    talks = [Talk(7, "header") for _ in range(120)]
    with ThreadPoolExecutor(40) as pool:
        list(pool.map(lambda talk: talk.ask(through, MASTER_KEY), talks))
    served = Counter(talk.served[0] for talk in talks)
    print(served)
    assert max(served.values()) <= 1.6 * 120 / 3


def test_a_server_that_refuses_is_no_clients_concern(
    directory: Path, servers: list[Server], gateways: Callable[..., list[Server]]
) -> None:
    small = processes.start_vllm(
        directory, *CACHED, "--max-num-seqs", "1", "--max-num-queued-reqs", "2", VLLM_API_KEY=INSTANCE_KEY
    )
    try:
        [through] = gateways([small, servers[1]])
        talks = [Talk(number, KINDS[number % len(KINDS)]) for number in range(120)]
        with ThreadPoolExecutor(40) as pool:
            list(pool.map(lambda talk: talk.ask(through, MASTER_KEY), talks))
        served = Counter(talk.served[0] for talk in talks)
        print(served)
        assert served["vllm-a"] > 0
    finally:
        small.stop()


def test_conversations_of_a_server_that_dies_move_and_come_home(
    directory: Path, servers: list[Server], gateways: Callable[..., list[Server]]
) -> None:
    [through] = gateways(servers)

    def homes() -> list[str]:
        talks = [Talk(number, KINDS[number % len(KINDS)]) for number in range(CONVERSATIONS)]
        for talk in talks:
            talk.ask(through, MASTER_KEY)
        return [talk.served[0] for talk in talks]

    before = homes()
    lost = servers.pop()
    lost.kill()
    during = homes()
    assert NAMES[2] not in during
    assert all(was in (now, NAMES[2]) for was, now in zip(before, during, strict=True))
    servers.append(
        processes.start_vllm(directory, *CACHED, port=lost.port, VLLM_API_KEY=INSTANCE_KEY, VLLM_SERVER_DEV_MODE="1")
    )
    deadline = time.monotonic() + processes.GATEWAY_START_S
    while get(through, "/health/ready").json()["instances"][NAMES[2]]["state"] != "up":
        assert time.monotonic() < deadline
        time.sleep(0.1)
    after = homes()
    moved = [was for was in before if was == NAMES[2]]
    home = [now for was, now in zip(before, after, strict=True) if was == NAMES[2] and now == was]
    print(f"{len(home)} of {len(moved)} came home")
    assert len(home) >= 0.9 * len(moved)
