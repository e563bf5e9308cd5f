"""A store on SQLite in an empty directory, and the API on it, without a gateway in front."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from aiohttp.test_utils import TestClient, TestServer

from gomodel.batches.api import Api
from gomodel.batches.batch_store import BatchStore
from gomodel.batches.contents import Contents
from gomodel.batches.database import Database
from gomodel.batches.file_store import FileStore
from gomodel.batches.usage_store import UsageStore
from gomodel.config.settings import Batching


class Store:
    """Everything that is kept, in one place."""

    def __init__(self, data_dir: Path, url: str | None = None) -> None:
        self.contents = Contents(data_dir)
        self.contents.prepare()
        self.database = Database(url, data_dir)
        self.files = FileStore(self.database)
        self.batches = BatchStore(self.database)
        self.usage = UsageStore(self.database)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    found = Store(tmp_path / "data")
    await found.database.open()
    yield found
    await found.database.close()


class Caller:
    """A client of the API; `changes` counts what it told the batcher."""

    def __init__(self, client: TestClient, api: Api) -> None:
        self.client = client
        self.api = api
        self.changes = 0


@pytest.fixture
async def calls(store: Store) -> AsyncIterator[Caller]:
    config = Batching(str(store.contents.data_dir), None, 1000, 86400.0, 16, 10)

    def changed() -> None:
        caller.changes += 1

    api = Api(config, store.files, store.batches, store.contents, store.usage, changed)
    api.ready.set()
    async with TestClient(TestServer(api.app())) as client:
        caller = Caller(client, api)
        yield caller


Make = Callable[..., object]
