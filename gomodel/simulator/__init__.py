"""A simulated vLLM: the wire behaviour of vLLM's Python front end, with words from a list instead of a model.

Decides only what it offers: `build_app`. It knows nothing of the rest of gomodel, so that a client of it learns about
vLLM's side of the wire and not about the gateway's.
"""

from .app import build_app

__all__ = ["build_app"]
