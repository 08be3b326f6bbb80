"""The pages of the documentation, parsed as Markdown: fenced blocks, inline code, links and headings."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its place, language and text, and whether ``<!-- runnable -->`` precedes it."""

    where: str
    language: str
    text: str
    runnable: bool = False


def tokens(page: Path) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8"))


def where(page: Path, token: Token) -> str:
    return f"{page.relative_to(ROOT)}:{token.map[0] + 1 if token.map else '?'}"


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    marked = False
    for token in tokens(page):
        if token.type == "fence":
            yield Block(where(page, token), token.info.strip(), token.content, marked)
        marked = token.type == "html_block" and token.content.strip() == "<!-- runnable -->"


def inline(page: Path) -> Iterator[tuple[str, Token]]:
    """Yield the inline tokens of a page and their places."""
    for token in tokens(page):
        for child in token.children or ():
            yield where(page, token), child


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the place and the target of each link and picture of a page."""
    for place, token in inline(page):
        target = token.attrs.get("href") or token.attrs.get("src")
        if target:
            yield place, str(target)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    found: set[str] = set()
    listed = tokens(page)
    for heading, content in pairwise(listed):
        if heading.type == "heading_open":
            text = "".join(child.content for child in content.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
            same = [slug, *(f"{slug}-{number}" for number in range(1, 99))]
            found.add(next(name for name in same if name not in found))
    return found
