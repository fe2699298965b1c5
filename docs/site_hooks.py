"""Hooks of `mkdocs build`: pages and files of the repository that lie outside docs/, and the links between them.

The documents are written for a reader of the repository: README.md and CHANGELOG.md lie at its top, and links go to
wherever a file is. On the site README.md is the home page, and a file outside docs/ that a page links to is published
under its path in the repository. A link to what does not exist stays as it is, and `--strict` refuses it.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
# Pages by their place on the site, which is that below docs/ for all others.
OUTSIDE = {"index.md": "README.md", "changelog.md": "CHANGELOG.md"}
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE_IN_TABLE = re.compile(r"^\|.*`.*$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of OUTSIDE, and every other file outside docs/ that a page links to."""
    for place, path in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    for page in list(files.documentation_pages()):
        for path in _linked(page.src_uri, page.content_string):
            place = _place(path)
            if place is not None and files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with links from its place on the site instead of its path in the repository."""

    def moved(link: re.Match[str]) -> str:
        place = _place(_path(page.file.src_uri, link[1]))
        return link[1] if place is None else posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")

    return _outside_fences(markdown, lambda text: CODE_IN_TABLE.sub(_with_plain_bars, LINK.sub(moved, text)))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with one colon where docstrings, as in reStructuredText, have two before code."""
    return re.sub(r"::</p>(?=\s*<div)", ":</p>", html)


def _with_plain_bars(row: re.Match[str]) -> str:
    r"""A table's row whose code has | for \|, which a code host needs there and this site would show as it is."""
    return re.sub(r"`[^`\n]*`", lambda code: code[0].replace("\\|", "|"), row[0])


def _linked(place: str, markdown: str) -> list[str]:
    return [_path(place, link) for link in LINK.findall(FENCE.sub("", markdown))]


def _path(place: str, link: str) -> str:
    """Where in the repository a link leads from the page at this place of the site."""
    source = OUTSIDE.get(place, posixpath.join("docs", place))
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _place(path: str) -> str | None:
    """Where on the site a file of the repository is; None if there is no such file."""
    if not (ROOT / path).is_file():
        return None
    return {source: place for place, source in OUTSIDE.items()}.get(path, path.removeprefix("docs/"))


def _outside_fences(markdown: str, change: Callable[[str], str]) -> str:
    parts, end = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(markdown[end:])])
