"""GET /: the status page, for people with a browser.

Decides how the page is delivered and what it may do: it runs its own script and talks to this gateway alone. The page
holds no data; it asks for the master key and reads the same routes as every other operator. Knows nothing of them.
"""

import asyncio
import base64
import hashlib
import re
from functools import cache

from ..downstream.request import Reply, Request

_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
# One script in the end, whose parts see each other and nobody else sees.
_SCRIPTS = ("state", "ask", "words", "document", "chart", "figures", "tables", "main")


async def status_page(request: Request) -> Reply:
    """GET and HEAD /."""
    body, headers = await asyncio.to_thread(_page)
    return Reply(200, body, dict(headers), content_type="text/html; charset=utf-8")


@cache
def _page() -> tuple[bytes, dict[str, str]]:
    """Read for the first request, on a thread: a gateway that nobody looks at should not start later for it, and no
    stream wait."""
    from importlib.resources import files  # noqa: PLC0415

    def part(name: str) -> str:
        return files(__package__).joinpath("page", name).read_text(encoding="utf-8")

    script = "".join(part(f"{name}.js") for name in _SCRIPTS)
    page = part("page.html").replace("{style}", part("page.css"), 1)
    page = page.replace("{script}", f'\n"use strict";\n(() => {{\n{script}}})();\n', 1)
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
