"""Routers as tests want them, and what they say of a target."""

from gomodel.errors import GatewayError
from gomodel.routes.route import Route
from gomodel.routes.router import Router

READ = frozenset({"GET", "HEAD"})


def make_router(
    *,
    base_path: str = "/",
    passthrough: bool = True,
    passthrough_v1_alias: bool = True,
    passthrough_admin: bool = False,
    metrics_path: str | None = "/metrics",
    metrics_public: bool = False,
) -> Router:
    return Router(
        base_path=base_path,
        passthrough=passthrough,
        passthrough_v1_alias=passthrough_v1_alias,
        passthrough_admin=passthrough_admin,
        metrics_path=metrics_path,
        metrics_public=metrics_public,
    )


ROUTER = make_router()


def refusal_of(route: Route) -> GatewayError:
    assert route.refusal is not None
    return route.refusal()


def served(target: str, router: Router = ROUTER) -> Route:
    route = router.resolve(target)
    assert route.refusal is None, (target, route.refusal())
    return route
