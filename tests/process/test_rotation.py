"""What an operator takes out of rotation is out in every worker, and in those that start later."""

import os
import signal

from ..harness.gateways import asked, have_listened, number_of_children, started
from ..harness.processes import PATIENT, RUN, Process, Run
from ..harness.scripted import ScriptedUpstream, request
from ..harness.verdicts import OK

CHAT = request("POST", "/v1/chat/completions", [("Connection", "close")], b'{"model": "m"}')
DRAIN, RESUME = (request("POST", f"/admin/instances/vllm/{what}", body=b"") for what in ("drain", "resume"))
BOTH_LATER = 24  # so many connections in a row, the kernel gives each worker some of them


async def statuses(process: Process) -> set[int]:
    return {(await asked(process, CHAT)).status for _ in range(BOTH_LATER)}


async def test_an_order_to_one_worker_holds_in_all_and_in_one_that_takes_the_place_of_another(
    run: Run, upstream: ScriptedUpstream
) -> None:
    upstream.repeat(OK)
    process = await started(run, 2, {"VLLM_BASE_URL": upstream.base_url}, code=PATIENT + RUN)
    assert await statuses(process) == {200}
    assert (await asked(process, DRAIN)).status == 200
    assert await statuses(process) == {503}
    for pid in await number_of_children(process, 2):
        os.kill(pid, signal.SIGKILL)
        await process.says(f"-{pid} ended with SIGKILL")
    await process.says("Instance vllm is out of rotation", 4)
    await have_listened(process, 4)
    assert await statuses(process) == {503}
    process.signal(signal.SIGHUP)
    await process.says("was read again")
    assert await statuses(process) == {503}
    assert (await asked(process, RESUME)).status == 200
    assert await statuses(process) == {200}
