"""The addresses of files and batches in OpenAI's API, as data and as routes."""

import re
from functools import partial

from ..errors import NotFound
from .route import Kind, Route
from .vllm_routes import POST, READ

_ID = r"([A-Za-z0-9_.-]{1,256})"
_ROUTES = (
    (re.compile("/v1/files"), "/v1/files", frozenset({"GET", "HEAD", "POST"})),
    (re.compile(f"/v1/files/{_ID}"), "/v1/files/{id}", READ | {"DELETE"}),
    (re.compile(f"/v1/files/{_ID}/content"), "/v1/files/{id}/content", READ),
    (re.compile("/v1/batches"), "/v1/batches", frozenset({"GET", "HEAD", "POST"})),
    (re.compile(f"/v1/batches/{_ID}"), "/v1/batches/{id}", READ),
    (re.compile(f"/v1/batches/{_ID}/cancel"), "/v1/batches/{id}/cancel", POST),
)
_FAMILY = re.compile(r"/v1/(?:files|batches)(?:/|\Z)")

_OFF = partial(
    NotFound,
    "Files and batches are not kept here: GOMODEL_DATA_DIR, the directory for them, is not set. What an instance "
    "has of them is below /p/<instance>/v1/.",
)
_NONE = partial(NotFound, "No such route.")


def batch_route(local: str, query: str, *, on: bool) -> Route | None:
    """The route of a path below /v1/files or /v1/batches, None for any other; refused where there are none (`on`)."""
    if _FAMILY.match(local) is None:
        return None
    for pattern, template, methods in _ROUTES:
        if pattern.fullmatch(local):
            refusal = None if on else _OFF
            return Route(Kind.BATCHES, template, methods if on else frozenset(), tail=local + query, refusal=refusal)
    return Route(Kind.NOT_FOUND, "unknown", refusal=_NONE if on else _OFF)
