"""The watch over the event loop: what holds it outside of the tests' own code is named."""

import asyncio
import time
from typing import Any

import pytest

import gomodel

from .stalls import LIMIT_S, Stalls

# As if it stood in the package, for what stands in a test is the test's affair.
SOURCE = """
def work():
    until = time.thread_time() + 4 * LIMIT_S
    while time.thread_time() < until:
        pass

def wait():
    time.sleep(6 * LIMIT_S)
"""


async def watched(path: str, name: str) -> list[str]:
    """What is found while a function of that name runs which stands in that file."""
    names: dict[str, Any] = {"time": time, "LIMIT_S": LIMIT_S}
    exec(compile(SOURCE, path, "exec"), names)
    stalls = Stalls()
    await asyncio.sleep(0.03)
    names[name]()
    await asyncio.sleep(0)
    return stalls.stop()


@pytest.mark.parametrize(("name", "how"), [("work", "busy"), ("wait", "waiting")])
async def test_what_holds_the_loop_is_named(name: str, how: str) -> None:
    (found,) = await watched(gomodel.__file__, name)
    assert f"in {name}" in found
    assert f"{how} in" in found


async def test_what_a_test_does_itself_is_not_named() -> None:
    assert await watched(__file__, "work") == []


async def test_waiting_in_the_loop_is_no_stall() -> None:
    stalls = Stalls()
    await asyncio.sleep(3 * LIMIT_S)
    assert stalls.stop() == []
