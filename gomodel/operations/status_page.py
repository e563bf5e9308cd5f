"""GET /: the status page, for people with a browser.

Decides how the page is delivered and what it may do: it runs its own script and talks to this gateway alone. The page
holds no data; it asks for the master key and reads the same routes as every other operator. Knows nothing of them.
"""

import base64
import hashlib
import html
import re
from functools import cache

from ..downstream.request import Handler, Reply, Request

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def status_page(metrics_path: str | None) -> Handler:
    """The handler of GET and HEAD /. `metrics_path` is that of the metrics, below the base; None when they are off."""

    async def serve(request: Request) -> Reply:
        body, headers = _page(metrics_path or "")
        return Reply(200, body, dict(headers), content_type="text/html; charset=utf-8")

    return serve


@cache
def _page(metrics_path: str) -> tuple[bytes, dict[str, str]]:
    """Read by the first request: a gateway that nobody looks at should not start later for it."""
    from importlib.resources import files  # noqa: PLC0415

    # Relative, so that the page works below BASE_PATH and whatever a proxy in front puts before it.
    metrics = html.escape(metrics_path.removeprefix("/"))
    page = files(__package__).joinpath("status.html").read_text(encoding="utf-8").replace("{metrics}", metrics, 1)
    return page.encode(), _headers(page)


def _headers(page: str) -> dict[str, str]:
    """What the browser has to enforce. Hashes instead of 'unsafe-inline': nothing that got into the page could run."""
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for tag, content in _INLINE.findall(page):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        allowed[tag].append(f"'sha256-{digest}'")
    policy = {
        "default-src": "'none'",
        "script-src": " ".join(allowed["script"]),
        "style-src": " ".join(allowed["style"]),
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return {
        "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
        "Cache-Control": "no-store",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
    }
