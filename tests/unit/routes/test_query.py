"""Which parameters administrative routes take: what is unknown or given twice is refused, and by name."""

import pytest

from gomodel.routes.query import parameters
from gomodel.routes.route import Kind

from .routers import ROUTER, make_router, refusal_of, served

# Each administrative route, with what it takes.
TAKEN = {
    "/admin/requests": (),
    "/admin/requests/req-1": (),
    "/admin/instances": (),
    "/admin/instances/vllm/drain": ("replica",),
    "/admin/instances/vllm/resume": ("replica",),
    "/admin/usage": ("by", "from", "to", "format"),
    "/admin/keys": (),
    "/admin/history": ("window",),
    "/admin/engines": (),
    "/admin/failures": (),
    "/admin/configuration": (),
}


def test_the_table_has_every_administrative_route():
    kinds = {served(path).kind for path in TAKEN}
    assert kinds == {kind for kind in Kind if kind.name.startswith("ADMIN_")}


@pytest.mark.parametrize("path", TAKEN)
@pytest.mark.parametrize(
    "query", ["x=1", "x", "Window=1h", "=", "=1", "%zz", "_=1700000000", "replica%00=a", "by;from=1"]
)
def test_a_parameter_that_the_route_does_not_take_is_refused_by_its_name(path: str, query: str):
    for target in (f"{path}?{query}", "/gw" + f"{path}?{query}", f"http://h{path}?{query}"):
        route = (make_router(base_path="/gw") if target.startswith("/gw") else ROUTER).resolve(target)
        error = refusal_of(route)
        assert (error.status, error.code) == (400, "invalid_parameter")
        taken = ", ".join(TAKEN[path])
        assert error.message.endswith(f"is no parameter of {route.template}; it takes {taken or 'none'}.")


@pytest.mark.parametrize("path", [path for path, taken in TAKEN.items() if taken])
def test_each_parameter_is_taken_once_and_no_second_time(path: str):
    names = TAKEN[path]
    served(f"{path}?" + "&".join(f"{name}=x" for name in names))
    served(f"{path}?&{names[0]}&")
    for name in names:
        error = refusal_of(ROUTER.resolve(f"{path}?{name}=1&{name}=1"))
        assert (error.code, error.param, error.message) == (
            "invalid_parameter",
            name,
            f"{name!r} is given more than once.",
        )


@pytest.mark.parametrize("path", TAKEN)
def test_an_empty_query_is_none(path: str):
    served(f"{path}?")
    served(f"{path}?&")


def test_a_long_query_is_refused_without_reading_all_of_it():
    assert "more than 16" in refusal_of(ROUTER.resolve("/admin/history?" + "window=1h&" * 5000)).message
    error = refusal_of(ROUTER.resolve("/admin/history?" + "x" * 60_000))
    assert len(error.message) < 200
    assert error.param == "x" * 64


@pytest.mark.parametrize("target", ["/", "/health", "/health/ready", "/metrics", "/v1/models", "/v1/chat/completions"])
def test_other_routes_heed_no_query(target: str):
    served(f"{target}?x=1&x=2")


def test_metrics_below_admin_are_still_the_metrics():
    served("/admin/metrics?x=1", make_router(metrics_path="/admin/metrics"))


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/admin/usage", {}),
        ("/admin/usage?", {}),
        ("/admin/usage?by", {"by": ""}),
        ("/admin/usage?by=key%2Cmodel&from=a+b", {"by": "key,model", "from": "a b"}),
        ("/admin/usage?from=2027-01-01T00:00:00%2B02:00", {"from": "2027-01-01T00:00:00+02:00"}),
    ],
)
def test_parameters_are_decoded(target: str, expected: dict[str, str]):
    assert parameters(target) == expected
