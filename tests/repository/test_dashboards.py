"""The dashboard and the alerts ask for metrics that gomodel exports, and would find some."""

import asyncio
import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from gomodel.host import private_sockets
from gomodel.operations.families import FAMILIES
from gomodel.telemetry.record import PHASE_WORDS

from ..harness.scripted import (
    SSE_HEAD,
    Fin,
    WaitFor,
    chunked,
    json_response,
    let_peers_run,
    request,
    response,
    sse,
)
from ..harness.verdicts import CHAT, ask, counted, post

DOCKER = Path(__file__).parents[2] / "docker"
DASHBOARD: dict[str, Any] = json.loads((DOCKER / "grafana-dashboard.json").read_text())
ALERTS: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((DOCKER / "prometheus-alerts.yaml").read_text())["groups"]
    for rule in group["rules"]
]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

EXPRESSIONS = [pytest.param(rule["expr"], id=rule["alert"]) for rule in ALERTS] + [
    pytest.param(target["expr"], id=f"{panel['title']} {target['refId']}")
    for panel in PANELS
    for target in panel["targets"]
]

# What a scrape adds.
SCRAPED = {"job", "instance"}

_SELECTOR = re.compile(r"((?:gomodel|process)_\w+)(?:\{([^{}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\bby \(([^)]*)\)")


def labels_of(metric: str) -> set[str]:
    """The labels that the series of `metric` have in Prometheus. KeyError when gomodel exports no such metric."""
    exported = {}
    for family in FAMILIES:
        own = set(family.labels) | SCRAPED
        if family.kind == "histogram":
            exported[f"{family.name}_bucket"] = own | {"le"}
            exported[f"{family.name}_sum"] = exported[f"{family.name}_count"] = own
        else:
            exported[family.name] = own
    return exported[metric]


class Selector(NamedTuple):
    """A metric's name and what its labels must be."""

    metric: str
    matchers: list[tuple[str, str, str]]

    def finds(self, series: list[tuple[str, dict[str, str]]]) -> bool:
        """Whether it matches one of `series`; a variable of the dashboard stands for its value for All."""
        return any(
            name == self.metric and all(_fits(labels, *each) for each in self.matchers) for name, labels in series
        )


def _fits(labels: dict[str, str], label: str, operator: str, value: str) -> bool:
    found = labels.get(label, "")
    if value.startswith("$"):
        value = VARIABLES[value[1:]]["allValue"]
    same = re.fullmatch(value, found) is not None if "~" in operator else value == found
    return same is not operator.startswith("!")


def selectors(expression: str) -> list[Selector]:
    return [Selector(metric, _MATCHER.findall(matchers or "")) for metric, matchers in _SELECTOR.findall(expression)]


def test_no_label_is_one_that_a_scrape_sets_and_would_rename():
    assert [family.name for family in FAMILIES if SCRAPED & set(family.labels)] == []


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_uses_metrics_and_labels_that_exist(expression):
    found = selectors(expression)
    assert found
    shared = set.intersection(*(labels_of(each.metric) for each in found))
    for each in found:
        assert {label for label, _, _ in each.matchers} <= labels_of(each.metric)
    for grouping in _GROUPING.findall(expression):
        assert {label.strip() for label in grouping.split(",")} <= shared


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_names_phases_and_culprits_that_exist(expression):
    known = {"phase": PHASE_WORDS, "by": ("client", "upstream", "gomodel")}
    for each in selectors(expression):
        for label, _, value in each.matchers:
            assert set(value.split("|")) <= set(known.get(label, value.split("|")))


