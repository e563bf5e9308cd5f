"""The status page is served to everybody, holds nothing, and may do nothing but talk to its own gateway."""

import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser

import pytest

from gomodel.operations.status_page import status_page

from ..harness.scripted import GatewayHandle, RawClient, ResponseMessage, ScriptedUpstream, request

Gateway = Callable[..., Awaitable[GatewayHandle]]
Connect = Callable[..., Awaitable[RawClient]]


class Document(HTMLParser):
    """What the tests ask of a page: its tags with their attributes, and the inline texts by tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[tuple[str, str]] = []
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style") and data.strip():
            self.inline.append((self._open, data))

    def handle_endtag(self, tag: str) -> None:
        self._open = ""


async def fetch(handle: GatewayHandle, connect: Connect, path: str = "/", method: str = "GET") -> ResponseMessage:
    client = await connect(handle)
    await client.send(request(method, path))
    return await client.read_response(method)


def policy_of(answer: ResponseMessage) -> dict[str, str]:
    directives = (answer.get("Content-Security-Policy") or "").split("; ")
    return {name: value for name, _, value in (each.partition(" ") for each in directives)}


async def page() -> str:
    reply = await status_page(None)  # type: ignore[arg-type]
    return reply.body.decode()


async def test_it_is_served_without_the_key(gateway: Gateway, connect: Connect) -> None:
    handle = await gateway(GOMODEL_MASTER_KEY="secret")
    answer = await fetch(handle, connect)
    assert (answer.status, answer.get("Content-Type")) == (200, "text/html; charset=utf-8")
    assert b"secret" not in answer.body
    assert (await fetch(handle, connect, "/admin/requests")).status == 401


async def test_it_tells_nothing_of_the_configuration(gateway: Gateway, connect: Connect) -> None:
    plain = await fetch(await gateway(), connect)
    told = await fetch(
        await gateway(VLLM_CANARY_BASE_URL="http://canary.test:1/v1", VLLM_CANARY_MODELS="canary", HTTP_TIMEOUT="77s"),
        connect,
    )
    assert plain.body == told.body


async def test_head_has_the_fields_of_get_and_no_body(gateway: Gateway, connect: Connect) -> None:
    handle = await gateway()
    get, head = await fetch(handle, connect), await fetch(handle, connect, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    varying = ("date", "x-request-id")

    def lasting(answer: ResponseMessage) -> list[tuple[str, str]]:
        return [(name, value) for name, value in answer.headers if name.lower() not in varying]

    assert lasting(head) == lasting(get)
    assert int(head.get("Content-Length") or 0) == len(get.body)


async def test_it_is_for_reading_only(gateway: Gateway, connect: Connect) -> None:
    answer = await fetch(await gateway(), connect, method="POST")
    assert (answer.status, answer.get("Allow")) == (405, "GET, HEAD")


async def test_it_is_below_the_base_path(gateway: Gateway, connect: Connect) -> None:
    handle = await gateway(BASE_PATH="/gw")
    assert (await fetch(handle, connect, "/gw/")).status == 200
    assert (await fetch(handle, connect, "/")).status == 404


async def test_it_is_served_while_the_gateway_drains(
    gateway: Gateway, connect: Connect, upstream: ScriptedUpstream
) -> None:
    handle = await gateway(vllm=upstream)
    client = await connect(handle)
    handle.gateway.app.refusing = True
    await client.send(request("GET", "/"))
    assert (await client.read_response()).status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Cache-Control", "no-store"),
        ("X-Content-Type-Options", "nosniff"),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    ],
)
async def test_browsers_are_told_to_be_careful_with_it(
    gateway: Gateway, connect: Connect, name: str, value: str
) -> None:
    assert (await fetch(await gateway(), connect)).get(name) == value


async def test_the_policy_lets_in_its_own_script_and_style_and_nothing_else(gateway: Gateway, connect: Connect) -> None:
    answer = await fetch(await gateway(), connect)
    policy = policy_of(answer)
    inline = Document(answer.body.decode()).inline
    assert [tag for tag, _ in inline] == ["style", "script"]
    for tag, content in inline:
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert policy == {
        "default-src": "'none'",
        "img-src": "data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


async def test_nothing_is_loaded_from_anywhere() -> None:
    text = await page()
    for tag, attributes in Document(text).tags:
        # Event handlers and style attributes would need a policy that lets in everybody's.
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert (attributes.get(name) or "data:").startswith(("data:", "#")), tag
    # The name of the SVG vocabulary is no address that anybody asks.
    assert set(re.findall(r"\w+://[^\s'\"<>]*", text)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"@import|url\(", text)


async def test_what_came_over_the_network_is_never_read_as_markup_or_code() -> None:
    (script,) = [content for tag, content in Document(await page()).inline if tag == "script"]
    sinks = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|Function\(|createContextualFragment|srcdoc"
    )
    assert not re.search(sinks, script)
    assert "localStorage" not in script
    assert "document.cookie" not in script


async def test_the_page_asks_routes_that_the_gateway_has(gateway: Gateway, connect: Connect) -> None:
    handle = await gateway(VLLM_BASE_URL="http://127.0.0.1:1/v1", VLLM_MODELS="m")
    (script,) = [content for tag, content in Document(await page()).inline if tag == "script"]
    asked = set(re.findall(r'(?:ask|read)\("([\w/-]+?)/?["?]', script))
    admin = {"requests", "keys", "instances", "history", "engines", "failures", "configuration"}
    assert asked == {"health/ready", "v1/models", "v1/batches", *(f"admin/{each}" for each in admin)}
    for path in asked - {"v1/batches"}:
        answer = await fetch(handle, connect, f"/{path}")
        assert answer.status in (200, 503)
    # What the script reads of the answers.
    ready = json.loads((await fetch(handle, connect, "/health/ready")).body)
    assert {"state", "for_s", "last_error", "last_error_age_s", "in_flight", "models"} <= set(
        ready["instances"]["vllm"]
    )


async def test_labels_belong_to_controls_and_tables_have_headers() -> None:
    tags = Document(await page()).tags
    ids = {attributes["id"] for _, attributes in tags if "id" in attributes}
    assert len(ids) == len([attributes for _, attributes in tags if "id" in attributes])
    referred = {
        each
        for _, attributes in tags
        for name in ("for", "aria-labelledby", "aria-describedby")
        for each in (attributes.get(name) or "").split()
    }
    assert referred
    assert referred <= ids
    assert {attributes.get("scope") for tag, attributes in tags if tag == "th"} == {"col"}
    assert dict(tags)["html"]["lang"] == "en"
