"""Which tasks the harness takes for the gateway's own, wherever the checkout lies and whatever it is called."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import gomodel

from .gateway import GatewayHandle
from .upstream import ScriptedUpstream

PACKAGE = Path(gomodel.__file__).parent


def waiting(source: Path) -> Coroutine[Any, Any, None]:
    """A coroutine whose code stands in `source`, as a traceback would have it."""
    names: dict[str, Any] = {"asyncio": asyncio}
    exec(compile("async def wait():\n    await asyncio.Event().wait()\n", str(source), "exec"), names)
    made: Coroutine[Any, Any, None] = names["wait"]()
    return made


@pytest.mark.parametrize(
    ("source", "counts"),
    [
        (PACKAGE / "app.py", True),
        (PACKAGE / "simulator" / "chat.py", True),
        (PACKAGE.parent / ".venv" / "lib" / "plugin.py", False),
        (PACKAGE.parent / "tests" / "test_relay.py", False),
        (Path("/srv/gomodel/.venv/lib/plugin.py"), False),
    ],
    ids=lambda value: value if isinstance(value, bool) else value.name,
)
async def test_a_task_is_the_gateways_when_its_code_is_the_packages(
    gateway: Callable[..., Awaitable[GatewayHandle]], upstream: ScriptedUpstream, source: Path, counts: bool
) -> None:
    handle = await gateway(vllm=upstream)
    before = len(handle.remains())
    task = asyncio.create_task(waiting(source))
    await asyncio.sleep(0)
    try:
        assert len(handle.remains()) - before == counts
    finally:
        task.cancel()
        await asyncio.wait([task])
