"""JSON load through `wrk`, which costs the machine far less than a Python client.

Decides the generated script and how wrk's summary becomes a Load. wrk sees statuses of 400 and above, read and connect
errors, timeouts and the total of bytes; what a body holds is checked by load.py before and after (suites.py).
"""

import json
import subprocess
from pathlib import Path
from shutil import which

from bench import payloads
from bench.load import GRACE_S, Load

_SCRIPT = """\
local file = assert(io.open("%(body)s", "rb"))
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
%(headers)s
%(request)s
done = function(summary, latency, requests)
    local e = summary.errors
    io.write(string.format(
        '\\n{"requests":%%d,"bytes":%%d,"us":%%d,"connect":%%d,"read":%%d,"write":%%d,"status":%%d,"timeout":%%d,' ..
        '"p50":%%f,"p99":%%f,"max":%%f}\\n', summary.requests, summary.bytes, summary.duration,
        e.connect, e.read, e.write, e.status, e.timeout,
        latency:percentile(50), latency:percentile(99), latency.max))
end
"""


def program() -> str | None:
    """wrk's path, None when it is not installed."""
    return which("wrk")


# One field that is new in every request, as tracing clients send it.
_DISTINCT = """\
local sent = 0
request = function()
    sent = sent + 1
    wrk.headers["traceparent"] = string.format("00-%032x-%016x-01", sent, sent)
    return wrk.format()
end
"""


# Requests of many conversations, made before the run.
_CONVERSATIONS = """\
local asked, at = {}, 0
init = function()
    for number = 0, %(count)d - 1 do
        local name = string.format("%%012d", number)
        %(header)s
        local body = string.gsub(wrk.body, "%(place)s", name)
        asked[number] = wrk.format(nil, nil, nil, body)
    end
end
request = function()
    at = (at + 1) %% %(count)d
    return asked[at]
end
"""
CONVERSATIONS = 200


def _asking(distinct: bool, many: str) -> str:
    if not many:
        return _DISTINCT if distinct else ""
    header = 'wrk.headers["X-Session-ID"] = name'
    return _CONVERSATIONS % {
        "count": CONVERSATIONS,
        "header": header if many == "header" else "",
        "place": payloads.CONVERSATION if many == "body" else "no such place",
    }


def script(body: Path, *, distinct: bool = False, many: str = "") -> str:
    """The Lua script that sends the body in the file `body` with a client library's headers.

    `distinct`: no two heads are equal. `many`: CONVERSATIONS come in turn, which name themselves in a "header", or in
    the "body" where it says payloads.CONVERSATION.
    """
    sent = [(name, value) for name, value in payloads.headers(0) if name not in ("Host", "Content-Length")]
    return _SCRIPT % {
        "body": body,
        "headers": "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in sent),
        "request": _asking(distinct, many),
    }


def parse(output: str, smallest_answer: int) -> Load:
    """wrk's output as a Load; an output without the summary line, or fewer bytes than so many whole answers, is a
    fault."""
    line = next((line for line in output.splitlines() if line.startswith('{"requests"')), None)
    if line is None:
        load = Load()
        load.faults["wrk gave no summary"] += 1
        return load
    summary = json.loads(line)
    load = Load(
        done=summary["requests"] - summary["status"],
        seconds=summary["us"] / 1e6,
        p50_us=summary["p50"],
        p99_us=summary["p99"],
        max_us=summary["max"],
    )
    for kind in ("connect", "read", "write", "status", "timeout"):
        if summary[kind]:
            load.faults[f"{kind} error"] += summary[kind]
    if summary["bytes"] < summary["requests"] * smallest_answer:
        load.faults["answers shorter than the upstream's"] += 1
    if not load.done and not load.faults:
        load.faults["no answer"] += 1
    return load


def run(
    port: int,
    body: bytes,
    connections: int,
    seconds: float,
    directory: Path,
    threads: int = 1,
    *,
    distinct: bool = False,
    many: str = "",
) -> Load:
    """Loads `port` for `seconds` over `connections` connections; faults are counted, not raised."""
    path, lua = directory / "wrk-body.json", directory / "wrk.lua"
    path.write_bytes(body)
    lua.write_text(script(path, distinct=distinct, many=many))
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "10s"]
    command += ["-s", str(lua), f"http://127.0.0.1:{port}{payloads.CHAT_PATH}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + GRACE_S, check=False)
    except subprocess.TimeoutExpired:
        load = Load()
        load.faults["no answer in time"] += 1
        return load
    return parse(done.stdout, len(payloads.ANSWER % (0, 0)))
