"""What gomodel's own features cost a small request: keys, limits, and the homes of conversations over four servers.

Decides which configurations take turns and which of them is the plain one that a feature is compared with, in the same
round. Each is a process of its own with one worker; conversations are 200 that come in turn.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

from bench import payloads, peers, wrk
from bench.configurations import PROJECT
from bench.measure import Bench, answers, cpu_around, per_unit_us, start_upstream
from bench.peers import Running
from bench.process import free_port, wait_until
from bench.stats import Sample

SERVERS = 4
MODEL = "vllm/m/x"
_NO_LIMIT = 1_000_000_000
_LIMITS = f"in_flight = 1000\nrequests_per_minute = {_NO_LIMIT}\ntokens_per_minute = {_NO_LIMIT}\n"


@dataclass(frozen=True, slots=True)
class Feature:
    """One configuration and its load; `beside` is the plain one, "" for that itself.

    `keys`: the limits of the one key in the keys file, None without such a file.
    """

    name: str
    beside: str = ""
    servers: int = 1
    keys: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    many: str = ""  # how conversations differ, as for `wrk.run`
    turns: int = 0  # of about a kilobyte each, before the last


_LEAST = {"ROUTING": "least"}
FEATURES = (
    Feature("no keys file"),
    Feature("a key", "no keys file", keys=""),
    Feature("a key with three limits", "no keys file", keys=_LIMITS),
    Feature("idlest of four", servers=SERVERS, settings=_LEAST, many="header"),
    Feature("home by session header", "idlest of four", servers=SERVERS, many="header"),
    Feature("idlest of four, text", servers=SERVERS, settings=_LEAST, many="body"),
    Feature("home by first message", "idlest of four, text", servers=SERVERS, many="body"),
    Feature("idlest of four, 27 KB", servers=SERVERS, settings=_LEAST, many="body", turns=24),
    Feature("home by first message, 27 KB", "idlest of four, 27 KB", servers=SERVERS, many="body", turns=24),
)


def keys_and_homes(bench: Bench) -> None:
    """The suite; it needs wrk, since another client costs more than what is measured."""
    bench.stop_all()
    program = next((program for peer, program in bench.found.items() if peer.name == "gomodel"), None)
    if program is None or wrk.program() is None:
        bench.say("keys: needs gomodel among the peers, and wrk")
        return
    upstreams = [bench.direct, *(start_upstream(bench.fleet) for _ in range(SERVERS - 1))]
    running: dict[str, Running] = {}
    base_us: dict[tuple[int, str], float] = {}

    def turn(subject: Running, number: int) -> list[Sample]:
        feature = next(each for each in FEATURES if each.name == subject.name)
        body = payloads.conversation(MODEL, feature.turns)
        done, cpu = cpu_around(
            subject.pid,
            lambda: wrk.run(subject.port, body, 32, bench.json_s, bench.fleet.directory, many=feature.many),
        )
        cpu_us = base_us[number, feature.name] = per_unit_us(cpu, done.done)
        figures = [("cpu", "us/request", cpu_us)]
        if feature.beside and (plain_us := base_us.get((number, feature.beside))):
            figures += [("more", "us/request", cpu_us - plain_us), ("by the plain one", "", cpu_us / plain_us)]
        return [
            Sample("keys", "32 connections", metric, unit, subject.name, number, value, done.errors, done.reason)
            for metric, unit, value in figures
        ]

    try:
        for feature in FEATURES:
            running[feature.name] = _start(bench, feature, program, [each.port for each in upstreams])
        bench.turns("keys", list(running.values()), turn)
    finally:
        for each in (*running.values(), *upstreams[1:]):
            assert each.child is not None
            bench.fleet.stop(each.child)


def _start(bench: Bench, feature: Feature, program: str, ports: list[int]) -> Running:
    port = free_port()
    environment = {
        "VLLM_BASE_URL": ",".join(f"http://127.0.0.1:{each}/v1" for each in ports[: feature.servers]),
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "LOG_LEVEL": "warn",
        "PYTHONPATH": str(PROJECT),
        **feature.settings,
    }
    if feature.keys is None:
        environment["GOMODEL_MASTER_KEY"] = payloads.KEY
    else:
        path = bench.fleet.directory / f"keys-{port}.toml"
        path.write_text(f'[keys.bench]\nsha256 = "{sha256(payloads.KEY.encode()).hexdigest()}"\n{feature.keys}')
        environment["GOMODEL_KEYS_FILE"] = str(path)
    child = bench.fleet.start("gomodel", [program, "-m", "gomodel"], peers.clean_environment(environment))
    wait_until(lambda: answers(port, MODEL), child, 20.0, 0.02)
    return Running(feature.name, port, child=child)
