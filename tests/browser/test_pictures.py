"""The pictures that README and the documentation show: `make docs-pictures` takes them anew, of `gomodel demo`."""

import json
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from playwright.sync_api import Page, expect

from .conftest import LIMIT_S, Gateway, Stream
from .test_status_page import begin_batch, enter

Start = Callable[..., Gateway]
Ask = Callable[..., Stream]
Picture = Callable[[str], None]
# The charts have a point every ten seconds.
LOAD_S = 90.0


def test_the_page_with_streams_and_a_batch(
    page: Page, start: Start, stream: Ask, picture: Picture, tmp_path: Path
) -> None:
    gateway = start("demo", "--rate", "40")
    body = {"model": "vllm/demo/llama-sim", "max_tokens": 12, "messages": [{"role": "user", "content": "Hi"}]}
    lines = [{"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(60)]
    page.set_viewport_size({"width": 1400, "height": 900})
    enter(page, gateway)
    page.get_by_role("button", name="5 min", exact=True).click()
    begin_batch(gateway, "\n".join(map(json.dumps, lines)))
    until = monotonic() + LOAD_S
    while monotonic() < until:
        for model, tokens in (("vllm/demo/llama-sim", 15), ("vllm-test/demo/qwen-sim", 10), ("vllm/unknown", 1)):
            stream(gateway, model, tokens).join(LIMIT_S)
    running = [stream(gateway, f"vllm{each}") for each in ("/demo/llama-sim", "-test/demo/qwen-sim", "/demo/llama-sim")]
    expect(page.locator("#batches tr")).to_contain_text("of 60")
    expect(page.locator("#requests tr").filter(has_text="data")).not_to_have_count(0)
    picture("page")
    assert all(each.is_alive() for each in running)
