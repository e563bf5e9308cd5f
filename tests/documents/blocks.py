"""What of a document is run: its fenced blocks of sh, python and js, and the marks that stand before them.

A mark is an HTML comment in the line before a block, which readers do not see:

    <!-- not run: needs a GPU -->     left out, and why
    <!-- serves -->                   a gateway: started, waited for, and ended with the page or by the next one
    <!-- prints: data: [DONE] -->     what its output has to hold
    <!-- needs: openai -->            Python packages that are installed before it

Every block without one is run, and has to end with status 0.
"""

import re
from typing import NamedTuple

LANGUAGES = ("sh", "python", "js")
_BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
_INSTALLS = re.compile(r"\b(?:pip install (?!'?\.)|npm install|apt-get install)")
_MARK = re.compile(r"(not run|prints|needs): (.+)|(serves)")


class Block(NamedTuple):
    """One block. `left_out` says why it is not run, `prints` what its output holds; "" is neither."""

    language: str
    text: str
    line: int
    left_out: str = ""
    serves: bool = False
    prints: str = ""
    needs: str = ""


class BadMark(Exception):
    """A comment before a block that means nothing here."""


def blocks(document: str) -> list[Block]:
    """Those of `document` that could be run, in their order. Raises BadMark."""
    found = []
    for each in _BLOCK.finditer(document):
        if each["language"] not in LANGUAGES:
            continue
        block = Block(each["language"], each["text"], document.count("\n", 0, each.start("text")))
        if each["mark"] is not None:
            mark = _MARK.fullmatch(each["mark"])
            if mark is None:
                raise BadMark(f"line {block.line}: {each['mark']}")
            if mark[1] == "not run":
                block = block._replace(left_out=mark[2])
            elif mark[1] == "prints":
                block = block._replace(prints=mark[2])
            elif mark[1] == "needs":
                block = block._replace(needs=mark[2])
            else:
                block = block._replace(serves=True)
        found.append(block)
    return found


def downloads(found: list[Block]) -> bool:
    """Whether running them fetches packages that the tests have no need of otherwise."""
    return any(_INSTALLS.search(each.text) for each in found if each.language == "sh" and not each.left_out)
