"""The version, alone in a file so that packaging reads it without importing the daemon."""

from importlib.util import find_spec

VERSION = "0.1.0"


def compiled() -> bool:
    """Whether what every request passes was compiled when this was built (GOMODEL_COMPILE=1)."""
    found = find_spec("gomodel.relay.relay")
    return found is not None and not str(found.origin).endswith(".py")


def build() -> str:
    """The version, and how it was built where that was not as usual."""
    return f"{VERSION} (compiled)" if compiled() else VERSION
