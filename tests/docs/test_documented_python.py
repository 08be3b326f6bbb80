"""Python in the documentation compiles, and blocks marked as runnable run."""

import contextlib
import io
from pathlib import Path

import pytest
from pages import PAGES, ROOT, Block, blocks

PYTHON = [block for page in PAGES for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.where)
def test_python_compiles(block: Block) -> None:
    try:
        compile(block.text, block.where, "exec")
    except SyntaxError:
        compile("{\n" + block.text + "}", block.where, "exec")  # an entry of a table


@pytest.mark.parametrize("block", [block for block in PYTHON if block.runnable], ids=lambda block: block.where)
def test_python_that_is_said_to_run_runs_and_prints_what_is_said(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A comment after a line that prints gives its output."""
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(block.text, block.where, "exec"), {"__name__": "__main__"})
    said = [line.partition("  # ")[2] for line in block.text.splitlines() if line.startswith("print(")]
    assert said
    assert printed.getvalue().splitlines() == said


def test_something_is_runnable() -> None:
    assert [block.where for block in PYTHON if block.runnable]
    assert ROOT in PAGES[0].parents
