"""The command lines and configuration files of the compared proxies.

Every one gets one worker (or as many as asked), upstream keep-alive, no buffering where that is an option, no access
log, room for 5 MB bodies and 3000 streams, and nothing else switched off that its users run with. Knows nothing of
processes or of what is measured.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import payloads
from bench.process import free_port

PROJECT = Path(__file__).resolve().parent.parent
MANY = 1_000_000


@dataclass(frozen=True, slots=True)
class Site:
    """Where one start of a peer takes place."""

    binary: str
    port: int
    upstream: int
    directory: Path
    workers: int


Launch = tuple[list[str], Mapping[str, str]]


def nginx(site: Site) -> Launch:
    (site.directory / "nginx.conf").write_text(f"""\
worker_processes {site.workers};
worker_rlimit_nofile 65536;
pid {site.directory}/nginx.pid;
events {{ worker_connections 16384; }}
http {{
    access_log off;
    keepalive_requests {MANY * 100};
    client_max_body_size 0;
    client_body_temp_path {site.directory};
    proxy_temp_path {site.directory};
    fastcgi_temp_path {site.directory};
    uwsgi_temp_path {site.directory};
    scgi_temp_path {site.directory};
    upstream vllm {{ server 127.0.0.1:{site.upstream}; keepalive 4096; keepalive_requests {MANY * 100}; }}
    server {{
        listen 127.0.0.1:{site.port} backlog=4096;
        location / {{
            proxy_pass http://vllm;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 600s;
        }}
    }}
}}
""")
    command = [site.binary, "-e", "stderr", "-p", str(site.directory), "-c", str(site.directory / "nginx.conf")]
    return [*command, "-g", "daemon off;"], {}


def gomodel(site: Site) -> Launch:
    environment = {
        "VLLM_BASE_URL": f"http://127.0.0.1:{site.upstream}/v1",
        "GOMODEL_MASTER_KEY": payloads.KEY,
        "GOMODEL_WORKERS": str(site.workers),
        "HOST": "127.0.0.1",
        "PORT": str(site.port),
        "LOG_LEVEL": "warn",
        "PYTHONPATH": str(PROJECT),
    }
    return [site.binary, "-m", "gomodel"], environment


def envoy(site: Site) -> Launch:
    def address(port: int) -> dict[str, object]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    base = "type.googleapis.com/envoy.extensions"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "vllm", "timeout": "0s"}}
    manager = {
        "@type": f"{base}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "vllm", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{base}.filters.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "address": address(site.port),
        "tcp_backlog_size": 4096,
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
        ],
    }
    limits = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), MANY)
    cluster = {
        "name": "vllm",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [limits]},
        "load_assignment": {
            "cluster_name": "vllm",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(site.upstream)}}]}],
        },
    }
    path = site.directory / "envoy.json"
    path.write_text(json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
    command = [site.binary, "-c", str(path), "--concurrency", str(site.workers)]
    return [*command, "--disable-hot-restart", "-l", "error"], {}


def vllm_router(site: Site) -> Launch:
    command = [site.binary, "--host", "127.0.0.1", "--port", str(site.port), "--policy", "round_robin"]
    command += ["--worker-urls", f"http://127.0.0.1:{site.upstream}", "--log-level", "error"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    return command, {}


def smg(site: Site) -> Launch:
    command = [site.binary, "launch", "--host", "127.0.0.1", "--port", str(site.port), "--policy", "round_robin"]
    command += ["--worker-urls", f"http://127.0.0.1:{site.upstream}", "--log-level", "error", "--backend", "vllm"]
    command += ["--max-concurrent-requests", str(MANY), "--disable-tokenizer-autoload"]
    command += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(free_port())]
    return command, {}


def litellm(site: Site) -> Launch:
    parameters = {"model": "hosted_vllm/m/x", "api_base": f"http://127.0.0.1:{site.upstream}/v1", "api_key": "none"}
    path = site.directory / "litellm.json"
    path.write_text(
        json.dumps(
            {
                "model_list": [{"model_name": "m/x", "litellm_params": parameters}],
                "general_settings": {"master_key": payloads.KEY},
                "litellm_settings": {"request_timeout": 600, "telemetry": False},
            }
        )
    )
    command = [site.binary, "--config", str(path), "--host", "127.0.0.1", "--port", str(site.port)]
    environment = {"LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    return [*command, "--num_workers", str(site.workers)], environment
