"""Addresses of files and batches: served where there are some, and refused with the variable that would make them."""

import pytest

from gomodel.routes.batch_routes import batch_route
from gomodel.routes.route import Kind

READ = {"GET", "HEAD"}


@pytest.mark.parametrize(
    ("path", "template", "methods"),
    [
        ("/v1/files", "/v1/files", {*READ, "POST"}),
        ("/v1/files/file-1", "/v1/files/{id}", {*READ, "DELETE"}),
        ("/v1/files/file-1/content", "/v1/files/{id}/content", READ),
        ("/v1/batches", "/v1/batches", {*READ, "POST"}),
        ("/v1/batches/batch_1", "/v1/batches/{id}", READ),
        ("/v1/batches/batch_1/cancel", "/v1/batches/{id}/cancel", {"POST"}),
    ],
)
def test_a_call_goes_to_the_batcher_as_it_stands(path: str, template: str, methods: set[str]) -> None:
    route = batch_route(path, "?limit=2", on=True)
    assert route is not None
    assert (route.kind, route.template, route.methods, route.refusal) == (Kind.BATCHES, template, methods, None)
    assert (route.tail, route.below_base) == (f"{path}?limit=2", False)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/files/x/content", "/v1/batches/x/cancel", "/v1/files/x/y/z"])
def test_without_a_directory_the_variable_is_named_whatever_the_method(path: str) -> None:
    route = batch_route(path, "", on=False)
    assert route is not None
    assert route.refusal is not None
    assert route.methods == frozenset()
    error = route.refusal()
    assert (error.status, "GOMODEL_DATA_DIR" in error.message) == (404, True)


@pytest.mark.parametrize(
    "path", ["/v1/files/x/y", "/v1/files/%2e", "/v1/files/a%2Fb", "/v1/batches/x/content", "/v1/files/" + "x" * 257]
)
def test_what_is_no_call_is_not_found(path: str) -> None:
    route = batch_route(path, "", on=True)
    assert route is not None
    assert route.refusal is not None
    assert (route.kind, route.refusal().message) == (Kind.NOT_FOUND, "No such route.")


@pytest.mark.parametrize("path", ["/v1/filesystem", "/v1/batch", "/v1/chat/completions", "/files", "/v1"])
def test_other_addresses_are_other_routes(path: str) -> None:
    assert batch_route(path, "", on=True) is None
    assert batch_route(path, "", on=False) is None
