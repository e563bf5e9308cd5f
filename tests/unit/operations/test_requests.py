"""What operators see of running requests, and how they end one."""

import json
from typing import Any, NamedTuple

import pytest

from gomodel.operations import handlers
from gomodel.operations.requests import abort, listed, merged
from gomodel.telemetry.record import Phase, Record

from ...harness.leaks import nothing_left
from ...harness.scripted import (
    SSE_HEAD,
    ReadHead,
    Stall,
    chunked,
    head,
    request,
    sse,
)
from ...harness.verdicts import CANARY, OK, access_lines, ask, own_error, post

LIST = request("GET", "/admin/requests")
CODE = "aborted_by_operator"


def delete(request_id: str, headers: Any = ()) -> bytes:
    return request("DELETE", f"/admin/requests/{request_id}", headers)


class Place(NamedTuple):
    """A place in line, or a slot."""

    name: int
    waiting: bool
    replica: str | None = None

    def leave(self) -> None: ...


def record(request_id: str, started: float = 100.0, **known: Any) -> Record:
    made = Record("POST", "192.0.2.1", started)
    made.id = request_id
    for name, value in known.items():
        setattr(made, name, value)
    return made


class TestListed:
    def test_says_all_that_is_known_of_a_request(self):
        running = record(
            "r-1",
            route="/v1/completions",
            instance="vllm",
            replica="gpu-1:8000",
            model="m",
            phase=Phase.DATA,
            since=104.5,
            first_byte=101.25,
            bytes_in=10,
            bytes_out=20,
            retries=1,
        )
        assert listed([running], 105.0) == [
            {
                "id": "r-1",
                "instance": "vllm",
                "replica": "gpu-1:8000",
                "model": "m",
                "route": "/v1/completions",
                "path": None,
                "method": "POST",
                "client": "192.0.2.1",
                "key": None,
                "phase": "data",
                "phase_s": 0.5,
                "place": None,
                "queued_s": 0.0,
                "age_s": 5.0,
                "time_to_first_byte_s": 1.25,
                "bytes_in": 10,
                "bytes_out": 20,
                "retries": 1,
            }
        ]

    def test_says_who_waits_where_in_line_and_for_how_long(self):
        first, second, served = (record(name) for name in "123")
        for name, each in enumerate((first, second, served), 41):
            each.place = Place(name, each is not served)
            each.enter(Phase.QUEUE, 101.0, None)
        served.queued_s = 0.25
        entries = merged([listed([first, served], 103.0), listed([second], 103.0)], [42, 41])
        known = {entry["id"]: (entry["place"], entry["queued_s"]) for entry in entries}
        assert known == {"1": (2, 2.0), "2": (1, 2.0), "3": (None, 0.25)}

    def test_says_null_of_what_is_not_known_yet(self):
        [entry] = listed([record("r-1")], 100.0)
        unknown = [entry[name] for name in ("instance", "replica", "model", "time_to_first_byte_s")]
        assert unknown == [None] * 4
        assert entry["phase"] == "request"

    def test_says_the_path_where_the_route_does_not(self):
        hostile = "/p/vllm/v1/\x1b[2J" + "x" * 5000 + "?api-key=secret"
        [entry] = listed([record("r", route="/p/{provider}/*", target=hostile)], 105.0)
        assert entry["path"].startswith("/p/vllm/v1/%1B[2Jxxx")
        assert len(entry["path"]) <= 203
        assert "secret" not in json.dumps(entry)

    def test_has_the_oldest_first_and_not_the_one_that_asks(self):
        asking = record("r-3", 103.0)
        running = [record("r-2", 102.0), asking, record("r-1", 101.0)]
        assert [each["id"] for each in listed(running, 104.0, asking)] == ["r-1", "r-2"]

    @pytest.mark.parametrize("model", ["m" * (1 << 20), '"\n', "\ud800", "\x1b[2J"])
    def test_is_plain_json_whatever_a_model_is_called(self, model):
        text = json.dumps(listed([record("r-1", model=model)], 101.0))
        assert len(text) < 2000
        assert text.isascii()
        assert json.loads(text)[0]["model"].startswith(model[:200])

    def test_lists_of_several_workers_are_one_list(self):
        one, two = listed([record("r-1", 101.0), record("r-3", 103.0)], 104.0), listed([record("r-2", 102.0)], 104.0)
        assert [each["id"] for each in merged([two, one])] == ["r-1", "r-2", "r-3"]


