"""A whole run with bad cases and with patients who are in the federation twice: every result says so."""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fedserdiff.data.phantom.generate import write_phantom_hospital
from fedserdiff.experiments.opened_federation import Cache, reopen
from strategies.run_directory import RunDirectory

NO_PICTURE = "No file shows a case from your data. To write pictures, run:"


def test_a_run_that_keeps_known_patients_and_skips_bad_cases_leaves_results_that_say_so(
    simulate: Callable[..., Any], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_phantom_hospital(workplace / "overlapping", "contrast", 1, 6, 8.0, seed=0)
    names = sorted(case.name for case in folder.iterdir())
    sites = {"north": names[:3], "west": names[2:4]}
    bad = names[4:]
    missing, spoilt = (folder / name / f"{name}_t2.nii.gz" for name in bad)
    missing.unlink()
    spoilt.write_bytes(spoilt.read_bytes()[:-9])
    (workplace / "overlapping.toml").write_text(
        "".join(
            f'[[site]]\nname = "{name}"\nrelease = "brats2021"\npath = "{folder}"\ncases = {cases}\n{more}'
            for name, cases, more in (
                ("north", sites["north"] + bad, f"test_cases = {[names[0], bad[1]]}\n"),
                ("west", sites["west"], ""),
            )
        )
    )
    options = ("overlapping.toml", "--method", "fine-tune", "--allow-overlap", "--out", "leaking")

    done = simulate(*options, "--skip-bad")

    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((workplace / "leaking" / "results.json").read_text())
    overlap = {"site": "west", "case": names[2], "first_site": "north", "first_case": names[2]}
    cases = [{**overlap, "found_by": "same brain voxels"}]
    assert results["overlap"] == {"leaks": True, "left_out": {}, "kept": {"west": 1}, "cases": cases}
    assert {site: sum(count.values()) for site, count in results["cases"].items()} == {"north": 3, "west": 2}
    config = json.loads((workplace / "leaking" / "config.json").read_text())
    assert config["data"]["allow_overlap"] is True
    assert {site["name"]: site["cases"] for site in config["sites"]} == sites
    reasons = [f"{missing}: modality t2 of case {bad[0]} is missing", f"{spoilt}: truncated or damaged ("]
    skipped = results["skipped"]
    assert [(one["site"], one["case"], one["role"]) for one in skipped] == [
        ("north", bad[0], "training"),
        ("north", bad[1], "test"),
    ]
    for one, reason in zip(skipped, reasons, strict=True):
        (fault,) = one["faults"]
        assert fault.startswith(reason)
        assert done.stdout.count(f"Skipped north: {one['case']}") == 1, "with its results"
    with (workplace / "leaking" / "skipped.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, strict=True))
    assert [(row["site"], row["case"], row["file"]) for row in rows] == [
        ("north", bad[0], str(missing)),
        ("north", bad[1], str(spoilt)),
    ]
    assert [f"{row['file']}: {row['reason']}" for row in rows] == [one["faults"][0] for one in skipped]
    assert f"Cases that cannot be used, in {folder}" in done.stdout, "before the run"
    for row in rows:
        assert f"│ north │ {row['case']} │ {Path(row['file']).relative_to(folder)} │" in done.stdout
    assert (
        "Skipped: 2 cases that cannot be used, 1 of them to be tested on, so scores are of fewer patients"
        in done.stdout
    )
    assert config["sites"][0]["test_cases"] == [names[0]]
    monkeypatch.chdir(workplace)
    going_on = reopen(Console(file=io.StringIO()), RunDirectory(workplace / "leaking"), Cache(workplace / "cache"))
    assert {site.name: list(site.cases) for site in going_on.config.sites} == sites
    assert going_on.skipped_of(going_on.config) == skipped
    assert "Leaking: 1 case (1 of west) is of patients who are in the federation already" in done.stdout

    run = workplace / "leaking"
    pictures = {run / "examples.png", run / "volumes.html"}
    before = {file: file.read_bytes() for file in run.iterdir() if file.is_file()}
    assert not pictures & set(before), "they would show patients, and nobody asked for that"
    assert f"{NO_PICTURE}\n  python scripts/simulate.py --resume leaking --show-cases\n" in done.stdout
    assert "leaking is finished" in simulate("--resume", "leaking").stdout

    shown = simulate("--resume", "leaking", "--show-cases")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert NO_PICTURE not in shown.stdout
    after = {file: file.read_bytes() for file in run.iterdir() if file.is_file()}
    assert set(after) - set(before) == pictures
    assert {file.name for file in before if after[file] != before[file]} == {"config.json"}, "nothing is run again"
    assert json.loads(after[run / "config.json"])["provenance"]["show_cases"] is True
    assert "leaking is finished" in simulate("--resume", "leaking").stdout
