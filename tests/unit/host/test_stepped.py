"""Coroutines that run without a task."""

import asyncio

import pytest

from gomodel.host.stepped import Stepped

from ...harness.verdicts import turned


async def waiting_for(*futures):
    return [await future for future in futures]


@pytest.fixture
async def step():
    """Run a coroutine; what it ended with comes into the list."""
    loop = asyncio.get_running_loop()

    def run(coroutine):
        ended = []
        stepped = Stepped(loop, coroutine, lambda value, exc: ended.append((value, exc)))
        assert ended == []
        return stepped, ended

    return run


async def test_it_goes_on_when_what_it_waits_for_is_there(step):
    first, second = asyncio.Future(), asyncio.Future()
    _, ended = step(waiting_for(first, second))
    first.set_result(1)
    await asyncio.sleep(0)
    assert ended == []
    second.set_result(2)
    await turned(lambda: ended == [([1, 2], None)])


async def test_what_does_not_wait_ends_in_a_later_turn(step):
    _, ended = step(waiting_for())
    await turned(lambda: ended == [([], None)])


@pytest.mark.parametrize("error", [ConnectionRefusedError(), RuntimeError("closed")])
async def test_a_failure_is_told(step, error):
    future = asyncio.Future()
    _, ended = step(waiting_for(future))
    future.set_exception(error)
    await turned(lambda: ended == [(None, error)])


async def test_a_cancelled_one_ends_where_it_waits(step):
    future = asyncio.Future()
    stepped, ended = step(waiting_for(future))
    stepped.cancel()
    await turned(lambda: len(ended) == 1)
    assert isinstance(ended[0][1], asyncio.CancelledError)
    stepped.cancel()
    assert future.cancelled()
