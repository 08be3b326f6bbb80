"""Score a folder of predicted label maps against the truth: Dice and HD95, overall and lesion-wise."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fedserdiff.commands.common import clear_errors
from fedserdiff.data.cases import find_label_maps, passed_over
from fedserdiff.data.decathlon import LABELS, MSD, find_decathlon_label_maps, read_dataset
from fedserdiff.data.releases import RELEASES, Convention, Release, release_or_file
from fedserdiff.errors import ConfigError, DataError, Faults
from fedserdiff.files import write_whole
from fedserdiff.report.console import open_console, print_table, progress_bars
from fedserdiff.text import first_few, readable

if TYPE_CHECKING:
    from fedserdiff.evaluation.label_maps import RegionScores

_MEASURES = {
    "dice": "Dice %",
    "hd95": "HD95 mm",
    "lesion_dice": "lesion-wise\nDice %",
    "lesion_hd95": "lesion-wise\nHD95 mm",
}
_COUNTS = ("lesions_found", "lesions_missed", "lesions_spurious")
_MOST_NAMES = 20  # of cases, in one sentence

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    predictions: Annotated[
        Path, typer.Argument(help="Folder of predicted label maps: CASE.nii.gz, or case folders as in the release.")
    ],
    truth: Annotated[Path, typer.Argument(help="Folder of the true label maps, named in the same ways.")],
    release: Annotated[
        str,
        typer.Option(
            help=f"Release whose names and labels both folders use: {', '.join((*RELEASES, MSD))}, or a TOML file."
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="CSV file for every case's scores; a .json file beside it gets the means.")
    ] = Path("scores.csv"),
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Score the cases that have a prediction, even if others have none.")
    ] = False,
) -> None:
    """Score predicted label maps against the truth: Dice and HD95, overall and lesion-wise."""
    console = open_console()
    with clear_errors("nothing was written"):
        if out.suffix != ".csv" or out.is_dir():
            raise ConfigError(f"--out: {out}: name a .csv file; the means go beside it, as .json")
        convention, expected, given = _found(release, truth, predictions)
        cases = [name for name in expected if name in given]
        missing = [name for name in expected if name not in given]
        surplus = [name for name in given if name not in expected]
        if surplus:
            _say(console, f"Not scored because {truth} has no truth for them: {first_few(surplus, _MOST_NAMES)}")
        others = {} if release == MSD else _others(release_or_file(release), predictions, truth)
        for folder, names in others.items():
            listed = first_few(names, _MOST_NAMES)
            _say(console, f"Not scored because the names in {folder} are not case names of {release}: {listed}")
        if not cases or (missing and not allow_missing):
            raise DataError(
                f"{predictions}: no prediction for {len(missing)} of the {len(expected)} cases in {truth}: "
                f"{first_few(missing, _MOST_NAMES)}{': --allow-missing leaves them out' if cases else ''}"
            )
        if missing:
            listed = first_few(missing, _MOST_NAMES)
            _say(console, f"Not scored because {predictions} has no prediction for them: {listed}")
        out.parent.mkdir(parents=True, exist_ok=True)  # report a wrong path before the work, not after it

        from fedserdiff.evaluation.label_maps import score_label_map  # imports torch, which help should not wait for

        rows: list[dict[str, Any]] = []
        faults = Faults(DataError)
        with progress_bars(console) as show:
            for done, case in enumerate(cases):
                show("scoring cases", done, len(cases))
                with faults.caught():
                    scores = score_label_map(given[case], expected[case], convention)
                    rows += [{"case": case, "region": region, **_row(one)} for region, one in scores.items()]
        faults.check()
        means = _means(rows)
        told = {
            "release": release,
            "predictions": readable(str(predictions)),
            "truth": readable(str(truth)),
            "cases": len(cases),
            "without_prediction": missing,
            "without_truth": surplus,
            "passed_over": {readable(str(folder)): names for folder, names in others.items()},
            "means": means,
        }
        _write(out, rows, told)
    title = f"Means over {len(cases)} {'case' if len(cases) == 1 else 'cases'} of {release}"
    print_table(console, _table(f"{title}, of {len(expected)}" if missing else title, means, len(cases)))
    _say(console, f"Scores of every case: {out}; means: {out.with_suffix('.json')}")


def _found(release: str, truth: Path, predictions: Path) -> tuple[Convention, dict[str, Path], dict[str, Path]]:
    """Return the label convention, and the true and the predicted label maps by case."""
    if release == MSD:
        expected = find_decathlon_label_maps(truth / LABELS)
        return read_dataset(truth), expected, find_decathlon_label_maps(predictions, expected)
    convention = release_or_file(release)
    return convention, find_label_maps(truth, convention), find_label_maps(predictions, convention)


def _others(release: Release, *folders: Path) -> dict[Path, list[str]]:
    """Return, by folder, files that may be label maps but are not named like the release's cases."""
    names = {folder: [readable(name) for name in passed_over(folder, release)] for folder in folders}
    return {folder: found for folder, found in names.items() if found}


def _row(scores: "RegionScores") -> dict[str, float]:
    """Return a region's scores by their column in the CSV file."""
    lesions = scores.lesions
    measured = (scores.dice, scores.hd95, lesions.dice, lesions.hd95)
    counted = (lesions.found, lesions.missed, lesions.spurious)
    return dict(zip((*_MEASURES, *_COUNTS), (*measured, *counted), strict=True))


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the mean of each measure over the cases, by region, and over all regions as ``mean``."""
    regions = list(dict.fromkeys(row["region"] for row in rows))
    chosen = {region: [row for row in rows if row["region"] == region] for region in regions} | {"mean": list(rows)}
    return {
        region: {measure: sum(row[measure] for row in own) / len(own) for measure in _MEASURES}
        for region, own in chosen.items()
    }


def _write(out: Path, rows: Sequence[Mapping[str, Any]], told: Mapping[str, Any]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, ("case", "region", *_MEASURES, *_COUNTS))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(out, lambda file: file.write(text.getvalue().encode()))
    write_whole(out.with_suffix(".json"), lambda file: file.write((json.dumps(told, indent=2) + "\n").encode()))


def _table(title: str, means: Mapping[str, Mapping[str, float]], cases: int) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    for number, column in enumerate(("region", *_MEASURES.values(), "cases")):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for region, mean in means.items():
        shown = (f"{100 * v:.1f}" if measure.endswith("dice") else f"{v:.1f}" for measure, v in mean.items())
        table.add_row(region if region == "mean" else region.upper(), *shown, str(cases))
    return table


def _say(console: Console, sentence: str) -> None:
    console.print(escape(sentence), highlight=False, soft_wrap=True)
