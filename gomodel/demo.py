"""`gomodel demo`: the gateway in front of two simulated vLLM servers, all in one process, to be tried with curl.

Decides the configuration of the demonstration, which reads no .env file: a real instance must never be part of it.
"""

import json
import os
import shlex
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from tempfile import TemporaryDirectory

from aiohttp import web

from .config.files import Files
from .config.load import from_environ
from .config.settings import Config
from .host.listeners import Listener
from .host.signals import Signals
from .process.start import Company, start
from .simulator import build_app

# The instances' names and the models they serve.
_MODELS = {"vllm": "demo/llama-sim", "vllm-test": "demo/qwen-sim"}
_KEY = "demo"
_INSTANCE_KEY = "simulated-instance-key"
_RATE = 25.0
_ANYWHERE = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}


def start_demo(signals: Signals, rate: float | None, port: int | None) -> int:
    """Serve the demonstration until told to end; the exit status, as `process.start`.

    `rate`: tokens per second of a stream; `port`: listened on instead of PORT. Raises ConfigError.
    """
    simulation = _Simulation(os.environ, _RATE if rate is None else rate, port)
    return start(simulation.load(Files()), simulation.load, signals, simulation)


class _Simulation(Company):
    def __init__(self, environ: Mapping[str, str], tokens_per_s: float, port: int | None) -> None:
        self._environ = environ
        self._tokens_per_s = tokens_per_s
        self._port = port
        self._base_path = ""
        # For files and batches, where they are installed and the operator has no place for them.
        self._data: TemporaryDirectory[str] | None = None
        if not environ.get("GOMODEL_DATA_DIR") and find_spec("sqlalchemy") is not None:
            self._data = TemporaryDirectory(prefix="gomodel-demo-")
        # Bound now, because their ports belong into the configuration.
        self._sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in _MODELS}

    def load(self, files: Files) -> Config:
        """The operator's environment with the simulated instances in place of all others. Raises ConfigError."""
        environ = {name: value for name, value in self._environ.items() if not name.startswith("VLLM_")}
        environ["HOST"] = self._environ.get("HOST") or "127.0.0.1"
        environ["GOMODEL_WORKERS"] = "1"  # the simulation is in this process
        # The guide is to stay in sight; a line for every request would push it off the screen.
        environ["LOG_LEVEL"] = self._environ.get("LOG_LEVEL") or "warning"
        if self._data is not None:
            environ["GOMODEL_DATA_DIR"] = self._data.name
        if self._port is not None:
            environ["PORT"] = str(self._port)
        if not environ.get("GOMODEL_MASTER_KEY") and not environ.get("GOMODEL_MASTER_KEY_FILE"):
            environ["GOMODEL_MASTER_KEY"] = _KEY
        for name, sock in self._sockets.items():
            prefix = name.upper().replace("-", "_")
            environ[f"{prefix}_BASE_URL"] = f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
            environ[f"{prefix}_API_KEY"] = _INSTANCE_KEY
        config = from_environ(environ, files)
        self._base_path = config.base_path
        return config

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        runners = []
        for name, sock in self._sockets.items():
            app = build_app(model=_MODELS[name], tokens_per_s=self._tokens_per_s, api_key=_INSTANCE_KEY)
            runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            await web.SockSite(runner, sock).start()
            runners.append(runner)
        try:
            yield
        finally:
            for runner in runners:
                await runner.cleanup()
            if self._data is not None:
                self._data.cleanup()

    def ready(self, listeners: list[Listener]) -> None:
        # Whoever was to read the guide may have left; that is no reason to end.
        with suppress(OSError):
            print(_guide(*self._curl(listeners), self._base_path, self._key_in_words()), end="", flush=True)

    def _key_in_words(self) -> str:
        for name in ("GOMODEL_MASTER_KEY", "GOMODEL_MASTER_KEY_FILE"):
            if self._environ.get(name):
                return f"what {name} says"
        return _KEY

    def _curl(self, listeners: list[Listener]) -> tuple[str, str]:
        """How curl reaches the gateway, key included, and the URL's beginning."""
        # A key that the operator chose is not shown: the shell fills it in.
        key = _KEY
        if self._environ.get("GOMODEL_MASTER_KEY"):
            key = "$GOMODEL_MASTER_KEY"
        elif file := self._environ.get("GOMODEL_MASTER_KEY_FILE"):
            key = f"$(cat {shlex.quote(file)})"
        curl = f'curl -s -H "Authorization: Bearer {key}"'
        for listener in listeners:
            if listener.port is not None:
                scheme, _, place = listener.address.partition("://")
                host, _, port = place.rpartition(":")
                return curl + (" -k" if scheme == "https" else ""), f"{scheme}://{_ANYWHERE.get(host, host)}:{port}"
        return f"{curl} --unix-socket {shlex.quote(listeners[0].address.removeprefix('unix:'))}", "http://localhost"


def _guide(curl: str, origin: str, base_path: str, key: str) -> str:
    url = origin + base_path
    model, other = _MODELS["vllm"], _MODELS["vllm-test"]
    chat = {"model": f"vllm/{model}", "messages": [{"role": "user", "content": "Say something"}], "max_tokens": 40}
    tokenize = {"model": other, "prompt": "Say something"}

    def post(path: str, body: Mapping[str, object], option: str = "") -> str:
        return f"{curl}{option} -H 'Content-Type: application/json' \\\n    {url}{path} -d '{json.dumps(body)}'"

    return f"""
gomodel serves in front of a simulation: two pretended vLLM servers in this process answer with words from a list.
No model runs. LOG_LEVEL=info shows a line for every request. Ctrl-C ends it when the running answers are
complete, a second one at once.

The models of both:
  {curl} {url}/v1/models

A chat, with the instance in front of the model:
  {post("/v1/chat/completions", chat)}

The same as a stream:
  {post("/v1/chat/completions", {**chat, "stream": True}, " -N")}

Passthrough to the second instance:
  {post("/p/vllm-test/tokenize", tokenize)}

A file of requests, one a line as OpenAI's batches have them, answered into another file:
  {_batch(curl, url)}

The page for a browser, with the instances and the requests in flight:
  {_page(curl, url)}
  key: {key}
"""


def _batch(curl: str, url: str) -> str:
    if "--unix-socket" in curl:
        return "not over a unix socket; set PORT"
    key = curl.partition("Bearer ")[2].partition('"')[0]
    return f'OPENAI_BASE_URL={url}/v1 OPENAI_API_KEY="{key}" gomodel batch requests.jsonl --out answers.jsonl'


def _page(curl: str, url: str) -> str:
    return f"{url}/" if "--unix-socket" not in curl else "none on a unix socket; set PORT"
