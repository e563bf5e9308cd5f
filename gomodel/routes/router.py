"""What a request is, from its target alone: the kind of route, the methods, and the raw path to send upstream.

Decides 400 (a bad target), 403 (a closed administrative route) and 404 here, but raises none of them: the caller has to
see the key first, so a refusal travels in the Route. It does not know the method, the key, the instances or the body.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from urllib.parse import unquote

from ..errors import BadTarget, Forbidden, GatewayError, NotFound
from . import passthrough
from .batch_routes import batch_route
from .query import with_query
from .respelling import ends, respellings
from .route import Kind, Route
from .targets import check_target, split_target
from .vllm_routes import (
    INFERENCE_PREFIXES,
    KNOWN_INFERENCE,
    POST,
    READ,
    RESPONSE_OPERATIONS,
    ROOT_FAMILIES,
    ROOT_INFERENCE,
    SERVER_ROUTES,
    UNMETERED,
)

# A service sends a handful of targets over and over; a scanner sends thousands. With the length limit the cache stays
# under about 5 MB per process whatever arrives, and it arrives before anybody has shown a key.
CACHED_TARGETS = 1024
CACHED_LENGTH = 2048

_USUAL = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})

# Those that clients with the base URL .../v1 ask for below it, as they do below /p/.
_ROOT_BELOW_V1 = ROOT_INFERENCE & {f"/{family}" for family in ROOT_FAMILIES}
_MODEL = "/v1/models/"

_RESPONSE_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_INSTANCE = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_ROTATION = frozenset({"drain", "resume"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

_ANTHROPIC = re.compile(r"(?:/v1/messages|/p/[^/]+/(?:v1/)?messages)(?:/|\Z)")

_LISTS = {
    "keys": Kind.ADMIN_KEYS,
    "history": Kind.ADMIN_HISTORY,
    "engines": Kind.ADMIN_ENGINES,
    "failures": Kind.ADMIN_FAILURES,
    "configuration": Kind.ADMIN_CONFIGURATION,
}

_NO_PASSTHROUGH = partial(NotFound, "Passthrough routes are disabled (ENABLE_PASSTHROUGH_ROUTES).")
_NO_V1_ALIAS = partial(
    NotFound, "The v1 alias of passthrough is disabled (ALLOW_PASSTHROUGH_V1_ALIAS); use /p/<instance>/... without v1/."
)
_ADMIN_NOT_SERVED = partial(NotFound, "Administrative routes of vLLM are not served here, only below /p/<instance>/.")
_ADMIN_CLOSED = partial(
    Forbidden, "This route administers the vLLM server. PASSTHROUGH_ADMIN_ROUTES=true opens it to every caller."
)


class Router:
    """Classifies targets under one configuration; a reload makes a new one.

    `base_path` is "/" or a prefix such as "/gw"; `metrics_path` is None when metrics are off, and lies below the base.
    """

    def __init__(
        self,
        *,
        base_path: str,
        passthrough: bool,
        passthrough_v1_alias: bool,
        passthrough_admin: bool,
        metrics_path: str | None,
        metrics_public: bool,
        batches: bool = False,
    ) -> None:
        self._base = base_path.rstrip("/")
        self._passthrough = passthrough
        self._v1_alias = passthrough_v1_alias
        self._admin = passthrough_admin
        self._batches = batches
        self._local = {
            "/": Route(Kind.STATUS_PAGE, "/", READ, open=True, polled=True),
            "/health": Route(Kind.HEALTH, "/health", READ, open=True, polled=True),
            "/health/ready": Route(Kind.READY, "/health/ready", READ, open=True, polled=True),
            "/v1/models": Route(Kind.MODELS, "/v1/models", READ),
            "/admin/requests": Route(Kind.ADMIN_REQUESTS, "/admin/requests", frozenset({"GET"}), polled=True),
            "/admin/instances": Route(Kind.ADMIN_INSTANCES, "/admin/instances", frozenset({"GET"}), polled=True),
            **{
                f"/admin/{name}": Route(kind, f"/admin/{name}", frozenset({"GET"}), polled=True)
                for name, kind in _LISTS.items()
            },
        }
        self._local["/admin/usage"] = Route(Kind.ADMIN_USAGE, "/admin/usage", READ)
        if metrics_path is not None:
            route = Route(Kind.METRICS, metrics_path, READ, open=metrics_public, polled=True)
            self._local.setdefault(metrics_path, route)
        self._cached = lru_cache(maxsize=CACHED_TARGETS)(self._classify)

    def resolve(self, raw_target: str) -> Route:
        """The route of a request target exactly as received; never raises, see Route.refusal. Contract section 5.

        `*` is a refusal with template "*": RFC 9110 9.3.7 gives it a meaning for OPTIONS alone, and only the caller
        knows the method. CONNECT and TRACE are in no route's methods; the caller answers them before any refusal.
        """
        if len(raw_target) > CACHED_LENGTH:
            return self._classify(raw_target)
        return self._cached(raw_target)

    def _classify(self, raw_target: str) -> Route:
        try:
            path, query = split_target(raw_target)
        except BadTarget as error:
            template = "*" if raw_target == "*" else "unknown"
            return Route(Kind.NOT_FOUND, template, refusal=partial(BadTarget, error.message))
        local = path[len(self._base) :] if path.startswith(self._base + "/") else ""
        anthropic = _ANTHROPIC.match(local) is not None
        if local.startswith(_MODEL) and local != _MODEL:
            # Looked up in a list, and handed on to nobody: ids may hold whatever a path may not.
            return Route(Kind.MODEL, "/v1/models/{id}", READ, id=unquote(local.removeprefix(_MODEL)))
        try:
            check_target(path, query)
        except BadTarget as error:
            return _refused(partial(BadTarget, error.message), anthropic)
        if local in self._local:
            route = self._local[local]
            return with_query(replace(route, tail=local + query) if route.kind is Kind.ADMIN_USAGE else route, query)
        if local == "/p" or local.startswith("/p/"):
            return self._pass_through(local, query, anthropic)
        # Servers disagree on whether /a//b and /a/ are /a/b and /a, so neither is anything here (nor a redirect).
        found = None
        if local and "//" not in local and not local.endswith("/"):
            found = self._find(local, query, anthropic)
        return found or self._not_found(local or path, anthropic)

    def _find(self, local: str, query: str, anthropic: bool) -> Route | None:
        if local.startswith("/admin/requests/"):
            return _admin_request(local.removeprefix("/admin/requests/"), query)
        if local.startswith("/admin/instances/"):
            return _rotation(local.removeprefix("/admin/instances/"), query)
        below_v1 = local.startswith("/v1/")
        root = local.removeprefix("/v1") if below_v1 else local
        found: Route | None
        if root in SERVER_ROUTES:
            found = Route(Kind.SERVER, root, SERVER_ROUTES[root], tail=root + query)
        elif below_v1 and root in _ROOT_BELOW_V1:
            found = _inference(root, query, anthropic)
        elif below_v1:
            found = batch_route(local, query, on=self._batches) or _v1(local, query, anthropic)
        else:
            found = _inference(local, query, anthropic)
        return found and replace(found, own_base=self._base + "/v1", own_root=self._base)

    def _not_found(self, path: str, anthropic: bool) -> Route:
        meant = "/" if self._base and path in ("/", self._base) else self._meant(path)
        message = f"No such route; did you mean {self._base}{meant}?" if meant else "No such route."
        return _refused(partial(NotFound, message), anthropic or (meant or "").startswith("/v1/messages"))

    def _meant(self, path: str) -> str | None:
        """The route whose address this is but for the spelling."""
        near = [other for other in ends(path) if other != path]
        for other in near:
            if other.startswith("/p/") and other.count("/") > 2:
                return other
        for other in respellings(path):
            if other in self._local or other in SERVER_ROUTES or other in KNOWN_INFERENCE or other in ROOT_INFERENCE:
                return other
        for other in near:
            known = other.startswith(INFERENCE_PREFIXES) and not other.startswith("/v1/v1/")
            if known and not passthrough.administers(other):
                return other
        return None

    def _pass_through(self, local: str, query: str, anthropic: bool) -> Route:
        provider, _, rest = local.removeprefix("/p/").partition("/")
        if not self._passthrough:
            return _refused(_NO_PASSTHROUGH, anthropic)
        if not provider or not rest:
            message = f"No such route; add the path at the instance, as in {self._base}/p/<instance>/v1/models."
            return _refused(partial(NotFound, message), anthropic)
        placement = passthrough.place(rest)
        refusal: Callable[[], GatewayError] | None = None
        if not self._admin and passthrough.administers(("/v1" if placement.below_base else "") + placement.path):
            refusal = _ADMIN_CLOSED
        elif placement.aliased and not self._v1_alias:
            refusal = _NO_V1_ALIAS
        return Route(
            Kind.PASSTHROUGH,
            "/p/{provider}/*",
            passthrough.METHODS,
            below_base=placement.below_base,
            tail=placement.path + query,
            anthropic=anthropic,
            own_base=f"{self._base}/p/{provider}" + ("/v1" if self._v1_alias else ""),
            own_root=f"{self._base}/p/{provider}",
            provider=provider,
            replayable=placement.replayable,
            spends=placement.spends,
            refusal=refusal,
        )


def _refused(refusal: Callable[[], GatewayError], anthropic: bool) -> Route:
    return Route(Kind.NOT_FOUND, "unknown", anthropic=anthropic, refusal=refusal)


def _v1(local: str, query: str, anthropic: bool) -> Route | None:
    """/v1/...: what gomodel answers or places by other means than a selector; the rest is inference."""
    tail = local.removeprefix("/v1") + query
    _, _, family, *below = local.split("/")
    if family == "v1" or (family in ROOT_FAMILIES and not below):
        return None
    if family == "realtime" and not below:
        return Route(Kind.REALTIME, "/v1/realtime", frozenset({"GET"}), below_base=True, tail=tail)
    if family == "responses" and below and below[0] not in RESPONSE_OPERATIONS:
        if _RESPONSE_ID.fullmatch(below[0]) is None:
            return None
        return Route(
            Kind.RESPONSES,
            "/v1/responses/{id}",
            frozenset({"GET", "POST", "DELETE"}),
            below_base=True,
            tail=tail,
            id=below[0],
            replayable=True,
        )
    return _inference(local, query, anthropic)


def _inference(local: str, query: str, anthropic: bool) -> Route | None:
    prefix = next((known for known in INFERENCE_PREFIXES if local.startswith(known)), None)
    if prefix is None and local not in ROOT_INFERENCE:
        return None
    # All of the list, not just what lies below /v1: a base URL may lack it, and POST /v1/sleep would reach /sleep.
    if passthrough.administers(local):
        return _refused(_ADMIN_NOT_SERVED, anthropic)
    below_base = prefix == "/v1/"
    known = prefix is None or local in KNOWN_INFERENCE
    return Route(
        Kind.INFERENCE if known else Kind.UNKNOWN,
        local if known else f"{prefix}*",
        POST if known else _USUAL,
        below_base=below_base,
        tail=(local.removeprefix("/v1") if below_base else local) + query,
        anthropic=anthropic,
        metered=known and local not in UNMETERED,
        spends=True,
        replayable=True,
    )


def _rotation(path: str, query: str) -> Route | None:
    name, _, action = path.partition("/")
    if action not in _ROTATION or _INSTANCE.fullmatch(name) is None:
        return None
    return with_query(Route(Kind.ADMIN_INSTANCES, f"/admin/instances/{{name}}/{action}", POST, id=name), query)


def _admin_request(request_id: str, query: str) -> Route | None:
    if _REQUEST_ID.fullmatch(request_id) is None:
        return None
    return with_query(Route(Kind.ADMIN_REQUESTS, "/admin/requests/{id}", frozenset({"DELETE"}), id=request_id), query)
