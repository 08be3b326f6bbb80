"""The reference of file formats names every field that the code reads and writes; versions agree."""

import tomllib

import pytest
import yaml
from pages import ROOT

from fedserdiff import federation
from fedserdiff.data.releases import RELEASES
from fedserdiff.deployment import kit
from sites import ledger
from strategies.results import COLUMNS, Results


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("reference/federation-file.md", [*federation._FIELDS, *federation._OF_ALL_SITES, *RELEASES]),
        (
            "reference/deployment-files.md",
            [*kit._SITE_FIELDS, *kit._FEDERATION_FIELDS, *kit._KEY_FIELDS, *kit.EGRESS_LIMITS],
        ),
        ("reference/deployment-files.md", [*ledger._FIELDS, *ledger._RECORD_FIELDS, *ledger.VERDICTS]),
        ("reference/run-directory.md", [*Results("", 0, [], [], {}).to_dict(), "raw_nifti_bytes", *COLUMNS]),
        ("how-to/brats-downloads.md", [*RELEASES, *(release.example for release in RELEASES.values())]),
        ("how-to/brats-downloads.md", [name for r in RELEASES.values() for name in r.seg_aliases.values()]),
    ],
)
def test_every_field_is_named(name: str, fields: list[str]) -> None:
    text = page(name)
    assert [field for field in fields if f"`{field}`" not in text and f"`{field}." not in text] == []


def test_labels_of_the_downloads_are_those_that_the_code_takes() -> None:
    rows = [line for line in page("how-to/brats-downloads.md").splitlines() if line.startswith("| `brats")]
    told = {}
    for row in rows:
        name, _, _, _, labels, enhancing = (cell.strip() for cell in row.strip("|").split("|"))
        told[name.strip("`")] = (tuple(map(int, labels.split(","))), (int(enhancing),))
    assert told == {name: (release.labels[1:], release.regions["et"]) for name, release in RELEASES.items()}


def test_whoever_cites_gets_the_version_and_date_of_the_last_entry_of_the_changelog() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    released = [
        line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ") and "–" in line
    ]
    assert released[0] == f"## {cited['version']} – {cited['date-released']}"
    assert (cited["version"], cited["license"]) == (project["version"], project["license"])
    assert cited["cff-version"] == "1.2.0"
    assert all(one["authors"] and one["title"] for one in (cited, *cited["references"]))
