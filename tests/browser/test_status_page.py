"""What a person sees and does on the status page."""

import json
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from .conftest import KEY, LIMIT_S, Gateway, Stream, stalled_upload

Start = Callable[..., Gateway]
Ask = Callable[..., Stream]
Picture = Callable[[str], None]
expect.set_options(timeout=LIMIT_S * 1000)


def enter(page: Page, gateway: Gateway, key: str = KEY) -> None:
    """Open the page and show the key."""
    page.goto(gateway.url)
    page.get_by_label("Master key").fill(key)
    page.get_by_label("Master key").press("Enter")


def test_a_running_stream_appears_and_can_be_aborted(page: Page, start: Start, stream: Ask, picture: Picture) -> None:
    gateway = start("--demo", "--rate", "20")
    streams = [stream(gateway), stream(gateway, "vllm-test/demo/qwen-sim")]
    for _ in range(6):
        stream(gateway, tokens=20).join(LIMIT_S)
    enter(page, gateway)
    rows = page.locator("#requests tr")
    expect(rows).to_have_count(2)
    row = rows.filter(has_text="demo/llama-sim")
    expect(row).to_contain_text("POST /v1/chat/completions")
    expect(row).to_contain_text("at vllm")
    expect(row).to_contain_text("data")
    expect(page.get_by_role("status")).to_have_text("ready")
    received = row.locator("[data-label=Sent]")
    before = received.inner_text()
    expect(received).not_to_have_text(before)
    expect(page.locator("#failures tr")).to_have_count(0)

    row.get_by_role("button", name="Abort").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("demo/llama-sim")
    # The harmless answer has the focus.
    expect(dialog.get_by_role("button", name="Let it run")).to_be_focused()
    picture("abort")
    dialog.get_by_role("button", name="Let it run").click()
    expect(dialog).to_be_hidden()
    expect(rows).to_have_count(2)

    row.get_by_role("button", name="Abort").press("Enter")
    dialog.get_by_role("button", name="Abort it").click()
    expect(rows).to_have_count(1)
    expect(page.get_by_text("The request was aborted.")).to_be_in_viewport()
    expect(page.locator("#failures tr")).to_contain_text("aborted_by_operator")
    streams[0].join(LIMIT_S)
    assert streams[0].outcome == "cut"
    assert streams[1].is_alive()


def test_a_wrong_key_is_refused_and_another_may_be_tried(page: Page, start: Start, picture: Picture) -> None:
    gateway = start("--demo")
    refused: list[str] = []
    page.on("response", lambda answer: refused.append(answer.url) if answer.status == 401 else None)
    page.goto(gateway.url)
    expect(page.get_by_label("Master key")).to_be_focused()
    # Each is a line of the gateway's log.
    assert [url.rpartition("/")[2] for url in refused] == ["requests"]
    # Who has no key sees no more than /health/ready tells everybody.
    expect(page.get_by_role("status")).to_have_text("ready")
    expect(page.locator("#instances tr")).to_have_count(2)
    expect(page.locator("#requests-part")).to_be_hidden()
    expect(page.locator("#charts-part")).to_be_hidden()
    for wrong in ("wrong", "schl\u00fcssel", "two words"):
        enter(page, gateway, wrong)
        expect(page.locator("#door-error")).to_have_text("The gateway does not accept this key.")
    # It is still said after the next reading.
    updated = page.locator("#updated").inner_text()
    expect(page.locator("#updated")).not_to_have_text(updated)
    expect(page.locator("#door-error")).to_be_visible()
    picture("wrong-key")
    page.get_by_label("Master key").fill(KEY)
    page.get_by_role("button", name="Show the status").click()
    expect(page.locator("#requests-part")).to_be_visible()
    expect(page.get_by_label("Master key")).to_be_hidden()
    expect(page.locator("#open")).to_be_hidden()


def test_the_key_lives_as_long_as_the_tab(page: Page, start: Start) -> None:
    gateway = start("--demo")
    enter(page, gateway)
    expect(page.locator("#requests-part")).to_be_visible()
    page.reload()
    expect(page.locator("#requests-part")).to_be_visible()
    assert page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    another = page.context.new_page()
    another.goto(gateway.url)
    expect(another.get_by_label("Master key")).to_be_visible()
    page.get_by_role("button", name="Forget key").click()
    expect(page.get_by_label("Master key")).to_be_visible()
    assert page.evaluate("sessionStorage.length") == 0
    expect(page.get_by_text("The key is forgotten.")).to_be_in_viewport()


