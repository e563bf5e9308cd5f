"""GOMODEL_DATA_DIR, the directory for files and batches: whether it can be written to, and making it."""

import os
from tempfile import TemporaryFile

from ..config.settings import ConfigError


def prepare(data_dir: str) -> None:
    """Make it where it is missing. Raises ConfigError for a directory in which nothing can be kept."""
    try:
        os.makedirs(data_dir, mode=0o700, exist_ok=True)
        with TemporaryFile(dir=data_dir):
            pass
    except OSError as error:
        raise _refusal(data_dir, error) from None


def examine(data_dir: str) -> None:
    """The same question, with no trace of it: a directory that is missing needs one in which it can be made."""
    place = os.path.abspath(data_dir)
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    try:
        with TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise _refusal(data_dir, error) from None


def _refusal(data_dir: str, error: OSError) -> ConfigError:
    return ConfigError([f"GOMODEL_DATA_DIR: {data_dir!r} cannot be written to: {error.strerror}"])
