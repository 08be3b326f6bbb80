"""Real patients under their true hospitals, if FEDSERDIFF_REAL names a folder of them.

It holds two federation files, volumes.toml and lesions.toml, and their scans: whole brains at 2 mm, and crops of 32³
voxels about a lesion. What is expected is read from the files themselves, by other ways than the product's.
"""

import os
import tomllib
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from fedserdiff.experiments.opened_federation import Federation, open_federation
from fedserdiff.federation import read_federation
from fedserdiff.settings.sources import make_settings

FOLDER = os.environ.get("FEDSERDIFF_REAL")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="FEDSERDIFF_REAL names no folder of real hospitals")

LABELS = {"tc": (1, 4), "wt": (1, 2, 4), "et": (4,)}
FILES = {  # grid, mm a voxel, and how many hospitals and patients there are
    "volumes": ((24, 32, 24), 6.0, 4, 34),
    "lesions": ((16, 16, 16), 4.0, 6, 213),
}
FEWEST = {"tc": 0.9, "wt": 1.0, "et": 0.7}  # share of patients who have the region: some low grades do not enhance


@pytest.fixture(scope="module", params=FILES)
def named(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def federation(named: str, tmp_path_factory: pytest.TempPathFactory) -> Federation:
    """The federation as a simulation opens it."""
    grid, spacing_mm, *_ = FILES[named]
    assert FOLDER is not None
    config = make_settings("smoke", {"data.grid": grid, "data.spacing_mm": spacing_mm})
    return open_federation(config, read_federation(Path(FOLDER) / f"{named}.toml"), tmp_path_factory.mktemp(named))


@cache
def _labels(seg: Path) -> dict[int, int]:
    """Return how many voxels of a file have each label."""
    values, counts = np.unique(np.asarray(nib.load(seg).dataobj), return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def test_every_patient_is_at_the_hospital_that_the_file_names(federation: Federation, named: str) -> None:
    assert FOLDER is not None
    with (Path(FOLDER) / f"{named}.toml").open("rb") as file:
        written = {site["name"]: site["cases"] for site in tomllib.load(file)["site"]}
    opened = {h.site.name: [cached.case.name for cached in h.cases] for h in federation.hospitals}
    *_, hospitals, patients = FILES[named]
    assert (len(opened), sum(map(len, opened.values()))) == (hospitals, patients)
    assert opened == {site: sorted(cases) for site, cases in written.items()}
    assert list(opened) == list(written), "in order of arrival"


def test_no_patient_is_at_two_hospitals_or_on_both_sides_of_a_split(federation: Federation) -> None:
    assert federation.overlaps == ()
    assert federation.skipped == ()
    hashes = [cached.prepared.voxel_hash for h in federation.hospitals for cached in h.cases]
    assert len(set(hashes)) == len(hashes)
    for hospital in federation.hospitals:
        trained, tested = ({c.case.patient for c in cases} for cases in (hospital.training, hospital.test))
        assert trained
        assert tested
        assert not trained & tested


def test_regions_are_those_of_the_labels_that_the_files_hold(federation: Federation) -> None:
    for cached in (cached for hospital in federation.hospitals for cached in hospital.cases):
        labels = _labels(cached.case.seg)
        assert set(labels) <= {0, 1, 2, 4}, cached.case.name
        expected = [sum(labels.get(value, 0) for value in values) for values in LABELS.values()]
        assert cached.prepared.truth.sum((1, 2, 3), dtype=np.int64).tolist() == expected, cached.case.name


def test_each_region_is_there_as_often_as_patients_have_it(federation: Federation) -> None:
    cases = [cached for hospital in federation.hospitals for cached in hospital.cases]
    for number, (region, fewest) in enumerate(FEWEST.items()):
        seen = [bool(cached.prepared.mask[number].any()) for cached in cases]
        assert np.mean(seen) >= fewest, region


def test_prepared_images_are_whole_and_of_one_scale(federation: Federation, named: str) -> None:
    grid, *_ = FILES[named]
    for cached in (cached for hospital in federation.hospitals for cached in hospital.cases):
        image = cached.prepared.image.astype(np.float32)
        assert image.shape == (4, *grid)
        assert np.isfinite(image).all()
        brain = (image != 0).any(0)
        assert brain.any()
        assert np.abs(image[:, brain].mean(1)).max() < 0.5
        assert image[:, brain].std(1).min() > 0.3