class TestAbort:
    def test_of_an_unknown_id_ends_nothing(self):
        running = record("r-1")
        assert abort([running], "r-2") == 0
        assert (running.aborted, running.ended_by) == ("", "")

    def test_never_ends_the_request_that_asks(self):
        asking = record("r-1")
        assert abort([asking], "r-1", asking) == 0


async def running(handle: Any, connect: Any, count: int = 1) -> list[dict[str, Any]]:
    """What GET /admin/requests lists."""
    answer = await ask(await connect(handle), LIST)
    assert (answer.status, answer.get("Content-Type"), answer.get("Cache-Control")) == (
        200,
        "application/json",
        "no-store",
    )
    entries: list[dict[str, Any]] = answer.json()["requests"]
    assert len(entries) == count
    return entries


async def end(handle: Any, connect: Any, request_id: str = "r-1", count: int = 1) -> None:
    answer = await ask(await connect(handle), delete(request_id))
    assert (answer.status, answer.json()) == (200, {"id": request_id, "aborted": count})


async def line_of(handle: Any, request_id: str) -> tuple[Any, ...]:
    def lines() -> list[dict[str, Any]]:
        return [each for each in access_lines(handle) if each["request_id"] == request_id]

    await nothing_left(lambda: [] if lines() else ["a request that runs"])
    [line] = lines()
    return tuple(line.get(name) for name in ("status", "ended_by", "phase", "reason"))


def named(**options: Any) -> bytes:
    return post(headers=[("X-Request-Id", "r-1")], **options)


class TestTheRoute:
    async def test_lists_a_stream_that_runs(self, gateway, upstream, connect):
        upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Stall())
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        await client.send(named())
        await client.read_head()
        await client.read_chunk()
        [entry] = await running(handle, connect)
        assert (entry["id"], entry["instance"], entry["model"]) == ("r-1", "vllm", "m")
        assert (entry["route"], entry["method"], entry["client"]) == ("/v1/chat/completions", "POST", "127.0.0.1")
        assert (entry["phase"], entry["bytes_out"], entry["retries"]) == ("data", 9, 0)
        assert 0 <= entry["time_to_first_byte_s"] <= entry["age_s"]

    async def test_lists_nothing_when_nothing_runs(self, gateway, upstream, connect):
        await running(await gateway(vllm=upstream), connect, 0)

    async def test_needs_the_key_and_tells_no_secret(self, gateway, upstream, connect):
        upstream.on_request(ReadHead(), Stall())
        handle = await gateway(vllm=upstream, GOMODEL_MASTER_KEY=CANARY, VLLM_API_KEY=CANARY)
        key = ("Authorization", f"Bearer {CANARY}")
        client = await connect(handle)
        await client.send(post(f"/v1/chat/completions?key={CANARY}", headers=[key]))
        await upstream.wait_for_request()
        for raw in (LIST, delete("r-1")):
            own_error(await ask(await connect(handle), raw), 401, "invalid_api_key", "authentication_error")
        answer = await ask(await connect(handle), request("GET", "/admin/requests", [key]))
        assert len(answer.json()["requests"]) == 1
        assert CANARY not in answer.raw.decode()

    @pytest.mark.parametrize(
        ("method", "target", "status"),
        [
            ("POST", "/admin/requests", 405),
            ("DELETE", "/admin/requests", 405),
            ("GET", "/admin/requests/r-1", 405),
            ("DELETE", "/admin/requests/no%20id", 404),
        ],
    )
    async def test_serves_no_other_method(self, gateway, upstream, connect, method, target, status):
        answer = await ask(await connect(await gateway(vllm=upstream)), request(method, target, body=b""))
        assert answer.status == status

    async def test_knows_the_requests_of_all_workers(self, gateway, upstream, connect, monkeypatch):
        asked: list[Any] = []

        async def ask_siblings(kind: str, argument: Any = None) -> list[Any]:
            asked.append((kind, argument))
            return {"requests": [listed([record("r-9")], 101.0), []], "abort": [0, 2]}[kind]

        monkeypatch.setattr(handlers, "ask_siblings", ask_siblings)
        handle = await gateway(vllm=upstream)
        [entry] = await running(handle, connect)
        assert entry["id"] == "r-9"
        await end(handle, connect, "r-9", 2)
        assert asked == [("requests", None), ("abort", "r-9")]


