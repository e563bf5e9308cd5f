"""A server to run batches on, a client's session, and a PostgreSQL for those who share."""

from collections.abc import AsyncIterator, Iterator

import pytest
from aiohttp import ClientSession

from ..harness.batches import Vllm, serving
from ..harness.postgresql import PostgreSQL, postgresql


@pytest.fixture
async def vllm() -> AsyncIterator[Vllm]:
    async with serving() as found:
        yield found


@pytest.fixture
async def session() -> AsyncIterator[ClientSession]:
    async with ClientSession() as found:
        yield found


@pytest.fixture(scope="session")
def server() -> Iterator[PostgreSQL]:
    with postgresql() as found:
        yield found