def test_without_a_master_key_the_page_says_that_everything_is_open(page: Page, start: Start, picture: Picture) -> None:
    gateway = start(VLLM_BASE_URL="http://127.0.0.1:1/v1")
    page.goto(gateway.url)
    expect(page.locator("#open")).to_be_visible()
    expect(page.get_by_label("Master key")).to_be_hidden()
    expect(page.get_by_role("status")).to_have_text("unavailable")
    expect(page.locator("#instances tr")).to_contain_text("connection_refused")
    picture("open-and-down")


def test_it_is_not_green_while_an_instance_is_not_up(page: Page, start: Start, picture: Picture) -> None:
    sound = start("--demo")
    gateway = start(
        VLLM_BASE_URL=f"http://127.0.0.1:{sound.port}/v1",
        VLLM_API_KEY=KEY,
        VLLM_TEST_BASE_URL="http://127.0.0.1:1/v1",
    )
    page.goto(gateway.url)
    expect(page.get_by_role("status")).to_have_text("ready, 1 of 2 instances up")
    expect(page.get_by_role("status")).to_have_attribute("data-mood", "warn")
    expect(page).to_have_title(re.compile("^ready, 1 of 2 instances up"))
    picture("one-down")


def test_the_list_of_models_is_read_again_when_their_number_changes(page: Page, start: Start) -> None:
    gateway = start("--demo")
    asked: list[str] = []
    count = 1

    def report(route: Route) -> None:
        instance = {"state": "up", "for_s": 1, "last_error": None, "last_error_age_s": None, "in_flight": 0}
        instances = {"vllm": {**instance, "models": count}}
        route.fulfill(json={"status": "ready", "instances": instances})

    page.route("**/health/ready", report)
    page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/v1/models") else None)
    enter(page, gateway)
    expect(page.locator("#instances")).to_contain_text("llama-sim")
    before = len(asked)
    for _ in range(2):
        updated = page.locator("#updated").inner_text()
        expect(page.locator("#updated")).not_to_have_text(updated)
    assert len(asked) == before
    with page.expect_request("**/v1/models"):
        count = 2


def test_a_passthrough_is_shown_by_its_path(page: Page, start: Start) -> None:
    gateway = start("--demo")
    with stalled_upload(gateway, "vllm/m", "/p/vllm/v1/chat/completions?key=secret"):
        enter(page, gateway)
        expect(page.locator("#requests tr")).to_contain_text("POST /p/vllm/v1/chat/completions")
        expect(page.locator("#requests tr")).not_to_contain_text("secret")


