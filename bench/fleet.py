"""Conversations over four servers with prefix caches: hits, spread, first byte and CPU, by proxy and policy.

Decides which policies of which proxies take part and how they are started. Caches are empty before each turn.
"""

import sys
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import conversations, payloads, peers, procfs
from bench.configurations import PROJECT, Launch
from bench.measure import Bench, answers, per_unit_us
from bench.peers import Running
from bench.process import Child, StartError, free_port, wait_until
from bench.replicas import MODEL
from bench.stats import DIRECT, Sample

SERVERS = 4
# All conversations fit into the four caches together, and by far not into one.
CAPACITY_TOKENS = 75_000
CONVERSATIONS, TURNS = 48, 6


@dataclass(frozen=True, slots=True)
class Policy:
    """A way to spread requests: `gateways` processes of the peer, which know nothing of each other."""

    peer: str
    name: str
    launch: Callable[[str, int, Sequence[int], Path], Launch]
    gateways: int = 1


def _gomodel(workers: int, routing: str) -> Callable[[str, int, Sequence[int], Path], Launch]:
    def launch(binary: str, port: int, servers: Sequence[int], directory: Path) -> Launch:
        environment = {
            "VLLM_BASE_URL": ",".join(f"http://127.0.0.1:{each}/v1" for each in servers),
            "GOMODEL_MASTER_KEY": payloads.KEY,
            "GOMODEL_WORKERS": str(workers),
            "ROUTING": routing,
            "HOST": "127.0.0.1",
            "PORT": str(port),
            "LOG_LEVEL": "warn",
            "PYTHONPATH": str(PROJECT),
        }
        return [binary, "-m", "gomodel"], environment

    return launch


def _nginx(directive: str) -> Callable[[str, int, Sequence[int], Path], Launch]:
    def launch(binary: str, port: int, servers: Sequence[int], directory: Path) -> Launch:
        listed = " ".join(f"server 127.0.0.1:{each};" for each in servers)
        temporary = " ".join(
            f"{kind}_temp_path {directory};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (directory / "nginx.conf").write_text(f"""\
pid {directory}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_max_body_size 0;
    {temporary}
    upstream vllm {{ {directive}; {listed} keepalive 512; }}
    server {{
        listen 127.0.0.1:{port} backlog=1024;
        location / {{
            proxy_pass http://vllm;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
        }}
    }}
}}
""")
        command = [binary, "-e", "stderr", "-p", str(directory), "-c", str(directory / "nginx.conf")]
        return [*command, "-g", "daemon off;"], {}

    return launch


def _router(
    subcommand: Sequence[str], policy: str, more: Sequence[str]
) -> Callable[[str, int, Sequence[int], Path], Launch]:
    def launch(binary: str, port: int, servers: Sequence[int], directory: Path) -> Launch:
        command = [binary, *subcommand, "--host", "127.0.0.1", "--port", str(port), "--policy", policy]
        command += ["--worker-urls", *(f"http://127.0.0.1:{each}" for each in servers), "--log-level", "error", *more]
        return [*command, "--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())], {}

    return launch


_SMG = ("--backend", "vllm", "--disable-tokenizer-autoload")
POLICIES = (
    Policy("nginx", "nginx least_conn", _nginx("least_conn")),
    Policy("nginx", "nginx hash", _nginx("hash $http_x_session_id consistent")),
    Policy("gomodel", "gomodel", _gomodel(1, "affinity")),
    Policy("gomodel", "gomodel, 2 workers", _gomodel(2, "affinity")),
    Policy("gomodel", "gomodel, 2 gateways", _gomodel(1, "affinity"), 2),
    Policy("gomodel", "gomodel least", _gomodel(1, "least")),
    Policy("vllm-router", "vllm-router cache_aware", _router((), "cache_aware", ())),
    Policy("vllm-router", "vllm-router consistent_hash", _router((), "consistent_hash", ())),
    Policy("smg", "smg cache_aware", _router(("launch",), "cache_aware", _SMG)),
    Policy("smg", "smg cache_aware, 2 gateways", _router(("launch",), "cache_aware", _SMG), 2),
)


def conversations_over_servers(bench: Bench) -> None:
    """The suite."""
    bench.stop_all()
    command = [sys.executable, "-m", "bench.replicas", str(SERVERS), str(CAPACITY_TOKENS)]
    engines = bench.fleet.start("replicas", command, peers.clean_environment({"PYTHONPATH": str(PROJECT)}))
    wait_until(lambda: engines.log.read_text().endswith("\n"), engines, 20.0)
    servers = [int(each) for each in engines.log.read_text().split()]
    programs = {peer.name: program for peer, program in bench.found.items()}
    started: dict[str, list[tuple[int, Child]]] = {}
    try:
        for policy in POLICIES:
            if policy.peer in programs:
                try:
                    started[policy.name] = _start(bench, policy, programs[policy.peer], servers)
                except StartError as error:
                    bench.results.skipped[policy.name] = str(error)
        everybody = [Running(DIRECT, 0), *(Running(name, gateways[0][0]) for name, gateways in started.items())]
        bench.turns("fleet", everybody, lambda subject, number: _turn(bench, subject, number, servers, started))
    finally:
        for gateways in started.values():
            for _, child in gateways:
                bench.fleet.stop(child)
        bench.fleet.stop(engines)


def _start(bench: Bench, policy: Policy, program: str, servers: Sequence[int]) -> list[tuple[int, Child]]:
    made: list[tuple[int, Child]] = []
    for _ in range(policy.gateways):
        port = free_port()
        directory = bench.fleet.directory / f"fleet-{port}"
        directory.mkdir()
        command, extra = policy.launch(program, port, servers, directory)
        child = bench.fleet.start(policy.peer, command, peers.clean_environment(extra), directory)
        made.append((port, child))
        wait_until(lambda port=port: answers(port, MODEL), child, 60.0, 0.05)  # type: ignore[misc]
    return made


def _turn(
    bench: Bench, subject: Running, number: int, servers: Sequence[int], started: dict[str, list[tuple[int, Child]]]
) -> list[Sample]:
    with urllib.request.urlopen(f"http://127.0.0.1:{servers[0]}/reset", timeout=10):
        pass
    gateways = started.get(subject.name, [])
    before = sum(procfs.cpu_s(child.pid) for _, child in gateways)
    count = CONVERSATIONS // 2 if bench.quick else CONVERSATIONS
    if gateways:
        done = conversations.run([port for port, _ in gateways], MODEL, count, TURNS)
    else:  # a client that chooses by itself
        done = conversations.run(servers, MODEL, count, TURNS, choose=lambda each: each % SERVERS)
    cpu = sum(procfs.cpu_s(child.pid) for _, child in gateways) - before
    figures = [("hits", "%", done.hits), ("max/mean", "", done.imbalance(SERVERS))]
    figures += [(f"first byte {name}", "ms", done.first_answer_ms(at)) for name, at in (("p50", 0.5), ("p90", 0.9))]
    if gateways:
        figures.append(("cpu", "us/request", per_unit_us(cpu, done.requests)))
    case = f"{count} conversations of {TURNS} turns, {SERVERS} servers"
    return [
        Sample("fleet", case, metric, unit, subject.name, number, value, done.errors, done.reason)
        for metric, unit, value in figures
    ]