async def test_every_selector_finds_a_series_once_everything_has_happened(
    gateway, upstream, make_upstream, connect, tmp_path
):
    upstream.on_request(sse(["1", "2", "[DONE]"]))
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), Fin())
    upstream.on_request(response(b"{}", 500))
    took = {
        "prompt_tokens": 3,
        "total_tokens": 4,
        "completion_tokens": 1,
        "prompt_tokens_details": {"cached_tokens": 2},
    }
    for usage in (took, {"type": "duration", "seconds": 3}):
        upstream.on_request(json_response({"usage": usage}))
    gone, twin = await make_upstream(), await make_upstream()
    gone.stop_listening()
    for each in (upstream, twin):
        each.repeat(response(b"{}"))
    keys = tmp_path / "keys.toml"
    digest = sha256(b"a").hexdigest()
    keys.write_text(f'[keys.a]\nsha256 = "{digest}"\nrequests_per_minute = 1\n')
    several = f"{gone.base_url},http+dns://localhost:1/v1"
    more = {"GOMODEL_MASTER_KEY": "k", "GOMODEL_DATA_DIR": str(tmp_path)}
    more |= {"GOMODEL_KEYS_FILE": str(keys), "GOMODEL_REDIS_URL": f"unix://{tmp_path}/none"}
    with private_sockets.directory(wanted=True):
        handle = await gateway(vllm=upstream, vllm_b=several, vllm_c=twin, **more)
    key = ("x-api-key", "k")
    for model in (*["vllm/m"] * 5, "vllm-b/m"):
        await ask(await connect(handle), post(model=model, headers=[key]))
    await ask(await connect(handle), request("GET", "/v1/models", [key]))
    await ask(await connect(handle), post(model="m", headers=[key]))  # which two of them list
    for _ in range(2):
        await ask(await connect(handle), post(headers=[("x-api-key", "a")]))
    upstream.on_request(SSE_HEAD + chunked(b"data: 1\n\n"), WaitFor(asyncio.Event()))
    leaving = await connect(handle)
    await leaving.send(post(headers=[key]))
    await leaving.read_until(b"data: 1")
    leaving.fin()
    slow = await connect(handle)
    await slow.send(request("POST", CHAT, [key, ("Content-Length", "9")]))
    await let_peers_run()
    slow.fin()
    await counted(handle, 12)
    answer = await ask(await connect(handle), request("GET", "/metrics", [key]))
    series = [
        (sample.name, sample.labels | {"job": "gomodel", "instance": "gomodel:8080"})
        for family in text_string_to_metric_families(answer.body.decode())
        for sample in family.samples
    ]
    every = {str(each.values[0]) for each in EXPRESSIONS}
    assert [each for expression in every for each in selectors(expression) if not each.finds(series)] == []


def test_the_dashboard_shows_every_metric():
    shown = " ".join(target["expr"] for panel in PANELS for target in panel["targets"])
    assert [family.name for family in FAMILIES if not re.search(rf"{family.name}(_bucket)?\b", shown)] == []


class TestTheDashboard:
    def test_has_a_description_for_every_panel(self):
        assert [panel["title"] for panel in PANELS if not panel.get("description")] == []

    def test_has_panels_of_their_own_number_and_place(self):
        identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
        assert len(set(identifiers)) == len(identifiers)
        taken: set[tuple[int, int]] = set()
        for panel in DASHBOARD["panels"]:
            place = panel["gridPos"]
            assert 0 <= place["x"] <= 24 - place["w"]
            cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
            assert not cells & taken, panel["title"]
            taken |= cells

    def test_asks_the_data_source_that_is_chosen(self):
        sources = [panel["datasource"] for panel in PANELS]
        sources += [target["datasource"] for panel in PANELS for target in panel["targets"]]
        assert {json.dumps(source) for source in sources} == {'{"type": "prometheus", "uid": "${datasource}"}'}

    def test_uses_variables_that_it_defines(self):
        text = json.dumps(DASHBOARD)
        assert set(re.findall(r"\$\{?(\w+)", text)) <= VARIABLES.keys() | {"__rate_interval", "__all"}

    @pytest.mark.parametrize("name", [name for name in VARIABLES if name != "datasource"])
    def test_fills_its_variables_from_labels_that_exist(self, name):
        metric, label = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", VARIABLES[name]["definition"]).groups()
        assert label in labels_of(metric)

    def test_names_its_lines_by_labels_that_they_have(self):
        for panel in PANELS:
            for target in panel["targets"]:
                used = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
                grouped = {label.strip() for each in _GROUPING.findall(target["expr"]) for label in each.split(",")}
                assert used <= grouped, panel["title"]


class TestAnAlert:
    @pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
    def test_says_what_is_wrong_and_how_bad_it_is(self, rule):
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert {"summary", "description"} == rule["annotations"].keys()
        assert re.fullmatch(r"Gomodel[A-Z]\w+", rule["alert"])

    @pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
    def test_mentions_labels_that_its_expression_keeps(self, rule):
        used = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
        groupings = [{label.strip() for label in each.split(",")} for each in _GROUPING.findall(rule["expr"])]
        kept = set.intersection(*groupings) if groupings else labels_of(selectors(rule["expr"])[0].metric)
        assert used <= kept

    def test_has_a_name_of_its_own(self):
        assert len({rule["alert"] for rule in ALERTS}) == len(ALERTS)