def test_a_gateway_that_is_gone_is_said_and_noticed_when_it_is_back(page: Page, start: Start, picture: Picture) -> None:
    gateway = start("--demo")
    enter(page, gateway)
    expect(page.locator("#requests-part")).to_be_visible()
    gateway.stop()
    expect(page.get_by_role("alert").filter(has_text="does not answer")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("no answer")
    picture("unreachable")
    start("--demo", "--port", str(gateway.port))
    expect(page.get_by_role("status")).to_have_text("ready")
    expect(page.locator("#trouble")).to_be_hidden()


def test_it_needs_no_metrics_and_works_below_a_base_path(page: Page, start: Start, picture: Picture) -> None:
    gateway = start("--demo", BASE_PATH="/gw", METRICS_ENABLED="false")
    enter(page, gateway)
    expect(page.locator(".chart")).to_have_count(6)
    expect(page.locator("#version")).to_have_text(re.compile(r"\d+\.\d+"))


COUNTED = (
    "requests refused failed client_left upstream_broke gateway_ended prompt_tokens cached_tokens completion_tokens"
)
COUNTED += " events generation_seconds wasted_seconds conversations_home conversations_spilled conversations_moved"
COUNTED += " running waiting"
MEASURED = "stream_first_byte answer_first_byte gap lag"


def series(by: str, name: str, **window: float) -> dict[str, Any]:
    """Three steps of ten seconds, in the last of which all of it came; of the first nothing is known."""
    names = [*COUNTED.split(), "requests_per_second", "tokens_per_second"]
    names += [f"{each}_{share}_s" for each in MEASURED.split() for share in ("p50", "p95")]
    window = {each: window.get(each, None if each.endswith("_s") else 0) for each in names}  # type: ignore[misc]
    return {"by": by, "name": name, "window": window, "points": {each: [None, 0, window[each]] for each in names}}


def hour(*found: dict[str, Any]) -> dict[str, Any]:
    return {"object": "history", "until": 1_800_000_000, "step_s": 10, "steps": 3, "series": found}


def test_charts_show_the_window_and_mark_what_is_bad(page: Page, start: Start, picture: Picture) -> None:
    gateway = start("--demo")
    everything = {"requests": 100, "failed": 10, "refused": 2, "requests_per_second": 5.0, "upstream_broke": 1}
    everything |= {
        "prompt_tokens": 40_000,
        "cached_tokens": 30_000,
        "completion_tokens": 500,
        "tokens_per_second": 2025.0,
    }
    everything |= {"stream_first_byte_p50_s": 0.1, "stream_first_byte_p95_s": 0.235, "lag_p95_s": 0.5}
    everything |= {"generation_seconds": 50, "wasted_seconds": 5}
    everything |= {"conversations_home": 9, "conversations_moved": 1, "running": 12}
    part = {
        "requests": 25,
        "requests_per_second": 1.25,
        "tokens_per_second": 10,
        "prompt_tokens": 300,
        "cached_tokens": 225,
    }
    answer = hour(
        series("all", "", **everything),
        series("instance", "vllm", **part),
        series("model", "vllm/a b<c>", **part),
        series("key", "alice", requests=7),
    )
    windows: list[str] = []

    def told(route: Route) -> None:
        windows.append(route.request.url.rpartition("=")[2])
        route.fulfill(json=answer)

    page.route("**/admin/history*", told)
    enter(page, gateway)
    chart = page.locator(".chart")
    for title, value, note, mood in [
        ("Requests", "5 /s", "100 requests", ""),
        ("Errors", "10 %", "10 5xx, 2 4xx; broken off: 1 by vLLM, 0 here, 0 by clients", "bad"),
        ("First byte of streams", "100 ms / 235 ms", "p50 / p95", ""),
        ("Whole answers", "\u2013 / \u2013", "p50 / p95", ""),
        (
            "Tokens",
            "2,025 /s",
            "40 k prompt, 500 completion, 75 % of prompts cached, 10 % of the work for clients who left, "
            "90 % of conversations at home",
            "",
        ),
    ]:
        one = chart.filter(has_text=title)
        expect(one.locator(".value")).to_have_text(value)
        expect(one.locator(".note")).to_contain_text(note)
        expect(one).to_have_attribute("data-mood", mood) if mood else None
    # Not by colour alone, and for who does not see it in words.
    sign = "node => getComputedStyle(node, '::before').content"
    assert "\u25a0" in chart.filter(has_text="Errors").locator(".value").evaluate(sign)
    expect(chart.first.locator("svg")).to_have_attribute(
        "aria-label", re.compile(r"Requests, from .* to .*: at last ended 5 /s")
    )
    expect(page.locator("#alarms li")).to_have_text(
        [
            "10 % of requests failed in the last minute",
            "1 answer broken off in the last minute",
            "the event loop is 500 ms late",
        ]
    )
    row = page.locator("#instances tr[data-key=vllm]")
    expect(row.locator("[data-label=Requests]")).to_have_text("1.3 /s25 % of all")
    expect(row.locator("[data-label=Tokens]")).to_have_text("10 /s75 % of prompts cached")
    expect(page.locator("#models tr").locator("th")).to_contain_text("vllm/a b<c>")
    picture("alarms")

    page.get_by_label("Figures of").select_option("vllm/a b<c>")
    expect(chart.first.locator(".value")).to_have_text("1.3 /s")
    expect(chart.first.locator(".note")).to_have_text("25 requests")
    page.get_by_role("button", name="1 hour").click()
    expect(page.get_by_role("button", name="1 hour")).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("button", name="15 min")).to_have_attribute("aria-pressed", "false")
    assert (windows[0], windows[-1]) == ("15m", "1h")
    chart.first.locator(".plot").hover()
    expect(chart.first.locator(".legend")).to_contain_text("ended 0 /s")


