"""The example notebook runs in a kernel of its own, and ends with what it promises."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples" / "stream.ipynb"


@pytest.fixture(scope="module")
def cells(workplace: Path) -> list[dict[str, Any]]:
    """The notebook's cells after they have run in an empty folder, with phantoms and prepared cases beside it."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folder = workplace / "notebook"
    folder.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # the kernel shows its pictures
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute(env=env)
    found: list[dict[str, Any]] = json.loads(nbformat.writes(notebook))["cells"]
    return [cell for cell in found if cell["cell_type"] == "code"]


def outputs(cell: dict[str, Any]) -> str:
    return json.dumps(cell["outputs"])


def test_six_lines_lead_to_r_and_a_picture_of_it(cells: list[dict[str, Any]]) -> None:
    assert len("".join(cells[0]["source"]).splitlines()) <= 6
    assert "array([[" in outputs(cells[0])
    assert "image/png" in outputs(cells[1])


def test_scores_are_a_frame_and_the_comparison_says_that_one_seed_decides_nothing(cells: list[dict[str, Any]]) -> None:
    table = outputs(cells[2])
    assert all(f"<th>{column}</th>" in table for column in ("site", "case", "dice", "hd95", "nsd", "difference_ml"))
    assert all(f"<td>{site}</td>" in table for site in ("site-1", "site-2", "site-3"))
    assert "undecided" in outputs(cells[3])
    assert "fine-tune" in outputs(cells[3])


def test_a_case_is_segmented_and_drawn(cells: list[dict[str, Any]]) -> None:
    assert "image/png" in outputs(cells[4])


def test_the_notebook_is_kept_without_outputs() -> None:
    """They would be of another machine, or show somebody's case."""
    assert all(not cell.get("outputs") for cell in json.loads(NOTEBOOK.read_text())["cells"])
