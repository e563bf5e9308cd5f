"""vLLM's own load client, first against vLLM and then through gomodel, and the two summaries side by side.

    python -m tests.vllm.bench [--prompts 64] [--concurrency 16] [--rounds 3]

Decides only what is asked: prompts and answers of 64 tokens. On a CPU the engine is the bottleneck, so this shows what
gomodel adds to a real server, not what gomodel can carry.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from . import processes, vllm_setup
from .processes import INSTANCE_KEY, MASTER_KEY, MODEL, Server

SHOWN = {
    "completed": "requests completed",
    "failed": "requests failed",
    "total_output_tokens": "output tokens",
    "request_throughput": "requests per second",
    "output_throughput": "output tokens per second",
    "median_ttft_ms": "time to first token, median (ms)",
    "p99_ttft_ms": "time to first token, p99 (ms)",
    "median_tpot_ms": "time per further token, median (ms)",
    "p99_itl_ms": "gap between tokens, p99 (ms)",
}


def measure(server: Server, model: str, key: str, prompts: int, concurrency: int, directory: Path) -> dict[str, float]:
    """One run of `vllm bench serve`; its result. Raises CalledProcessError with its output on stderr."""
    command: list[str | Path] = ["nice", "-n", "10", vllm_setup.executable(), "bench", "serve"]
    command += ["--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--base-url", server.url]
    command += ["--model", model, "--tokenizer", vllm_setup.model(), "--dataset-name", "random", "--ignore-eos"]
    command += ["--random-input-len", "64", "--random-output-len", "64", "--num-prompts", str(prompts)]
    command += ["--max-concurrency", str(concurrency), "--disable-tqdm"]
    command += ["--save-result", "--result-dir", directory, "--result-filename", "result.json"]
    done = subprocess.run(
        [*map(str, command)],
        env={**os.environ, "OPENAI_API_KEY": key, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()
    result: dict[str, float] = json.loads((directory / "result.json").read_text())
    return result


def run(prompts: int, concurrency: int, rounds: int, directory: Path) -> int:
    """Measure in turns, print the medians of the rounds. Returns the exit status: 1 when a request failed."""
    vllm = gateway = None
    try:
        vllm = processes.start_vllm(directory, VLLM_API_KEY=INSTANCE_KEY)
        settings = {
            "VLLM_BASE_URL": f"{vllm.url}/v1",
            "VLLM_API_KEY": INSTANCE_KEY,
            "GOMODEL_MASTER_KEY": MASTER_KEY,
        }
        gateway = processes.start_gateway(directory, settings)
        ways = {"direct": (vllm, MODEL, INSTANCE_KEY), "through gomodel": (gateway, f"vllm/{MODEL}", MASTER_KEY)}
        measure(*ways["direct"], prompts, concurrency, directory)  # the first run warms the engine up
        results: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, target in ways.items():
                results[way].append(measure(*target, prompts, concurrency, directory))
    finally:
        for server in (gateway, vllm):
            if server:
                server.stop()
    print(f"{prompts} prompts, {concurrency} at a time, median of {rounds} rounds")
    print(f"{'':36}" + "".join(f"{way:>18}" for way in results))
    for key, label in SHOWN.items():
        values = [statistics.median(result[key] for result in measured) for measured in results.values()]
        print(f"{label:36}" + "".join(f"{value:18.2f}" for value in values))
    return int(any(result["failed"] for measured in results.values() for result in measured))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.vllm.bench", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gomodel-bench-") as directory:
        return run(arguments.prompts, arguments.concurrency, arguments.rounds, Path(directory))


if __name__ == "__main__":
    sys.exit(main())
