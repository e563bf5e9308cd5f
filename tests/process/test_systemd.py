"""What systemd is told of a gateway, and the sockets that it hands to one."""

import asyncio
import os
import re
import signal
import socket
from pathlib import Path

import pytest

from ..harness.gateways import chat, status
from ..harness.processes import RUN, Run
from ..harness.scripted import (
    RawClient,
    ScriptedUpstream,
    env_for,
    response,
)
from ..harness.systemd import Manager, activated


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_systemd_is_told_of_every_change_of_state(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    manager = Manager(tmp_path / "notify")
    environ = {**env_for(vllm=upstream), "NOTIFY_SOCKET": manager.path, "WATCHDOG_USEC": "100000"}
    process = await run({**environ, "GOMODEL_WORKERS": workers, "GOMODEL_DRAIN_TIMEOUT": "30s"})
    assert await manager.told() == "READY=1"
    for _ in range(3):
        assert await manager.told() == "WATCHDOG=1"
    process.signal(signal.SIGHUP)
    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", await manager.told_but_for("WATCHDOG=1"))
    assert await manager.told_but_for("WATCHDOG=1") == "READY=1"
    process.signal(signal.SIGTERM)
    assert await manager.told_but_for("WATCHDOG=1") == "STOPPING=1\nEXTEND_TIMEOUT_USEC=35000000"
    assert await process.ended() == 0
    manager.close()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_unix_socket_of_systemd_is_served_and_stays(
    run: Run, upstream: ScriptedUpstream, tmp_path: Path, workers: str
) -> None:
    path = str(tmp_path / "activated.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        process = await activated(run, sock, {**env_for(vllm=upstream), "GOMODEL_WORKERS": workers})
        await process.says(f"Listening on unix:{path}")
        client = await RawClient.connect(path=path)
        assert await status(client) == 200
        client.wire.close()
        assert await process.stop() == 0
    assert "activated.sock" in os.listdir(tmp_path)


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_a_restart_behind_a_socket_of_systemd_fails_no_request(
    run: Run, upstream: ScriptedUpstream, workers: str
) -> None:
    upstream.repeat(response(b"answer"))
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        port = sock.getsockname()[1]
        environ = {**env_for(vllm=upstream), "GOMODEL_WORKERS": workers, "LOG_LEVEL": "info"}
        answers: list[int] = []
        over = asyncio.Event()

        async def ask(connection: str) -> None:
            client = None
            while not over.is_set():
                client = client or await RawClient.connect(port)
                await client.send(chat(("Connection", connection)))
                answer = await client.read_response("POST")
                answers.append(int(answer.status))
                if answer.must_close:
                    client.wire.close()
                    client = None
                await asyncio.sleep(0.005)  # the daemons that start need the processor too
            if client is not None:
                client.wire.close()

        # A test on a busy machine may leave a client alone for longer than an honest one is idle.
        patient = f"import gomodel.process.gateway; gomodel.process.gateway.GRACE_S = 20.0; {RUN}"
        processes = [await activated(run, sock, environ, patient)]
        await processes[0].says("Limits: ")
        asking = [asyncio.create_task(ask(connection)) for connection in ("close", "close", "keep-alive", "keep-alive")]
        for _ in range(3):
            processes.append(await activated(run, sock, environ, patient))
            await processes[-1].says("Limits: ")
            assert await processes[-2].stop() == 0
        over.set()
        await asyncio.gather(*asking)
        assert await processes[-1].stop() == 0
    assert set(answers) == {200}
    assert len(answers) > 50
