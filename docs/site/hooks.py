"""Hooks of MkDocs: documents outside docs/ become pages of the site, and links between both lead to pages.

Decides which ones. In the repository every link is relative to its file, so that it works there as well.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
# What is no file of docs/, by its path in the repository, and what it is called on the site.
OUTSIDE = {
    "README.md": "index.md",
    "BENCHMARKS.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "tests/README.md": "testing.md",
}
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents outside docs/."""
    for path, name in OUTSIDE.items():
        text = relinked((ROOT / path).read_text(encoding="utf-8"), path, name)
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of docs/ to the pages that these are here."""
    if page.file.src_uri in OUTSIDE.values():
        return markdown
    return relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def relinked(text: str, path: str, name: str) -> str:
    """`text` of the file at `path` in the repository, with links as they are from the page `name` of the site."""

    def link(found: "re.Match[str]") -> str:
        if "://" in found[2]:
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), found[2]))
        there = OUTSIDE.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if there is None:
            return found[0]
        return f"{found[1]}{posixpath.relpath(there, posixpath.dirname(name) or '.')}{found[3]}"

    return _LINK.sub(link, text)
