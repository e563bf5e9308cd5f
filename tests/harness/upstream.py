"""A scripted instance on loopback or a unix socket: does to each request exactly what the test wrote down.

Decides which script a connection or request gets, and keeps the list of everything that came. Knows nothing of the
gateway.
"""

import asyncio
import os
import socket
import traceback

from .connection import Connection, Request
from .steps import Close, Step, json_response, response
from .wire import HARNESS_SOCKETS, Signal


class ScriptedUpstream:
    """The listener, its scripts and its transcript.

    `on_accept` scripts are used up by connections in the order they are accepted, `on_request` scripts by requests
    in the order their heads arrive; a request without one gets what `repeat` said, or fails the test. The gateway's
    own questions (`GET /v1/models`, `/health`, `/metrics`) are answered and kept apart in `probes`, and
    `GET /is_sleeping` in `sleep_probes`, unless a script names their path. A test that means to see malformed requests
    sets `lenient`.
    """

    def __init__(self, sock: socket.socket, models: tuple[str, ...], *, tls: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = sock
        self.tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._accept_scripts: list[tuple[Step | bytes, ...]] = []
        self._request_scripts: list[tuple[str | None, str | None, tuple[Step | bytes, ...]]] = []
        self._repeated: tuple[Step | bytes, ...] | None = None
        self._arrivals: dict[tuple[str, int], Signal] = {}
        self._blockers: list[socket.socket] = []
        models_list = {"object": "list", "data": [{"id": model, "object": "model"} for model in models]}
        self._probe_answers: dict[str, Step | bytes] = {
            "/v1/models": json_response(models_list),
            "/health": response(),
            "/is_sleeping": json_response({"detail": "Not Found"}, 404),
            "/metrics": response(),
        }
        self.released = asyncio.Event()
        self.connections: list[Connection] = []
        self.requests: list[Request] = []
        self.probes: list[Request] = []
        self.sleep_probes: list[Request] = []
        self.script_failures: list[str] = []
        self.lenient = False

    @classmethod
    async def start(
        cls,
        *,
        unix_path: str | None = None,
        receive_buffer: int | None = None,
        send_buffer: int | None = None,
        models: tuple[str, ...] = ("m",),
        tls: bool = False,
        host: str = "127.0.0.1",
    ) -> "ScriptedUpstream":
        """Listens on a free port of `host`, with TLS or not, or on `unix_path`; "0.0.0.0" is all of loopback.

        Small kernel buffers make backpressure quick to see.
        """
        if unix_path is not None:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(unix_path)
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            with socket.create_server((host, 0), family=family, dualstack_ipv6=":" in host) as probe:
                address = probe.getsockname()
            # Bound by number, so that the port survives stop_listening().
            sock = socket.socket(family)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        for option, size in ((socket.SO_RCVBUF, receive_buffer), (socket.SO_SNDBUF, send_buffer)):
            if size is not None:
                sock.setsockopt(socket.SOL_SOCKET, option, size)
        sock.setblocking(False)
        upstream = cls(sock, models, tls=tls)
        upstream.listen()
        return upstream

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def address(self) -> str:
        """What of its address nobody but the gateway has any use for: the port, or the path of its socket."""
        name = self._listener.getsockname()
        return name if isinstance(name, str) else str(name[1])

    @property
    def base_url(self) -> str:
        """What belongs into VLLM_BASE_URL."""
        name = self._listener.getsockname()
        if isinstance(name, str):
            return f"unix://{name}:/v1"
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{name[1]}/v1"

    @property
    def open_connections(self) -> list[Connection]:
        """The connections the gateway has not closed."""
        return [each for each in self.connections if not each.closed.done]

    def on_accept(self, *steps: Step | bytes) -> None:
        """The next connection runs these before anything is read; afterwards it serves requests as usual."""
        self._accept_scripts.append(steps)

    def on_request(self, *steps: Step | bytes, method: str | None = None, path: str | None = None) -> None:
        """The next request (of this method and path, if given) is answered so; its body is read first, unless the
        first step is a Read step."""
        self._request_scripts.append((method, path, steps))

    def answer_probes(self, path: str, answer: Step | bytes) -> None:
        """The gateway's own questions for `path` are answered so from now on."""
        self._probe_answers[path] = answer

    def repeat(self, *steps: Step | bytes) -> None:
        """Every request without a script of its own is answered so."""
        self._repeated = steps

    def release(self) -> None:
        """Lets every Stall() go on, also those to come."""
        self.released.set()

    def listen(self) -> None:
        """Takes connections (again)."""
        self._listener.listen(1024)
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def stop_listening(self) -> None:
        """Connects are refused from now on; the port stays ours and established connections live on."""
        self._loop.remove_reader(self._listener.fileno())
        self._listener.shutdown(socket.SHUT_RDWR)

    async def jam(self) -> None:
        """Connects neither succeed nor fail from now on, as with a host that is gone; TCP only."""
        self._loop.remove_reader(self._listener.fileno())
        self._listener.listen(0)
        for _ in range(8):
            blocker = socket.socket()
            blocker.setblocking(False)
            self._blockers.append(blocker)
            HARNESS_SOCKETS.add(blocker)
            try:
                async with asyncio.timeout(0.1):
                    await self._loop.sock_connect(blocker, self._listener.getsockname())
            except TimeoutError:
                return
        raise AssertionError("the accept queue does not fill up")

    async def wait_for_request(self, number: int = 1) -> Request:
        """The nth request ever, from 1, as soon as its head is in; `await request.done` for its body."""
        request: Request = await self._arrival("request", number)
        return request

    async def wait_for_connection(self, number: int = 1) -> Connection:
        """The nth connection ever, from 1."""
        connection: Connection = await self._arrival("connection", number)
        return connection

    def _arrival(self, kind: str, number: int) -> Signal:
        return self._arrivals.setdefault((kind, number), Signal(f"{kind} {number} at the upstream"))

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        connection = Connection(self, sock, len(self.connections) + 1)
        self.connections.append(connection)
        steps = self._accept_scripts.pop(0) if self._accept_scripts else ()
        task = self._loop.create_task(self._serve(connection, steps))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._arrival("connection", len(self.connections)).set(connection)

    async def _serve(self, connection: Connection, steps: tuple[Step | bytes, ...]) -> None:
        try:
            await connection.serve(steps)
        except Exception:
            self.script_failures.append(f"a script failed: {traceback.format_exc()}")

    def register(self, request: Request) -> None:
        """A request's head is in."""
        known = request.method == "GET" and request.target in self._probe_answers
        request.is_probe = known and not any(path == request.target for _, path, _ in self._request_scripts)
        if request.is_probe:
            (self.sleep_probes if request.target == "/is_sleeping" else self.probes).append(request)
            return
        self.requests.append(request)
        self._arrival("request", len(self.requests)).set(request)

    def steps_for(self, request: Request) -> tuple[Step | bytes, ...]:
        """The script of a request whose head was just read."""
        if request.malformed:
            return (Close(),)
        if request.is_probe:
            return (self._probe_answers[request.target],)
        for index, (method, path, steps) in enumerate(self._request_scripts):
            if method in (None, request.method) and path in (None, request.target.partition("?")[0]):
                del self._request_scripts[index]
                return steps
        return (self._complain,) if self._repeated is None else self._repeated

    async def _complain(self, connection: Connection) -> None:
        # Only once the whole request is in: one that breaks off would never have got an answer.
        request = connection.requests[-1]
        self.script_failures.append(f"no script for {request.method} {request.target}")
        await connection.wire.send(response(b"unscripted", 500, [("Connection", "close")]))
        connection.wire.half_close()

    @property
    def problems(self) -> list[str]:
        """What scripts failed at, and what RFC 9112 forbids in the requests that came."""
        requests = [request for connection in self.connections for request in connection.requests]
        return self.script_failures + [problem for request in requests for problem in request.problems]

    async def close(self) -> None:
        """Closes every socket and ends every script."""
        self._loop.remove_reader(self._listener.fileno())
        name = self._listener.getsockname()
        self._listener.close()
        if isinstance(name, str):
            os.unlink(name)
        for blocker in self._blockers:
            HARNESS_SOCKETS.discard(blocker)
            blocker.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A connection accepted in the last iteration has a task that never began, so nothing closed it.
        for connection in self.connections:
            connection.wire.close()
