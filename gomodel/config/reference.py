"""What is written about the variables (`registry`): .env.example, docs/configuration.md, the quick start's table, help.

`python -m gomodel.config.reference`, or `make docs-config`, writes the files anew in the working directory. Decides how
a variable is shown, and says what holds for all of them: how values are spelled and where they come from.
"""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from .registry import SECTIONS, VARIABLES
from .variable import FILE_SUFFIX, Section, Variable

_WIDTH = 120
# The instance that stands for all further ones in the example.
_SECOND, _SECOND_NAME = "TEST", "vllm-test"
_FURTHER = (
    "Further instances carry a suffix: `TEST` makes `vllm-test`, `EU_WEST_2` makes `vllm-eu-west-2`. "
    "A base URL is required."
)
_IN_A_FILE = "File that holds the key instead; one trailing newline is dropped."
_KEYS = (
    f"Each variable that is a key has a sibling `<variable>{FILE_SUFFIX}`, which names a file that holds it instead."
)
_SPELLINGS = (
    "Booleans: `true`, `1`, `yes`, `on` / `false`, `0`, `no`, `off`. Durations: `600` (seconds), `500ms`, `30s`, "
    "`10m`, `1h30m`, `30d`. Sizes: bytes, `500K`, `10M`, `1G` (1024-based). Lists: separated by commas. An empty value "
    "counts as unset."
)
_DOTENV = (
    "Lines are NAME=value; a malformed one is an error. `${NAME}` and `${NAME:-default}` are filled in from the "
    "environment, then from the lines above. SIGHUP reads the file again, once it is whole; when it has vanished, "
    "looks cut short or has lost the master key or the last base URL, the old configuration stays."
)
_FIRST_TABLE = re.compile(r"(?<=\n)\| variable \| default \| meaning \|\n(?:\|.*\n)+")


def example_env() -> str:
    """A .env file with every variable, commented out, under its meaning; uncommented it says what is true anyway."""
    return "\n".join(_example_lines()) + "\n"


def _example_lines() -> Iterator[str]:
    yield from _comment(
        "gomodel reads this file as .env from its working directory, below the process environment: a variable that "
        f"exists there already wins. {_DOTENV} Every value shown is the default, apart from those of the second "
        "instance."
    )
    yield "#"
    yield from _comment(_SPELLINGS)
    for section in SECTIONS:
        yield from ("", f"# {section.title.upper()}")
        for each in section.variables:
            otherwise = f" Unset: {each.otherwise}." if each.otherwise != "none" else ""
            yield from _example(each.name, each.default, each.meaning + otherwise)
            if each.secret:
                yield from _example(each.name + FILE_SUFFIX, "", _IN_A_FILE)
        of_instances = _of_instances(section)
        if of_instances:
            yield from ("", *_comment(_FURTHER))
        for each in of_instances:
            value, name = each.per_instance or "", each.of(_SECOND)
            yield from _example(name, "" if each.secret else value, f"As `{each.name}`, for `{_SECOND_NAME}`.")
            if each.secret:
                yield from _example(name + FILE_SUFFIX, value, _IN_A_FILE)


def _example(name: str, value: str, meaning: str) -> Iterator[str]:
    yield ""
    yield from _comment(meaning)
    yield f"# {name}={value}"


def _comment(text: str) -> list[str]:
    return _wrapped(text.replace("`", ""), "# ")


def _wrapped(text: str, before: str = "") -> list[str]:
    """Lines of the text, each with `before` in front."""
    return textwrap.wrap(
        text, _WIDTH, initial_indent=before, subsequent_indent=before, break_long_words=False, break_on_hyphens=False
    )


def page() -> str:
    """docs/configuration.md."""
    return "\n".join(_page_lines()) + "\n"


def _page_lines() -> Iterator[str]:
    yield "<!-- Made of gomodel/config/registry.py by `make docs-config`; a change made here is lost. -->"
    yield from ("# Configuration", "")
    yield from _wrapped(
        "Every variable that gomodel reads, at start and on SIGHUP, from the environment over a `.env` file in the "
        "working directory. `gomodel --example-env` prints the same as such a file, `gomodel check` says what is "
        "wrong with a configuration and asks every instance once. All problems are reported together."
    )
    for text in (f"**Values.** {_SPELLINGS}", f"**The file.** {_DOTENV}", f"**Keys.** {_KEYS}"):
        yield ""
        yield from _wrapped(text)
    for section in SECTIONS:
        yield from ("", f"## {section.title}", "")
        if _of_instances(section):
            yield from (*_wrapped(f"{_FURTHER} `<NAME>` stands for the suffix."), "")
        yield from _table(section.variables, _all_names)


def _of_instances(section: Section) -> list[Variable]:
    return [each for each in section.variables if each.per_instance is not None]


def _all_names(variable: Variable) -> list[str]:
    per_instance = [] if variable.per_instance is None else [variable.of("<NAME>")]
    return [own + end for own in (variable.name, *per_instance) for end in ("", FILE_SUFFIX)[: 1 + variable.secret]]


def _first_names(variable: Variable) -> list[str]:
    return [variable.name] if variable.per_instance is None else [variable.name, variable.of("<NAME>")]


def _table(variables: Iterable[Variable], names: Callable[[Variable], Iterable[str]]) -> Iterator[str]:
    yield from ("| variable | default | meaning |", "|---|---|---|")
    for each in variables:
        cells = (", ".join(f"`{name}`" for name in names(each)), each.documented_default, each.meaning)
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def with_table(quick_start: str) -> str:
    """The text of docs/quickstart.md with its table of the variables that are needed first as it is to be."""
    table = "\n".join(_table(_first(), _first_names)) + "\n"
    return _FIRST_TABLE.sub(lambda _: table, quick_start, count=1)


def _first() -> list[Variable]:
    return [each for each in VARIABLES.values() if each.first]


def first_names() -> str:
    """The names of the variables that are needed first, for `gomodel serve --help`: lines of 80 characters at most."""
    names = " ".join(each.name for each in _first())
    return "\n".join(textwrap.wrap(names, 80, initial_indent="  ", subsequent_indent="  "))


def main() -> None:
    """Write what is in the repository anew."""
    Path(".env.example").write_text(example_env(), encoding="utf-8")
    Path("docs", "configuration.md").write_text(page(), encoding="utf-8")
    quick_start = Path("docs", "quickstart.md")
    quick_start.write_text(with_table(quick_start.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
