"""The database of files and batches: SQLite in the data directory, or PostgreSQL.

Decides how it is opened, migrated and asked the time, and what its failures are called. Knows no statement but that.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

_logger = logging.getLogger("gomodel")

SQLITE_NAME = "gomodel.sqlite3"
# How long a writer waits for another one, and a connection for an answer.
_BUSY_S = 10.0
_CONNECT_S = 5.0
# The class of codes for what an operator of the database does.
_OPERATOR = "57P"
# Two gateways that start at once migrate one after the other. Any number that nobody else uses.
_MIGRATION_LOCK = 0x676F6D6F


class DatabaseAway(Exception):
    """The database cannot be asked now; whatever was under way did not happen. `full`: for want of room on its disk."""

    def __init__(self, *, full: bool = False, code: str = "") -> None:
        """`code` is PostgreSQL's for why it refuses (its documentation's appendix A)."""
        refuses = f"the database refuses, with its code {code}" if code else "the database does not answer"
        super().__init__("the disk of the database is full" if full else refuses)
        self.full = full
        self.code = code


class Database:
    """`await open()`, then `async with begin() as connection`; `close` at the end."""

    def __init__(self, url: str | None, data_dir: Path) -> None:
        """`url` as an operator writes it: postgresql://user:password@host/name; None: SQLite in `data_dir`."""
        self.engine: AsyncEngine
        self.shared = url is not None  # with other gateways, perhaps
        if url is None:
            self.engine = create_async_engine(
                sa.URL.create("sqlite+aiosqlite", database=str(data_dir / SQLITE_NAME)),
                connect_args={"timeout": _BUSY_S},
            )
            sa.event.listen(self.engine.sync_engine, "connect", _prepare_sqlite)
            sa.event.listen(self.engine.sync_engine, "begin", _begin_sqlite)
            self.now: sa.ColumnElement[float] = sa.literal_column("((julianday('now') - 2440587.5) * 86400.0)")
        else:
            address = sa.make_url(url).set(drivername="postgresql+asyncpg")
            self.engine = create_async_engine(
                address,
                pool_pre_ping=True,
                pool_size=5,
                connect_args={"timeout": _CONNECT_S, "command_timeout": _BUSY_S},
            )
            self.now = sa.literal_column("extract(epoch from clock_timestamp())::float8")

    async def open(self) -> None:
        """Bring the database up to this release. Raises DatabaseAway."""
        async with self.begin() as connection:
            if self.shared:
                await connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})"))
            await connection.run_sync(migrate)

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A connection and a transaction: all of it, or nothing. Raises DatabaseAway."""
        try:
            async with self.engine.begin() as connection:
                yield connection
        except (IntegrityError, ProgrammingError):
            raise  # a bug
        except DBAPIError as error:
            _logger.debug("The database failed", exc_info=error)
            raise DatabaseAway(full=_is_full(error), code=_code(error)) from None
        except (OSError, TimeoutError, PoolTimeout) as error:
            _logger.debug("The database cannot be reached", exc_info=error)
            raise DatabaseAway from None

    async def close(self) -> None:
        """Close all connections."""
        await asyncio.shield(self.engine.dispose())


def migrate(connection: sa.Connection) -> None:
    """Run the steps that `connection`'s database lacks, in its transaction."""
    config = AlembicConfig()
    config.set_main_option("script_location", "gomodel.batches:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _prepare_sqlite(connection: Any, _: object) -> None:
    # The driver's own idea of transactions leaves statements that change tables outside of them.
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = FULL")  # what was committed is on the disk
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # The lock of a writer from the start: two that read first and write then would stand in each other's way.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _code(error: DBAPIError) -> str:
    """PostgreSQL's code, but for those of one that shuts down, has crashed or starts."""
    code = getattr(error.orig, "sqlstate", None) or ""
    return "" if code.startswith(_OPERATOR) else str(code)


def _is_full(error: DBAPIError) -> bool:
    cause = error.orig
    return getattr(cause, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL or getattr(cause, "sqlstate", "") == "53100"
