"""gomodel: a streaming gateway in front of vLLM."""

from .version import VERSION as __version__

__all__ = ["__version__"]
