"""The output of a hospital's process when it starts."""

import csv
from pathlib import Path

from typer.testing import CliRunner

from fedserdiff.commands import hospital
from fedserdiff.deployment.provisioning import provision
from fedserdiff.federation import phantom_federation
from fedserdiff.settings.sources import make_settings


def test_a_hospital_lists_its_bad_cases_in_its_own_folder_and_does_not_start(tmp_path: Path) -> None:
    config = make_settings("smoke", {"data.phantom_patients": 4})
    (site,) = sites = phantom_federation(1, config, tmp_path / "phantom")
    gone = [sorted(case.glob("*t1ce*"))[0] for case in sorted(Path(site.path).iterdir())[:2]]
    for file in gone:
        file.unlink()
    provision(tmp_path / "federation", make_settings("smoke", sites=sites), "localhost:9", {})
    kit = tmp_path / "federation" / "sites" / site.name
    done = CliRunner().invoke(hospital.app, [str(kit)])
    assert done.exit_code == 1
    assert "error: 2 cases cannot be used" in done.output
    (listed,) = kit.rglob("*-bad-cases.csv")
    assert f"Listed in {listed}" in done.output
    with listed.open(encoding="utf-8", newline="") as opened:
        assert [(row["site"], row["file"]) for row in csv.DictReader(opened)] == [(site.name, str(f)) for f in gone]