def test_what_failed_last_is_told_with_its_reason_and_can_be_found_in_the_log(
    page: Page, start: Start, stream: Ask, picture: Picture
) -> None:
    gateway = start(VLLM_BASE_URL="http://127.0.0.1:1/v1", GOMODEL_MASTER_KEY=KEY, RETRY_MAX_RETRIES="0")
    stream(gateway, "vllm/m").join(LIMIT_S)
    enter(page, gateway)
    row = page.locator("#failures tr").first
    expect(row).to_contain_text("POST /v1/chat/completions")
    expect(row.locator("[data-label=Outcome]")).to_contain_text("502 connection_refused")
    expect(row.locator("[data-label=Model]")).to_contain_text("at vllm")
    expect(page.locator("#alarms li").first).to_have_text("vllm is down")
    picture("failures")


def test_the_configuration_is_shown_without_secrets(page: Page, start: Start) -> None:
    gateway = start("--demo", VLLM_API_KEY="sk-secret")
    enter(page, gateway)
    rows = page.locator("#configuration tr")
    expect(rows.filter(has_text="GOMODEL_MASTER_KEY")).to_contain_text("(set)")
    expect(rows.filter(has_text="BODY_SIZE_LIMIT")).to_have_count(0)
    page.get_by_role("button", name="Show the defaults too").click()
    expect(rows.filter(has_text="BODY_SIZE_LIMIT")).to_contain_text("100Mthe default")


def test_engines_have_their_own_queue_and_cache(page: Page, start: Start) -> None:
    gateway = start("--demo")

    def told(route: Route) -> None:
        report = route.fetch().json()
        report["engines"][0] |= {"running": 7, "waiting": 3, "cache_usage": 0.5}
        route.fulfill(json=report)

    page.route("**/admin/engines", told)
    enter(page, gateway)
    row = page.locator("#replicas tr").filter(has_text="of vllm").filter(has_not_text="vllm-test")
    expect(row.locator("[data-label='In the engine']")).to_have_text("73 wait there")
    expect(row.locator("[data-label='Its cache']")).to_contain_text("50 %")


def test_running_requests_can_be_filtered(page: Page, start: Start) -> None:
    gateway = start("--demo")
    with stalled_upload(gateway, "vllm/first"), stalled_upload(gateway, "vllm-test/second"):
        enter(page, gateway)
        rows = page.locator("#requests tr")
        expect(rows).to_have_count(2)
        page.get_by_label("Filter").fill("SECOND")
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("at vllm-test")
        expect(page.locator("#requests-count")).to_have_text("(1 of 2)")
        page.get_by_label("Filter").fill("nothing such")
        expect(page.locator("#requests-empty")).to_have_text("None that the filter lets through.")


def test_markup_in_a_models_name_is_text(page: Page, start: Start) -> None:
    gateway = start("--demo")
    name = '<img src=x onerror="alert(1)"><b>bold'
    with stalled_upload(gateway, f"vllm/{name}"):
        enter(page, gateway)
        expect(page.locator("#requests tr")).to_contain_text(name)
        assert page.locator("main img, main b").count() == 0


