"""The tree in CONTRIBUTING.md shows the folders of the repository."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
WHOLE = ("docs", "tests", "examples")  # drawn without what is in them
NOT_DRAWN = ("__pycache__", "assets")


def drawn() -> set[str]:
    text = (ROOT / "CONTRIBUTING.md").read_text().split("<!-- tree -->")[1].split("```")[1]
    found, path = set(), []
    for line in text.splitlines()[1:]:
        if match := re.match(r"( *)([\w-]+)/", line):
            path = [*path[: len(match[1]) // 2], match[2]]
            found.add("/".join(path))
    return found


def test_every_folder_is_drawn_and_every_drawn_folder_is_there() -> None:
    tops = [ROOT / name for name in ("fedserdiff", "sites", "strategies", "scripts")]
    there = {folder for top in tops for folder in (top, *top.rglob("*")) if folder.is_dir()}
    names = {str(folder.relative_to(ROOT)) for folder in there if not set(NOT_DRAWN) & set(folder.parts)}
    assert drawn() == names | set(WHOLE)
