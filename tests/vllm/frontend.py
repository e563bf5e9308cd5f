"""What vLLM's front end in Rust lacks of the Python one, and hence which tests cannot be asked of it.

A test says `pytest.mark.asks(...)` what it needs; conftest skips it when the chosen front end has none of it. Knows
nothing of what the tests compare.
"""

from . import vllm_setup

# vLLM 0.33 answers 501 on these, or 404 where it does not even know the route.
ROUTES_RUST_LACKS = ("/v1/responses", "/v1/messages", "/v1/messages/count_tokens")
RUST_LACKS = frozenset({*ROUTES_RUST_LACKS, "several choices", "redirects"})


def lacking(what: str) -> str | None:
    """Why the chosen front end cannot be asked for this, or None when it can."""
    return f"vLLM's front end in Rust lacks {what}" if vllm_setup.rust() and what in RUST_LACKS else None