def test_keys_have_what_runs_what_waits_and_what_was_used(page: Page, start: Start) -> None:
    gateway = start("--demo")
    answer = hour(
        series("all", "", requests=12),
        series("key", "alice", requests=9, prompt_tokens=9345, cached_tokens=2000, completion_tokens=678),
        series("key", "<b>bob", prompt_tokens=1),
    )
    run = {"id": "r", "instance": "vllm", "model": "m", "route": "/v1/x", "path": None, "method": "POST", "client": "c"}
    run |= {"phase": "data", "phase_s": 1, "age_s": 2, "time_to_first_byte_s": None, "bytes_in": 1, "bytes_out": 2}
    run |= {"retries": 0, "key": "alice", "queued_s": 1.5}
    places = [None, None, 1, 2, 3]
    requests = [{**run, "id": str(number), "place": place} for number, place in enumerate(places)]
    page.route("**/admin/history*", lambda route: route.fulfill(json=answer))
    page.route("**/admin/requests", lambda route: route.fulfill(json={"requests": requests}))
    alice = {"name": "alice", "state": "expired", "lent": {"in_flight": 4}, "refused": {"in_flight": 3, "x": 4}}
    alice |= {
        "limits": {"in_flight": 8, "tokens_per_minute": 200000},
        "used": {"in_flight": 2, "tokens_per_minute": 1000},
    }
    page.route("**/admin/keys", lambda route: route.fulfill(json={"entries": 2, "keys": [alice]}))
    enter(page, gateway)
    rows = page.locator("#keys tr")
    expect(rows).to_have_count(2)
    expect(rows.first.locator("th, td")).to_have_text(
        [
            "aliceexpired",
            "2",
            "3",
            "9",
            "9,34521 % cached",
            "678",
            "2 of 8 at once (4 lent), 1,000 of 200,000 tokens a minute7 refused since the start",
        ]
    )
    expect(rows.last.locator("th, td").first).to_have_text("<b>bob")
    expect(rows.last.locator("th, td").last).to_have_text("none")
    line = page.locator("#requests tr").filter(has_text="in line, place 2")
    expect(line).to_have_count(1)


def test_without_keys_there_is_no_table_of_them(page: Page, start: Start) -> None:
    enter(page, start("--demo"))
    expect(page.locator("#requests-part")).to_be_visible()
    expect(page.locator("#keys-part")).to_be_hidden()


def test_a_single_model_is_named_and_several_unfold(page: Page, start: Start) -> None:
    gateway = start("--demo")
    models = [{"id": f"vllm-test/m{number}", "max_model_len": 4096} for number in (1, 2)]
    models.append({"id": "vllm/org/alone", "max_model_len": 8192})
    page.route("**/v1/models", lambda route: route.fulfill(json={"object": "list", "data": models}))
    enter(page, gateway)
    single = page.locator("#instances tr").first.locator("[data-label=Models]")
    expect(single).to_contain_text("org/alone (8192 tokens)")
    expect(single.locator("summary")).to_be_hidden()
    row = page.locator("#instances tr").filter(has_text="vllm-test")
    expect(row.locator("summary")).to_have_text("2")
    row.locator("summary").click()
    expect(row.locator("li")).to_have_text(["m1 (4096 tokens)", "m2 (4096 tokens)"])
    # A new reading does not fold it again.
    updated = page.locator("#updated").inner_text()
    expect(page.locator("#updated")).not_to_have_text(updated)
    expect(row.locator("li").first).to_be_visible()


def test_it_can_be_paused(page: Page, start: Start) -> None:
    gateway = start("--demo")
    enter(page, gateway)
    expect(page.locator("#requests-part")).to_be_visible()
    page.get_by_role("button", name="Pause").click()
    page.wait_for_load_state("networkidle")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(2500)  # longer than the page's period
    assert asked == []
    page.get_by_role("button", name="Paused").click()
    expect(page.get_by_role("button", name="Pause")).to_have_attribute("aria-pressed", "false")
    page.wait_for_event("request")


@pytest.mark.parametrize(
    ("name", "scheme", "width"),
    [("light", "light", 1280), ("dark", "dark", 1280), ("tablet", "light", 800), ("phone", "dark", 380)],
)
def test_it_fits_every_screen_and_scheme(
    page: Page, start: Start, stream: Ask, picture: Picture, name: str, scheme: str, width: int
) -> None:
    gateway = start("--demo", "--rate", "40")
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size({"width": width, "height": 900})
    enter(page, gateway)
    for tokens in (5, 60, 10):
        stream(gateway, tokens=tokens).join(LIMIT_S)
        stream(gateway, "vllm/unknown", tokens=tokens).join(LIMIT_S)
        page.wait_for_timeout(1500)
    running = [stream(gateway, f"vllm{each}") for each in ("/demo/llama-sim", "-test/demo/qwen-sim")]
    with stalled_upload(gateway, "vllm/organisation/a-model-with-an-exceptionally-long-name-FP8-dynamic-128k-instruct"):
        expect(page.locator("#requests tr")).to_have_count(3)
        page.wait_for_timeout(4500)
        picture(name)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert all(each.is_alive() for each in running)


