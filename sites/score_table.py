"""A hospital's own score table: one row for each stage, case, mask and region, one column for each metric."""

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedserdiff.evaluation.measures import MEASURES
from fedserdiff.files import write_whole

THRESHOLDS_FILE = "thresholds.json"
_COLUMNS = ("stage", "case", "mask", "region", *MEASURES)


def enter(table: Path, stage: int, scores: Mapping[str, Mapping[str, float]]) -> None:
    """Rewrite the table (CSV) with these scores for the stage; the file is complete at all times.

    Parameters
    ----------
    table : Path
    stage : int
    scores : mapping
        All scores of each case, by case and then by ``{mask}.{measure}.{region}``.
    """
    rows: list[Mapping[str, object]] = [
        {"stage": stage, "case": case, "mask": mask, "region": region}
        | {measure: of_case[f"{mask}.{measure}.{region}"] for measure in MEASURES}
        for case, of_case in scores.items()
        for mask, region in _masks(of_case)
    ]
    others = [row for row in _whole(table, len(rows) // len(scores)) if row["stage"] != str(stage)]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    writer.writerows(sorted([*others, *rows], key=lambda row: int(str(row["stage"]))))
    write_whole(table, lambda opened: opened.write(text.getvalue().encode()))


def enter_thresholds(file: Path, stage: int, chosen: Mapping[str, Mapping[str, object]]) -> None:
    """Rewrite the JSON file of thresholds by stage and mask with these for the stage."""
    others = json.loads(file.read_text()) if file.exists() else {}
    stages = dict(sorted({**others, str(stage): chosen}.items(), key=lambda item: int(item[0])))
    write_whole(file, lambda opened: opened.write((json.dumps(stages, indent=2) + "\n").encode()))


def _masks(scores: Mapping[str, float]) -> Sequence[tuple[str, str]]:
    """Return each mask and region of a case's scores."""
    parts = (name.split(".", 2) for name in scores)
    return list(dict.fromkeys((mask, region) for mask, _, region in parts))


def _whole(table: Path, rows_a_case: int) -> list[Mapping[str, object]]:
    """Return the rows of stages and cases whose rows are complete."""
    if not table.exists():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if tuple(row) == _COLUMNS and None not in row.values()]
    count = Counter((row["stage"], row["case"]) for row in rows)
    return [row for row in rows if count[row["stage"], row["case"]] == rows_a_case]
