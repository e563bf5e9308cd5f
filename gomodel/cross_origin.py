"""The layer and the checks of the chain that deal with web pages of other origins: let them in, or keep them out.

Composed only where they have something to decide, so that they cost nothing elsewhere. The rules are in `origins`.
"""

from .checks import Check
from .downstream.request import Handler, Reply, Request
from .errors import ForeignOrigin
from .http1.origins import Origins, is_private_name, same_site
from .middleware import Middleware
from .routes.route import Kind


def sharing(origins: Origins) -> Middleware:
    """Add the Access-Control fields to every answer, gomodel's own errors included (contract section 2.6)."""

    async def share(request: Request, handler: Handler) -> Reply | None:
        fields = origins.fields(request.fields.origin)
        request.cors = "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode("latin-1")
        reply = await handler(request)
        if reply is not None:
            for name, value in fields.items():
                reply.headers.setdefault(name, value)
        return reply

    return share


def preflights(origins: Origins) -> Check:
    """Answer a browser that asks what a page may send; it never shows a key (Fetch standard, CORS-preflight fetch)."""

    def preflight(request: Request) -> Reply | None:
        if request.method == "OPTIONS" and request.fields.origin is not None:
            headers = request.message.headers
            if "Access-Control-Request-Method" in headers:
                return _answer(request, origins)
        return None

    return preflight


def _answer(request: Request, origins: Origins) -> Reply:
    if not origins.allow(request.fields.origin or b""):
        raise ForeignOrigin("CORS_ALLOW_ORIGINS does not name the origin of this page.")
    headers = request.message.headers
    wanted = ",".join(headers.getall("Access-Control-Request-Headers", []))
    private = headers.get("Access-Control-Request-Private-Network") == "true"
    return Reply(204, headers=origins.preflight(wanted, private_network=private))


def own_pages(origins: Origins | None, *, loopback: bool) -> Check:
    """Refuse pages of other sites where no key does; `loopback`: only this machine reaches the listener.

    Contract section 2.7. Such a page runs in the browser of somebody who can reach the gateway. It shows by its Origin,
    which WebSockets have too; or by the Host, when its own name was made to lead here. Whether the gateway lives is no
    secret.
    """

    def refuse(request: Request) -> None:
        fields = request.fields
        origin, host = fields.origin, fields.host
        if origin is not None and not same_site(origin, host) and not (origins is not None and origins.allow(origin)):
            raise ForeignOrigin(
                "This gateway has no key, so pages of other origins may not use it: "
                "name theirs in CORS_ALLOW_ORIGINS, or set GOMODEL_MASTER_KEY."
            )
        if loopback and host and not is_private_name(host) and not _known(request, origins, host):
            raise ForeignOrigin(
                "This gateway has no key and listens on this machine only, which has another name: "
                "name the origin it is served under in CORS_ALLOW_ORIGINS, or set GOMODEL_MASTER_KEY."
            )

    return refuse


def _known(request: Request, origins: Origins | None, host: bytes) -> bool:
    """Also over a unix socket, which no browser reaches."""
    served = origins is not None and origins.serves(host)
    return served or request.route.kind is Kind.HEALTH or request.protocol.client == "unix"
