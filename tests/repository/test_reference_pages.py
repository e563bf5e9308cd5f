"""The pages that list what the code has, codes, reasons, phases, fields, routes, signals, and those made of it."""

import ast
import re
from pathlib import Path

import pytest

from docs.site import hooks, reference
from gomodel.commands.table import COMMANDS
from gomodel.routes.router import Router
from gomodel.telemetry.record import PHASE_WORDS
from tests.documents.blocks import BadMark, blocks, downloads

from .test_documents import DOCUMENTS, PROXY_ERRORS, ROOT, made_codes

ERRORS, OPERATING = DOCUMENTS["docs/errors.md"], DOCUMENTS["docs/operating.md"]


def named_in_first_cells(text: str) -> list[str]:
    cells = re.findall(r"^\| ([^|]*) \|", text, re.MULTILINE)
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize(
    ("file", "made"),
    [("metrics.md", reference.metrics()), ("cli.md", reference.command_lines())],
    ids=["metrics", "cli"],
)
def test_what_is_made_of_the_code_is_up_to_date(file: str, made: str) -> None:
    assert (ROOT / "docs" / file).read_text() == made, "make docs-reference writes it anew"


def test_every_command_has_a_place_on_its_page() -> None:
    page = DOCUMENTS["docs/cli.md"]
    assert all(f"## gomodel {each.name}\n" in page for each in COMMANDS)


def test_every_error_code_has_its_cause_and_no_other_is_named() -> None:
    before = ERRORS.partition("## Who ended it")[0]
    named = named_in_first_cells(before)
    assert sorted(set(named)) == sorted(named)
    made = made_codes()
    assert sorted(made - set(named)) == []
    assert sorted(set(named) - made - set(PROXY_ERRORS)) == []


def test_every_phase_and_reason_is_explained() -> None:
    after = ERRORS.partition("## Who ended it")[2]
    named = set(named_in_first_cells(after))
    assert set(PHASE_WORDS) <= named
    blamed = set()
    for path in (ROOT / "gomodel").rglob("*.py"):
        for call in ast.walk(ast.parse(path.read_text())):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "blame":
                blamed |= {each.value for each in call.args[1:] if isinstance(each, ast.Constant)}
    assert {"disconnected", "write_timeout"} <= blamed
    assert blamed <= named


def test_every_field_of_the_access_line_is_explained() -> None:
    source = ast.parse((ROOT / "gomodel" / "telemetry" / "access_line.py").read_text())
    fields = {
        node.slice.value
        for node in ast.walk(source)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant) and isinstance(node.ctx, ast.Store)
    }
    [made] = (node for node in ast.walk(source) if isinstance(node, ast.FunctionDef) and node.name == "fields")
    [table] = (node for node in ast.walk(made) if isinstance(node, ast.Dict))
    fields |= {key.value for key in table.keys if isinstance(key, ast.Constant)}
    section = OPERATING.partition("## The access line")[2].partition("\n## ")[0]
    assert fields - {"created", "fields"} == set(named_in_first_cells(section))


def test_every_route_of_the_gateways_own_is_listed() -> None:
    router = Router(
        base_path="/",
        passthrough=True,
        passthrough_v1_alias=True,
        passthrough_admin=False,
        metrics_path="/metrics",
        metrics_public=False,
    )
    section = OPERATING.partition("## Addresses")[2].partition("\n## ")[0]
    named = {path for _, path in (each.split(" ") for each in named_in_first_cells(section))}
    for path in router._local:
        assert path in named or path == "/v1/models"
    for path in named:
        target = path.replace("{id}", "a").replace("{name}", "vllm")
        assert router.resolve(target).template == path


def test_every_signal_that_the_gateway_takes_is_listed() -> None:
    source = (ROOT / "gomodel" / "host" / "signals.py").read_text()
    section = OPERATING.partition("## Signals")[2].partition("\n## ")[0]
    taken = set(re.findall(r"\bSIG(?:TERM|INT|QUIT|PWR|HUP|USR1|USR2)\b", source))
    assert len(taken) >= 6
    assert [name for name in sorted(taken) if name not in section] == []


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_every_block_of_a_document_is_run_or_says_why_not(name: str) -> None:
    for block in blocks(DOCUMENTS[name]):
        assert not block.serves or block.language == "sh"


def test_a_mark_that_means_nothing_is_refused() -> None:
    with pytest.raises(BadMark, match="line 2: not ran: x"):
        blocks("<!-- not ran: x -->\n```sh\nls\n```\n")
    [plain, marked] = blocks("```ini\nA=1\n```\n\n```sh\nls\n```\n<!-- prints: a: b -->\n```python\n1\n```\n")
    assert (plain.language, plain.text, marked.prints) == ("sh", "ls\n", "a: b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("pip install openai", True), ("pip install '.[batch]'", False), ("npm install --global x", True), ("ls", False)],
)
def test_what_downloads_is_known(text: str, expected: bool) -> None:
    assert downloads(blocks(f"```sh\n{text}\n```\n")) is expected
    assert not downloads(blocks(f"<!-- not run: no -->\n```sh\n{text}\n```\n"))


@pytest.mark.parametrize(
    ("text", "path", "name", "expected"),
    [
        ("[a](docs/keys.md#x)", "README.md", "index.md", "[a](keys.md#x)"),
        ("[a](../BENCHMARKS.md)", "docs/faq.md", "faq.md", "[a](benchmarks.md)"),
        ("[a](../keys.md)", "docs/guides/codex.md", "guides/codex.md", "[a](../keys.md)"),
        ("![a](docs/images/map.svg)", "README.md", "index.md", "![a](images/map.svg)"),
        ("[a](https://example.org/docs/x)", "README.md", "index.md", "[a](https://example.org/docs/x)"),
        ("[a](../tests/README.md)", "docs/faq.md", "faq.md", "[a](testing.md)"),
    ],
)
def test_a_link_leads_to_the_page_that_a_document_is_on_the_site(
    text: str, path: str, name: str, expected: str
) -> None:
    assert hooks.relinked(text, path, name) == expected


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted([*pages, *hooks.OUTSIDE.values()])


def test_the_site_fetches_nothing_of_others() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in text
    assert "://" not in text
    assert Path(ROOT, "docs", "site", "hooks.py").exists()