class TestDeletion:
    async def test_of_a_request_without_an_answer_is_a_503_that_says_so(self, gateway, upstream, connect):
        upstream.on_request(ReadHead(), Stall())
        handle = await gateway(vllm=upstream, CIRCUIT_BREAKER_FAILURE_THRESHOLD="1")
        client = await connect(handle)
        await client.send(named())
        sent = await upstream.wait_for_request()
        await sent.done
        await end(handle, connect)
        answer = await client.read_response("POST")
        own_error(answer, 503, CODE, "overloaded_error")
        assert (answer.get("X-Should-Retry"), answer.get("Retry-After")) == ("false", None)
        assert (answer.get("X-Request-Id"), answer.get("X-GoModel-Provider")) == ("r-1", "vllm")
        await sent.connection.closed
        assert await line_of(handle, "r-1") == (503, "gomodel", "head", CODE)
        # It was nobody's failure, and the client's connection is as good as before.
        instance = handle.replica()
        assert (instance.breaker.closed, instance.in_flight) == (True, 0)
        upstream.on_request(OK)
        assert (await ask(client)).status == 200

    async def test_of_a_stream_breaks_it_off(self, gateway, upstream, connect):
        upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Stall())
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        await client.send(named())
        await client.read_head()
        await client.read_chunk()
        await end(handle, connect)
        answer = await client.read_rest()
        assert answer.complete is False
        first, told, rest = answer.body.split(b"\n\n")
        assert (first, rest) == (b"data: 1", b"")
        assert json.loads(told.removeprefix(b"data: "))["error"]["code"] == "stream_interrupted"
        assert answer.end in ("fin", "reset")
        await (await upstream.wait_for_request()).connection.closed
        assert await line_of(handle, "r-1") == (200, "gomodel", "data", CODE)
        await running(handle, connect, 0)

    async def test_of_an_upload(self, gateway, upstream, connect):
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        fields = [("Content-Type", "application/json"), ("X-Request-Id", "r-1")]
        await client.send(request("POST", "/v1/completions", fields, body=b'{"model": "vllm/m"}')[:-5])
        await nothing_left(lambda: [] if handle.gateway.telemetry.running.records else ["a request to come"])
        await end(handle, connect)
        own_error(await client.read_response("POST"), 503, CODE, "overloaded_error")
        assert await line_of(handle, "r-1") == (503, "gomodel", "request", CODE)
        assert upstream.connections == []

    async def test_of_an_upload_that_is_being_forwarded(self, gateway, upstream, connect):
        upstream.on_request(ReadHead(), Stall())
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        await client.send(named()[:-5])
        sent = await upstream.wait_for_request()
        await end(handle, connect)
        own_error(await client.read_response("POST"), 503, CODE, "overloaded_error")
        await sent.connection.closed
        upstream.lenient = True  # it saw half a request, as it should
        assert not sent.complete

    async def test_of_a_request_that_waits_for_a_connection(self, gateway, upstream, connect):
        await upstream.jam()
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        await client.send(named())
        await nothing_left(lambda: [] if handle.gateway.telemetry.running.records else ["a request to come"])
        await end(handle, connect)
        own_error(await client.read_response("POST"), 503, CODE, "overloaded_error")
        assert await line_of(handle, "r-1") == (503, "gomodel", "connect", CODE)

    async def test_of_a_request_that_waits_to_be_tried_again(self, gateway, upstream, connect):
        upstream.stop_listening()
        handle = await gateway(vllm=upstream, RETRY_INITIAL_BACKOFF="60s", RETRY_MAX_BACKOFF="60s")
        client = await connect(handle)
        await client.send(named())
        records = handle.gateway.telemetry.running.records
        await nothing_left(lambda: [] if any(each.phase is Phase.QUEUE for each in records) else ["a wait to come"])
        await end(handle, connect)
        own_error(await client.read_response("POST"), 503, CODE, "overloaded_error")
        assert await line_of(handle, "r-1") == (503, "gomodel", "queue", CODE)

    async def test_of_a_stream_whose_client_does_not_read(self, gateway, upstream, connect):
        upstream.on_request(head(200, [("Transfer-Encoding", "chunked")]), chunked(*[b"x" * 65536] * 320), Stall())
        handle = await gateway(vllm=upstream, HTTP_WRITE_IDLE_TIMEOUT="300ms")
        client = await connect(handle, receive_buffer=4096)
        await client.send(named())
        records = handle.gateway.telemetry.running.records
        await nothing_left(lambda: [] if any(each.phase is Phase.WRITE for each in records) else ["a stall to come"])
        await end(handle, connect)
        await (await upstream.wait_for_request()).connection.closed
        assert await line_of(handle, "r-1") == (200, "gomodel", "write", CODE)
        await client.read_head()
        assert not (await client.read_rest()).complete

    async def test_speaks_to_anthropic_clients_in_their_own_shape(self, gateway, upstream, connect):
        upstream.on_request(ReadHead(), Stall())
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        await client.send(post("/v1/messages", headers=[("X-Request-Id", "r-1")]))
        await (await upstream.wait_for_request()).done
        await end(handle, connect)
        answer = await client.read_response("POST")
        assert (answer.status, answer.json()["type"], answer.json()["error"]["type"]) == (
            503,
            "error",
            "overloaded_error",
        )

    async def test_of_a_websocket_ends_both_sides(self, gateway, upstream, connect):
        upgrade = [("Connection", "Upgrade"), ("Upgrade", "websocket")]
        upstream.on_request(head(101, upgrade), Stall())
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        fields = [*upgrade, ("Sec-WebSocket-Key", "a" * 22 + "=="), ("X-Request-Id", "r-1")]
        await client.send(request("GET", "/v1/realtime?model=vllm/m", fields))
        await client.read_until(b"\r\n\r\n")
        [entry] = await running(handle, connect)
        assert entry["phase"] == "data"
        await end(handle, connect)
        await client.closed
        await (await upstream.wait_for_request()).connection.closed
        assert await line_of(handle, "r-1") == (101, "gomodel", "data", CODE)

    async def test_of_an_id_that_several_requests_have_ends_them_all_but_itself(self, gateway, upstream, connect):
        upstream.repeat(ReadHead(), Stall())
        handle = await gateway(vllm=upstream)
        clients = [await connect(handle) for _ in range(2)]
        for client in clients:
            await client.send(named())
        await upstream.wait_for_request(2)
        answer = await ask(await connect(handle), delete("r-1", [("X-Request-Id", "r-1")]))
        assert (answer.status, answer.json()["aborted"]) == (200, 2)
        for client in clients:
            assert (await client.read_response("POST")).status == 503

    async def test_of_an_unknown_id_is_a_404(self, gateway, upstream, connect):
        upstream.on_request(sse(["1"]))
        handle = await gateway(vllm=upstream)
        await ask(await connect(handle), named())
        for request_id in ("r-1", "never-heard-of"):
            own_error(await ask(await connect(handle), delete(request_id)), 404, "not_found", "invalid_request_error")

    async def test_leaves_other_requests_alone(self, gateway, upstream, connect):
        upstream.on_request(ReadHead(), Stall())
        upstream.on_request(ReadHead(), Stall(), OK)
        handle = await gateway(vllm=upstream)
        ended, other = await connect(handle), await connect(handle)
        await ended.send(named())
        await upstream.wait_for_request(1)
        await other.send(post(headers=[("X-Request-Id", "r-2")]))
        await upstream.wait_for_request(2)
        await end(handle, connect)
        [entry] = await running(handle, connect)
        assert entry["id"] == "r-2"
        upstream.release()
        assert (await other.read_response("POST")).status == 200

    async def test_is_counted_as_gomodels_doing(self, gateway, upstream, connect):
        upstream.on_request(ReadHead(), Stall())
        handle = await gateway(vllm=upstream)
        client = await connect(handle)
        await client.send(named())
        await upstream.wait_for_request()
        await end(handle, connect)
        await line_of(handle, "r-1")
        assert handle.gateway.telemetry.aborted == {("gomodel", Phase.HEAD): 1}
