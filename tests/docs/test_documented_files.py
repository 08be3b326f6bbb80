"""The reference of file formats names every field that the code reads or writes, and versions agree."""

import tomllib

import pytest
import yaml
from pages import PAGES, ROOT, blocks

from fedserdiff import federation
from fedserdiff.data.case_table import DATE, INSTITUTION
from fedserdiff.data.release_fields import CHECKS
from fedserdiff.data.releases import RELEASES, own_release
from fedserdiff.deployment import kit
from fedserdiff.evaluation.measures import MEASURES
from sites import ledger
from strategies.results import COLUMNS, Results


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("reference/federation-file.md", [*federation._FIELDS, *federation._OF_ALL_SITES]),
        ("reference/releases.md", [*RELEASES, *CHECKS]),
        (
            "reference/deployment-files.md",
            [*kit._SITE_FIELDS, *kit._FEDERATION_FIELDS, *kit._KEY_FIELDS, *kit.EGRESS_LIMITS],
        ),
        ("reference/deployment-files.md", [*ledger._FIELDS, *ledger._RECORD_FIELDS, *ledger.VERDICTS]),
        ("reference/run-directory.md", [*Results("", 0, [], [], {}).to_dict(), "raw_nifti_bytes", *COLUMNS, *MEASURES]),
        ("how-to/brats-downloads.md", [name for r in RELEASES.values() for name in r.seg_aliases.values()]),
    ],
)
def test_every_field_is_named(name: str, fields: list[str]) -> None:
    text = page(name)
    assert [field for field in fields if f"`{field}`" not in text and f"`{field}." not in text] == []


def test_the_table_of_releases_says_what_the_code_takes() -> None:
    rows = [line for line in page("reference/releases.md").splitlines() if line.startswith(("| `brats", "| `fets"))]
    told = {}
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) < 6:
            continue
        name, example, ends, labels, regions, grid = cells
        of_regions = {}
        for region in regions.split("; "):
            word, *values = region.split()
            of_regions[word.lower()] = tuple(map(int, values))
        size = None if grid == "–" else tuple(map(int, grid.split(" × ")))
        stems = [end.strip("`") for end in ends.split(", ")]
        told[name.strip("`")] = (example.strip("`"), stems, tuple(map(int, labels.split(","))), of_regions, size)
    assert told == {
        name: (
            release.example,
            [release.file_stem("", channel) for channel in (*release.modalities, "seg")],
            release.labels[1:],
            release.regions,
            release.grid,
        )
        for name, release in RELEASES.items()
    }


def test_releases_that_pages_declare_are_declared_rightly() -> None:
    files = [tomllib.loads(block.text) for one in PAGES for block in blocks(one) if block.language == "toml"]
    releases = [own_release(table, "page") for file in files for table in file.get("release", [])]
    assert [release.name for release in releases] == ["upenn-gbm", "ucsf-pdgm"]


def test_headers_of_the_table_of_cases_are_named() -> None:
    text = page("how-to/divide-into-hospitals.md").lower().replace("_", "")
    assert [header for header in (*INSTITUTION, *DATE) if header not in text] == []


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
