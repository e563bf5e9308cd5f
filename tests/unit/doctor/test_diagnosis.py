"""Whose fault a finding is, what stands there, and what the report says of it."""

import json
from pathlib import Path
from typing import Any

import pytest

from gomodel.config.settings import Secret
from gomodel.doctor import compared, questions, reached, remedies, timed
from gomodel.doctor.diagnosis import diagnose
from gomodel.doctor.models import name_through
from gomodel.doctor.places import place_of
from gomodel.doctor.report import WIDTH, Redaction, as_json, table, verdict

from .seen import JSON, chat, exchange, observed, stream

NGINX = [exchange(chat(), fields=[*JSON, ("Server", "nginx/1.22.1")])] * 2
BUFFERED = [stream(gap_s=0, at=1.2)] * 2


def test_where_nothing_differs_all_is_well() -> None:
    found = diagnose("vllm", "0.33.0", [observed(), observed(shown="http://gw")])
    assert (found.well, found.faults) == (True, ())
    assert verdict(found) == "Verdict: what works directly works through http://gw.\n"


def test_a_fault_belongs_to_the_first_place_that_has_it() -> None:
    inner, outer = observed(shown="http://gw"), observed(shown="https://lb", answers=NGINX, streams=BUFFERED)
    found = diagnose("vllm", "0.33.0", [observed(), inner, outer])
    assert [(fault.at, fault.finding.kind) for fault in found.faults] == [(1, "buffered")]
    assert found.products == ("", "nginx")
    said = verdict(found)
    assert "[2] https://lb (nginx), not [1] behind it" in said
    assert "proxy_buffering off;" in said
    again = diagnose(
        "vllm", "0.33.0", [observed(), observed(streams=BUFFERED), observed(answers=NGINX, streams=BUFFERED)]
    )
    assert [(fault.at, fault.finding.kind) for fault in again.faults] == [(0, "buffered")]


def test_a_warning_breaks_nothing() -> None:
    found = diagnose("vllm", "0.33.0", [observed(), observed(answers=[exchange(chat(), framing="chunked")] * 2)])
    assert [fault.finding.kind for fault in found.faults] == ["reframed"]
    assert found.well


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([("Server", "nginx/1.22.1")], "nginx"),
        ([("server", "envoy")], "Envoy"),
        ([("Server", "uvicorn")], ""),
        ([("Server", "uvicorn"), ("x-litellm-call-id", "1")], "LiteLLM"),
        ([("Server", "uvicorn"), ("X-GoModel-Provider", "vllm")], "gomodel"),
        ([("Server", "cloudflare"), ("CF-RAY", "1")], "Cloudflare"),
        ([("Via", "1.1 Caddy")], "Caddy"),
        ([("Via", "1.0 proxy.example")], ""),
    ],
)
def test_what_stands_at_a_place_is_known_by_what_it_adds(fields: Any, expected: str) -> None:
    assert remedies.product(exchange(fields=fields), exchange(fields=[("Server", "uvicorn")])) == expected
    assert remedies.product(exchange(fields=fields), exchange(fields=fields)) == ""


def test_every_kind_of_finding_that_breaks_something_has_a_remedy() -> None:
    kinds = {"large", "chunked"}
    for rules in (compared, timed, reached):
        source = Path(rules.__file__).read_text()
        kinds |= {part.split('"')[1] for part in source.split("broken(")[1:] if part.startswith('"')}
    assert len(kinds) > 10
    assert [kind for kind in kinds if not remedies.remedy(kind, "")] == []


def test_the_table_fits_and_has_no_colours_unless_asked_for() -> None:
    long = observed(shown="http://gw", large=exchange(b"", 413), streams=BUFFERED)
    for number in (1, 2, 3):
        text = table(diagnose("vllm", "0.33.0", [observed(), *[long] * number]), colours=False)
        assert max(map(len, text.splitlines())) <= WIDTH
        assert "\033" not in text
    assert "\033[31m" in table(diagnose("vllm", "0.33.0", [observed(), long]), colours=True)


def test_json_says_the_same() -> None:
    found = diagnose(
        "vllm", "0.33.0", [observed(), observed(shown="http://gw", answers=NGINX, large=exchange(b"", 413))]
    )
    said = json.loads(as_json([found]))
    assert said["well"] is False
    (instance,) = said["instances"]
    assert instance["through"] == [{"url": "http://gw", "product": "nginx"}]
    assert [each["through"][0]["state"] for each in instance["checks"] if each["check"] == "large"] == ["broken"]
    (finding,) = instance["findings"]
    assert (finding["kind"], finding["at"], finding["state"]) == ("large", "http://gw", "broken")
    assert "client_max_body_size" in finding["remedy"]


def test_no_key_and_no_credentials_are_said() -> None:
    redact = Redaction([Secret("sk-long-key"), None, Secret("sk"), Secret("")])
    assert redact("a sk-long-key, a sk, at https://me:pw@host/x") == "a ***, a ***, at https://***@host/x"


@pytest.mark.parametrize(
    ("url", "shown", "port", "prefix"),
    [
        ("http://h", "http://h", 80, ""),
        ("h:81", "http://h:81", 81, ""),
        ("https://h/llm/v1/", "https://h/llm", 443, "/llm"),
        ("http://me:pw@h:8080/v1", "http://h:8080", 8080, ""),
        ("http://[::1]:8080", "http://[::1]:8080", 8080, ""),
        ("unix:/run/x.sock", "unix:/run/x.sock", 80, ""),
    ],
)
def test_places(url: str, shown: str, port: int, prefix: str) -> None:
    place = place_of(url, None)
    assert (place.shown, place.port, place.prefix) == (shown, port, prefix)


@pytest.mark.parametrize("url", ["ftp://h", "http://"])
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no http:// or https:// URL"):
        place_of(url, None)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (["other", "vllm/org/m"], "vllm/org/m"),
        (["org/m"], "org/m"),
        (["openai/org/m"], "openai/org/m"),
        (["m"], None),
        ([], "org/m"),
    ],
)
def test_what_a_gateway_calls_the_model(ids: list[str], expected: str | None) -> None:
    assert name_through(ids, "vllm", "org/m") == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("vllm/org/m", "vllm/gomodel-doctor-no-such-model"),
        ("org/m", "gomodel-doctor-no-such-model"),
        ("alias", None),
    ],
)
def test_an_absent_model_is_named_so_that_the_engine_is_still_reached(model: str, expected: str | None) -> None:
    assert questions.no_such_model(model, "org/m") == expected
