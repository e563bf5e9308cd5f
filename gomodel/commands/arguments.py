"""What arguments of subcommands hold: numbers within a limit, HOST:PORT, names of files that a shell completes."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# How each shell completes the name of a file, for --completion.
A_FILE = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}


def number(kind: type[float], limit: float) -> "Callable[[str], float]":
    """What reads a number of this `kind`, from 0 to below `limit`; argparse says of another that it is invalid."""

    def number(text: str) -> float:  # by this name argparse calls it
        value = kind(text)
        if not 0 <= value < limit:
            raise ValueError
        return value

    return number


def address(text: str) -> tuple[str, int]:
    """HOST:PORT, or PORT alone."""
    host, _, port = text.rpartition(":")
    at = int(port)
    if not 0 <= at < 1 << 16:
        raise ValueError
    return host.strip("[]") or "127.0.0.1", at
