"""Whether the database of files, batches and usage can be asked, for `gomodel check`; changes nothing in it.

Decides what an operator is told to do about one that cannot. Knows PostgreSQL's codes (its documentation's appendix A).
"""

import asyncio
from pathlib import Path

from ..config.settings import Batching
from .database import SQLITE_NAME, Database, DatabaseAway

_LIMIT_S = 10.0
# By the beginning of the code.
_REMEDIES = {
    "28": "are the user and the password right, and may they connect from here (pg_hba.conf)?",
    "3D000": "the server has no such database; make it with createdb",
    "42501": "the user may not use it",
}


def database_problem(config: Batching) -> str:
    """What is wrong with the database in a sentence that names the variable; "" where nothing is. Asks it."""
    assert config.data_dir is not None
    if config.database_url is None and not (Path(config.data_dir) / SQLITE_NAME).exists():
        return ""  # the first start makes it
    name = "GOMODEL_DATA_DIR" if config.database_url is None else "GOMODEL_DATABASE_URL"
    try:
        asyncio.run(_ask(config))
    except DatabaseAway as away:
        remedies = [remedy for code, remedy in _REMEDIES.items() if away.code.startswith(code)]
        hint = remedies[0] if remedies else "is it running, and does this machine reach it?"
        return f"{name}: {away}: {hint}"
    except TimeoutError:
        return f"{name}: the database did not answer in {_LIMIT_S:g}s"
    return ""


async def _ask(config: Batching) -> None:
    assert config.data_dir is not None
    url = config.database_url
    database = Database(None if url is None else url.reveal(), Path(config.data_dir))
    try:
        async with asyncio.timeout(_LIMIT_S), database.begin():
            pass
    finally:
        await database.close()
