"""Every relative link and anchor in the documentation has a target."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from pages import PAGES, ROOT, anchors, links


def broken(page: Path) -> list[str]:
    """Return a page's links without a target."""
    wrong = []
    for place, target in links(page):
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            continue
        file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not file.exists():
            wrong.append(f"{place}: {target}: no such file")
        elif ROOT not in file.parents:
            wrong.append(f"{place}: {target}: is outside the project")
        elif parts.fragment and file.suffix == ".md" and unquote(parts.fragment) not in anchors(file):
            wrong.append(f"{place}: {target}: no such heading")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken(page) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pages.ROOT", tmp_path)
    monkeypatch.setattr("test_documented_links.ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# One *word*\n\n## Twice\n\n## Twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md#one-word) [b](other.md#twice-1) [c](#here) [d](https://example.org/x#y) `[e](code.md)`\n\n"
        "# Here\n\n"
        "| [f](gone.md) | [g](other.md#twice-2) | ![h](gone.png) |\n|---|---|---|\n\n[i](../outside.md)\n"
    )
    assert [line.partition(": ")[2].partition(":")[0] for line in broken(page)] == [
        "gone.md", "other.md#twice-2", "gone.png", "../outside.md"
    ]  # fmt: skip
