"""A whole run on patients who are in the federation twice: kept on request, and told of wherever its results stand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fedserdiff.data.phantom.generate import write_phantom_hospital

NO_PICTURE = "No file shows a case of your data. To have pictures:"


def test_a_run_that_keeps_known_patients_leaves_results_that_say_so(
    simulate: Callable[..., Any], workplace: Path
) -> None:
    folder = write_phantom_hospital(workplace / "overlapping", 1, 4, 8.0, seed=0)
    names = sorted(case.name for case in folder.iterdir())
    sites = {"north": names[:3], "west": names[2:]}
    (workplace / "overlapping.toml").write_text(
        "".join(
            f'[[site]]\nname = "{name}"\nrelease = "brats2021"\npath = "{folder}"\ncases = {cases}\n'
            for name, cases in sites.items()
        )
    )

    done = simulate("--federation", "overlapping.toml", "--method", "fine-tune", "--allow-overlap", "--out", "leaking")

    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((workplace / "leaking" / "results.json").read_text())
    overlap = {"site": "west", "case": names[2], "first_site": "north", "first_case": names[2]}
    cases = [{**overlap, "found_by": "same brain voxels"}]
    assert results["overlap"] == {"leaks": True, "left_out": {}, "kept": {"west": 1}, "cases": cases}
    assert {site: sum(count.values()) for site, count in results["cases"].items()} == {"north": 3, "west": 2}
    config = json.loads((workplace / "leaking" / "config.json").read_text())
    assert config["allow_overlap"] is True
    assert {site["name"]: site["cases"] for site in config["sites"]} == sites
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
    assert json.loads(after[run / "config.json"])["data"]["show_cases"] is True
    assert "leaking is finished" in simulate("--resume", "leaking").stdout