def test_text_has_enough_contrast(browser: Browser, start: Start) -> None:
    """WCAG 2.2, 1.4.3: 4.5 to 1, in both schemes, for every piece of text that is shown."""
    gateway = start("--demo")
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme)
        page = context.new_page()
        with stalled_upload(gateway, "vllm/m"):
            enter(page, gateway, "wrong")
            expect(page.locator("#door-error")).to_be_visible()
            poor = page.evaluate(_POOR_CONTRAST)
            enter(page, gateway)
            expect(page.locator("#requests tr")).to_have_count(1)
            poor += page.evaluate(_POOR_CONTRAST)
        context.close()
        assert poor == []


_POOR_CONTRAST = """() => {
  const parse = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const color = parse(getComputedStyle(node).backgroundColor);
      if (color.length === 3 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const poor = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const node = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !node.checkVisibility() || node.closest("script, .unseen, thead")) continue;
    const pair = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < 4.5) poor.push(walk.currentNode.data.trim() + " " + ratio.toFixed(2));
  }
  return poor;
}"""


def test_batches_are_shown_with_a_bar_where_there_are_some(page: Page, start: Start, tmp_path: Path) -> None:
    gateway = start("demo", GOMODEL_MASTER_KEY=KEY, GOMODEL_DATA_DIR=str(tmp_path / "data"), BATCH_CONCURRENCY="1")
    body = {"model": "vllm/demo/llama-sim", "max_tokens": 12, "messages": [{"role": "user", "content": "Hi"}]}
    lines = [{"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": body} for n in range(200)]
    batch = begin_batch(gateway, "\n".join(map(json.dumps, lines)))
    enter(page, gateway)
    row = page.locator("#batches tr").filter(has_text=batch)
    expect(row).to_contain_text("in progress")
    expect(row).to_contain_text("of 200")
    expect(row.get_by_role("progressbar", name=f"Progress of {batch}")).to_be_visible()
    expect(page.get_by_role("heading", name="Batches (the newest)")).to_be_visible()


def test_without_batches_nothing_is_said_of_them(page: Page, start: Start) -> None:
    gateway = start(VLLM_BASE_URL="http://127.0.0.1:1/v1", GOMODEL_MASTER_KEY=KEY)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    enter(page, gateway)
    expect(page.get_by_role("heading", name="Requests in flight")).to_be_visible()
    expect(page.get_by_role("heading", name="Batches (the newest)")).to_be_hidden()
    assert not [url for url in asked if "batches" in url]


def begin_batch(gateway: Gateway, content: str) -> str:
    """Make a batch of this file; its id."""

    def call(path: str, data: bytes, media_type: str) -> Any:
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": media_type}
        request = urllib.request.Request(f"{gateway.url}v1/{path}", data, headers)
        return json.load(urllib.request.urlopen(request, timeout=LIMIT_S))

    part = '--b\r\nContent-Disposition: form-data; name="{}"\r\n\r\n{}\r\n'
    form = part.format("purpose", "batch") + part.format('file"; filename="in.jsonl', content) + "--b--\r\n"
    file = call("files", form.encode(), "multipart/form-data; boundary=b")
    body = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    return str(call("batches", json.dumps(body).encode(), "application/json")["id"])


def test_a_replica_is_taken_out_of_rotation_and_put_back(page: Page, start: Start, picture: Picture) -> None:
    gateway = start("--demo")
    enter(page, gateway)
    rows = page.locator("#replicas tr")
    expect(rows).to_have_count(2)
    drained = rows.filter(has_text="of vllm-test")
    expect(drained.locator(".badge")).to_have_text("up")
    address = drained.get_by_role("rowheader").locator("span").first.inner_text()
    drained.get_by_role("button", name=f"Drain {address}").click()
    expect(drained.locator(".badge")).to_have_text("out of rotation")
    expect(page.get_by_text(f"{address} is out of rotation; what runs there ends.")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text("ready, 1 of 2 instances up")
    # Whoever is not up is looked for first.
    expect(rows.first).to_contain_text("of vllm-test")
    picture("drained")
    drained.get_by_role("button", name=f"Resume {address}").click()
    expect(drained.locator(".badge")).to_have_text("up")
    expect(page.get_by_role("status")).to_have_text("ready")
    page.get_by_role("button", name="Forget key").click()
    expect(page.locator("#replicas-part")).to_be_hidden()
