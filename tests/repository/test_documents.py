"""The documents name tests, files and variables that exist."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from bench import published
from gomodel.config import reference
from gomodel.config.load import load
from gomodel.config.registry import VARIABLES
from gomodel.errors import ClientError, Overloaded

ROOT = Path(__file__).parents[2]
THREATS = (ROOT / "docs" / "threat-model.md").read_text()
README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
CONTRACT = (ROOT / "docs" / "contract.md").read_text()
QUICK_START = (ROOT / "docs" / "quickstart.md").read_text()
# All that is written for people, by its path.
DOCUMENTS = {
    str(path.relative_to(ROOT)): path.read_text() for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
}


@pytest.mark.parametrize(("file", "name"), sorted(set(re.findall(r"`((?:\w+/)*test_\w+\.py)::(test_\w+)`", THREATS))))
def test_a_test_named_by_the_threat_model_exists(file, name):
    assert f"def {name}(" in (ROOT / "tests" / file).read_text()


def links(text):
    """The targets of a text's links, pictures included, outside of code."""
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL))


def anchors(text):
    """What the headings of a text are called in links, as GitHub and MkDocs agree."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each.lower()).strip().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("name", sorted(DOCUMENTS))
def test_what_a_document_links_to_is_there(name):
    for target in links(DOCUMENTS[name]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / name).parent / path if path else ROOT / name
        assert there.exists(), target
        assert not anchor or anchor in anchors(there.read_text()), target


def test_a_link_is_seen_and_code_is_none():
    assert links("[a](b.md#c) `[x](y)` ![p](q.png)\n```\n[m](n)\n```") == ["b.md#c", "q.png"]
    assert anchors("# What 0.x promises\n```\n# no\n```\n## Docker") == {"what-0x-promises", "docker"}


def test_every_page_is_linked_to():
    linked = {
        ((ROOT / name).parent / target.partition("#")[0]).resolve()
        for name, text in DOCUMENTS.items()
        for target in links(text)
        if "://" not in target
    }
    assert [name for name in DOCUMENTS if name != "README.md" and (ROOT / name).resolve() not in linked] == []


def test_the_readme_fits_a_reader():
    assert 80 <= README.count("\n") <= 125
    assert "Python implementation" in README[:200]
    assert "not the Go program" in README[:200]


@pytest.mark.parametrize(("name", "text"), sorted(published.drawn(DOCUMENTS["BENCHMARKS.md"]).items()))
def test_a_plot_is_drawn_from_the_published_run(name, text):
    assert (ROOT / published.IMAGES / name).read_text() == text, "python -m bench.published draws it anew"
    assert text.count("<circle") in (0, 5 * 5, 5 * 3)


def test_the_plot_of_the_readme_is_said_in_words_as_well():
    figures = re.findall(r">([0-9.]+) us<", published.per_token(DOCUMENTS["BENCHMARKS.md"]))
    assert len(figures) == 5
    assert all(figure in README for figure in figures)


@pytest.mark.parametrize("picture", sorted((ROOT / "docs" / "images").iterdir()), ids=lambda path: path.name)
def test_a_picture_is_small_and_shown(picture):
    assert picture.stat().st_size < 150_000
    assert any(f"images/{picture.name}" in target for text in DOCUMENTS.values() for target in links(text))


NAMES = sorted(name for each in VARIABLES.values() for name in each.names)


@pytest.mark.parametrize("variable", NAMES)
def test_the_configuration_page_lists_every_variable(variable):
    assert re.search(rf"^\| .*`{variable}`.* \| .* \| .* \|$", CONFIGURATION, re.MULTILINE)


@pytest.mark.parametrize("variable", sorted(VARIABLES))
def test_the_quick_start_lists_the_variables_that_are_needed_first(variable):
    [table] = re.findall(r"\| variable \| default \| meaning \|\n((?:\|.*\n)+)", QUICK_START)
    assert bool(re.search(rf"^\| `{variable}`[ ,]", table, re.MULTILINE)) is VARIABLES[variable].first


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        (".env.example", reference.example_env()),
        ("docs/configuration.md", reference.page()),
        ("docs/quickstart.md", reference.with_table(QUICK_START)),
    ],
    ids=["env", "page", "quickstart"],
)
def test_what_is_made_of_the_registry_is_up_to_date(file, expected):
    assert (ROOT / file).read_text() == expected, "make docs-config writes it anew"


def blocks(language):
    """The fenced blocks of a language in all documents."""
    return [
        each
        for text in DOCUMENTS.values()
        for each in re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    ]


@pytest.mark.parametrize("example", blocks("python"))
def test_an_example_is_python_that_asks_something(example):
    nodes = list(ast.walk(ast.parse(example)))
    assert not [node for node in nodes if isinstance(node, ast.Dict | ast.List) and not ast.unparse(node)[1:-1]]


@pytest.mark.parametrize("lines", blocks("ini"))
def test_lines_of_a_document_can_be_pasted_into_a_file(tmp_path, lines):
    path = tmp_path / ".env"
    path.write_text(lines)
    config = load({"GOMODEL_MASTER_KEY": "k"}, path)
    assert not config.warnings
    assert config.dotenv
    assert " " not in "".join(each.api_key.reveal() for each in config.instances if each.api_key is not None)


@pytest.mark.parametrize(
    "target", sorted({name for each in blocks("sh") for name in re.findall(r"\bmake ([a-z-]+)", each)})
)
def test_a_make_target_of_a_document_exists(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_make_target_has_a_line_in_the_help_and_help_is_what_make_alone_does():
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    targets = re.findall(r"^([a-z-]+):(.*)$", makefile, re.MULTILINE)
    assert targets[0][0] == "help"
    assert [name for name, rest in targets if "  ## " not in rest] == []
    [phony] = re.findall(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert sorted(phony.split()) == sorted(name for name, _ in targets)
    help_text = subprocess.run(["make", "-s"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert [line.split()[:2] for line in help_text.splitlines()] == [["make", name] for name, _ in targets]


SECTIONS = set(re.findall(r"^## ([0-9]+)\.", CONTRACT, re.MULTILINE))
RULES = set(re.findall(r"^\* \*\*Rule ([0-9]+)\.", CONTRACT, re.MULTILINE))
SOURCES = sorted(path for folder in ("gomodel", "tests") for path in (ROOT / folder).rglob("*.py"))
OTHERS = [path for path in SOURCES if path.name != Path(__file__).name]
_REFERENCE = re.compile(r"[Cc]ontract (section|rule)s?((?:,? (?:and )?[0-9]+)+)")


def unbroken(text):
    return re.sub(r"\s+(?:# )?\s*", " ", text)


def references(text):
    """What a text names of the contract, as (section or rule, number)."""
    found = _REFERENCE.findall(unbroken(text))
    return {(kind, number) for kind, numbers in found for number in re.findall("[0-9]+", numbers)}


@pytest.mark.parametrize(
    "path",
    [path for path in OTHERS if references(path.read_text())],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_what_a_comment_names_of_the_contract_is_there(path):
    known = {("section", number) for number in SECTIONS} | {("rule", number) for number in RULES}
    assert references(path.read_text()) <= known
    assert len(_REFERENCE.findall(unbroken(path.read_text()))) == len(
        re.findall("ontract (?:sect|rule)", unbroken(path.read_text()))
    )


def test_a_mention_of_the_contract_is_seen_wherever_its_line_breaks():
    text = "(contract\nsections 5 and 6)\n    # Contract\n    # section 3; contract rule 2, contract section 41"
    assert references(text) == {("section", "5"), ("section", "6"), ("section", "3"), ("rule", "2"), ("section", "41")}
    assert sum(bool(references(path.read_text())) for path in OTHERS) > 20


def test_the_rules_of_the_contract_count_up():
    assert sorted(RULES) == ["1", "2", "3"]
    last = (0, 0)
    for section, rule in re.findall(r"^## ([0-9]+)\.|^([0-9]+\.[0-9]+) ", CONTRACT, re.MULTILINE):
        number = [int(each) for each in (section or rule).split(".")]
        at = (number[0], number[1] if rule else 0)
        assert at in ((last[0] + 1, 0), (last[0], last[1] + 1))
        last = at


def test_an_error_of_the_contract_is_one_that_the_code_makes():
    sources = "".join(path.read_text() for path in SOURCES if "tests" not in path.relative_to(ROOT).parts)
    rows = re.findall(r"^\| .* \| [0-9, ]+ \| (\w+) \| (.*) \|$", CONTRACT, re.MULTILINE)
    codes = {code for _, named in rows for code in re.findall(r"\b[a-z]+_[a-z0-9_]+|\bdraining\b", named)}
    assert len(codes) > 20
    assert [code for code in sorted(codes) if f'"{code}"' not in sources] == []
    assert {kind for kind, _ in rows} <= set(re.findall(r'^    type = "(\w+)"', sources, re.MULTILINE))


# RFC 9209 2.3: what a proxy says of the server behind it.
PROXY_ERRORS = re.findall(
    r"\w+",
    """dns_timeout dns_error destination_not_found destination_unavailable destination_ip_prohibited
    destination_ip_unroutable connection_refused connection_terminated connection_timeout connection_read_timeout
    connection_write_timeout connection_limit_reached tls_protocol_error tls_certificate_error tls_alert_received
    http_request_error http_request_denied http_response_incomplete http_response_header_section_size
    http_response_header_size http_response_body_size http_response_trailer_section_size http_response_trailer_size
    http_response_transfer_coding http_response_content_coding http_response_timeout http_upgrade_failed
    http_protocol_error proxy_internal_response proxy_internal_error proxy_configuration_error proxy_loop_detected""",
)


def made_codes():
    """Every `code` of an error that the package makes."""
    sources = "".join(path.read_text() for path in SOURCES if "tests" not in path.relative_to(ROOT).parts)
    made = set(re.findall(r'\bcode"?(?: ?=|:) ?"(\w+)"', sources))
    return made | set(re.findall(r'"((?:http|connection|dns|destination|tls|proxy|instance)_[a-z]\w+)"', sources))


def test_an_error_that_the_code_makes_is_one_of_the_contract():
    # Two classes that are only ever raised as one of their kinds, or with a code.
    made = made_codes() - {ClientError.code, Overloaded.code}
    assert len(made) > 40
    table = re.search(r"^3\.2 .*?^3\.3 ", CONTRACT, re.MULTILINE | re.DOTALL)[0]
    named = [code for row in re.findall(r"^\|.*\| (.*) \|$", table, re.MULTILINE) for code in re.findall(r"\w+", row)]
    assert sorted(made - {*named, *PROXY_ERRORS}) == []
    assert sorted(code for code in made if named.count(code) > 1) == []


def test_documents_name_only_variables_that_exist():
    prefixes = (
        "GOMODEL|HTTP|METRICS|CONFIGURED|CIRCUIT|CACHE|RETRY|STRIP|PASSTHROUGH|ENABLED?|ALLOW|BODY|FORWARDED|CORS|TLS"
    )
    # Of the tests', the benchmark's and the build's own.
    others = {
        "GOMODEL_COMPILE",
        "GOMODEL_VLLM_DIR",
        "GOMODEL_VLLM_FRONTEND",
        "GOMODEL_VLLM_CACHE",
        "GOMODEL_SOAK",
        "GOMODEL_TEST_LOOP",
        "GOMODEL_TEST_WAY",
    }
    named = {
        each: name for name, text in DOCUMENTS.items() for each in re.findall(rf"`((?:{prefixes})_[A-Z0-9_]+)", text)
    }
    assert len(named) > 40
    assert {each: name for each, name in named.items() if each not in {*NAMES, *others}} == {}
