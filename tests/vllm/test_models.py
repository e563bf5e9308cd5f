"""/v1/models shows vLLM's own entries under the instance's name."""

from typing import Any

from .processes import MODEL, Server
from .questions import CALLER, DIRECT, SELECTOR
from .wire import get, masked


def entries(server: Server, path: str, headers: dict[str, str]) -> list[Any]:
    answer = get(server, path, headers)
    assert answer.status == 200
    assert answer.json()["object"] == "list"
    data = answer.json()["data"]
    # vLLM makes these up anew on every call.
    for entry in data:
        del entry["created"]
        for permission in entry.get("permission", []):
            del permission["id"], permission["created"]
    return list(data)


def test_every_field_but_the_id_is_vllms(vllm: Server, gateway: Server) -> None:
    own = entries(vllm, "/v1/models", DIRECT)
    offered = entries(gateway, "/v1/models", CALLER)
    assert [entry.pop("id") for entry in own] == [MODEL]
    assert [entry.pop("id") for entry in offered] == [SELECTOR]
    assert offered == own
    assert [list(entry) for entry in offered] == [list(entry) for entry in own]
    assert offered[0]["max_model_len"] == 8192
    assert {"root", "parent", "owned_by"} <= offered[0].keys()


def test_one_model_is_found_by_its_id_with_slashes(gateway: Server) -> None:
    answer = get(gateway, f"/v1/models/{SELECTOR}", CALLER)
    listed = entries(gateway, "/v1/models", CALLER)[0]
    assert answer.status == 200
    assert answer.json().keys() == listed.keys() | {"created"}
    assert answer.json()["id"] == SELECTOR


def test_an_unknown_model_is_not_found_and_the_known_one_is_named(gateway: Server) -> None:
    answer = get(gateway, "/v1/models/vllm/tiny/lama", CALLER)
    assert answer.problem() == (404, "model_not_found")
    assert answer.json()["error"]["param"] == "model"


def test_passthrough_shows_vllms_list_unchanged(vllm: Server, gateway: Server) -> None:
    for path in ("/p/vllm/models", "/p/vllm/v1/models"):
        assert masked(get(gateway, path, CALLER).body) == masked(get(vllm, "/v1/models", DIRECT).body)
