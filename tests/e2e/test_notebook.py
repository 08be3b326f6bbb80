"""The tutorial runs in a kernel of its own, and shows what it promises."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

TUTORIAL = Path(__file__).parents[2] / "examples" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def outputs(workplace: Path) -> Mapping[str, str]:
    """What each code cell showed, by its first line; it ran in an empty folder, with a cache of phantoms beside it."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    notebook = nbformat.read(TUTORIAL, as_version=4)
    folder = workplace / "notebook"
    folder.mkdir()
    env = {name: value for name, value in os.environ.items() if name != "MPLBACKEND"}  # the kernel shows its pictures
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(folder)}}).execute(env=env)
    cells: list[dict[str, Any]] = json.loads(nbformat.writes(notebook))["cells"]
    return {
        "".join(cell["source"]).splitlines()[0]: json.dumps(cell["outputs"], ensure_ascii=False)
        for cell in cells
        if cell["cell_type"] == "code"
    }


def of(outputs: Mapping[str, str], first_line: str) -> str:
    (found,) = (shown for line, shown in outputs.items() if line.startswith(first_line))
    return found


def test_r_is_drawn_and_backward_transfer_by_hand_is_the_runs(outputs: Mapping[str, str]) -> None:
    assert "image/png" in of(outputs, "from pathlib")
    assert "image/png" in of(outputs, "import numpy")
    by_hand, of_the_run, _ = json.loads(of(outputs, "learnt"))[0]["text"]
    assert by_hand.split()[-2:] == of_the_run.split()[-2:]


def test_the_comparison_says_that_one_seed_decides_nothing(outputs: Mapping[str, str]) -> None:
    table = of(outputs, "METHODS")
    assert all(f"<td>{method}</td>" in table for method in ("fine-tune", "lesion-replay", "pooled"))
    assert "undecided" in of(outputs, "print(*comparison.verdicts")


def test_scores_by_case_are_a_frame_and_a_case_is_segmented(outputs: Mapping[str, str]) -> None:
    table = of(outputs, "import pandas")
    assert all(f"<th>{column}</th>" in table for column in ("site", "case", "dice", "hd95", "nsd", "difference_ml"))
    assert all(f"<td>{site}</td>" in table for site in ("site-1", "site-2"))
    assert "image/png" in of(outputs, "site = ")


def test_the_readers_own_method_has_its_term_once_there_is_a_past(outputs: Mapping[str, str]) -> None:
    shown = of(outputs, "OWN")
    assert shown.count("anchor'") == 1, "stage 1 has no past"
    assert "image/png" in shown


def test_the_ledger_of_a_hospital_is_shown(outputs: Mapping[str, str]) -> None:
    assert all(f"<td>{one}</td>" in of(outputs, "ledger") for one in ("query", "train", "evaluate", "sent"))


def test_the_notebook_is_kept_without_outputs() -> None:
    """They would be of another machine, or show somebody's case."""
    assert all(not cell.get("outputs") for cell in json.loads(TUTORIAL.read_text())["cells"])
